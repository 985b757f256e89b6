"""A file per process that names the unit it computes, so that a crash can be traced to a unit.

RUN/at_work holds these files; a process that ends normally removes its own. Those found when a run is resumed are
counted per unit in run.json ("deaths"); a unit with too many crashes is computed by isolated_encoder.py. Nothing is
synced: what a process has written survives its crash, and a power cut is not a crash in a unit.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
from collections import Counter, deque

from vpdist.errors import VpdistError, WeightsError
from vpdist.storage.atomic_files import create_exclusively, read_json, read_limited, storage_error
from vpdist.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)


UNIT = re.compile("[0-9]{1,9}")
WIDTH = 64
"""Bytes of a file, so that a shorter text covers a longer one."""


class UnitsInProgress:
    """This process's file. Leaving the block removes it, unless a bug ends the block: that counts as a crash."""

    def __init__(self, folder: RunFolder, rank: int, most: int = 1) -> None:
        """`most`: number of units in progress: a GPU still computes one while the next is launched. Raises
        StorageError."""
        self._units: deque[int] = deque(maxlen=most)
        self.path = folder.at_work / f"rank{rank:05d}.{os.getpid()}.{secrets.token_hex(8)}"
        try:
            self._file = create_exclusively(self.path)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def __enter__(self) -> UnitsInProgress:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._file.close()
        if error is None or isinstance(error, VpdistError):
            with contextlib.suppress(OSError):  # then a crash too many is counted, which is harmless
                self.path.unlink(missing_ok=True)

    def begin(self, unit: int) -> None:
        """Record this unit, beside as many earlier ones as may still be in progress. Raises StorageError."""
        self._units.append(unit)
        try:
            os.pwrite(self._file.fileno(), " ".join(map(str, self._units)).ljust(WIDTH).encode(), 0)
        except OSError as error:
            raise storage_error(self.path, error) from error


def count_crashes(folder: RunFolder) -> dict[int, int]:
    """Number of crashes per unit, those recorded in RUN/at_work included; empties that folder.

    For rank 0, before any rank computes. Raises StorageError.
    """
    recorded = (read_json(folder.run) or {}).get("deaths")
    crashes: Counter[int] = Counter()
    for unit, times in recorded.items() if isinstance(recorded, dict) else ():
        if UNIT.fullmatch(unit) and type(times) is int:
            crashes[int(unit)] = times
    try:
        files = sorted(folder.at_work.iterdir())
        for path in files:
            units = read_limited(path, 4 * WIDTH, cut=True).decode(errors="replace").split()
            logger.warning("%s: its process crashed during unit(s) %s", path.name, " ".join(units) or "none")
            crashes.update(int(unit) for unit in units if UNIT.fullmatch(unit))
        if files:
            folder.update_run(deaths={str(unit): times for unit, times in sorted(crashes.items())})
        for path in files:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder.at_work, error, "read") from error
    return dict(crashes)


def two_lists_of_units(text: str, n_units: int) -> tuple[list[int], list[int]]:
    """What rank 0 has published, unless somebody else has: raises WeightsError for anything but units of the plan.

    Whether they are the right ones need not be known: what is left out is found missing, what is there is kept.
    """
    try:
        todo, crashing = json.loads(text)
        units = [*todo, *crashing]
    except (ValueError, TypeError):
        units = [None]
    if any(type(unit) is not int or not 0 <= unit < n_units for unit in units) or len({*units}) != len(units):
        raise WeightsError("the units left, as the ranks' key store has them, are not units of the plan")
    return todo, crashing
