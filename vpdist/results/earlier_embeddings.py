"""Embeddings that an earlier run holds, for the rows of this run's plan that hold the same fragments."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.parts import PartHeader
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile

logger = logging.getLogger(__name__)

PARTS_KEPT = 2
"""Parts of the earlier run that stay in memory: both plans are in the same order, so the next unit needs the same."""


@dataclass(frozen=True, slots=True)
class KnownRows:
    """Rows of a unit that need not be embedded."""

    positions: np.ndarray
    """(k,) ascending, in the unit."""
    embeddings: dict[str, np.ndarray]
    """(k, width) by kind, as stored."""


@dataclass(slots=True, kw_only=True)
class EarlierEmbeddings:
    """What is taken over from an earlier run, unit by unit."""

    folder: Path
    """The earlier run's folder of parts."""
    earlier_plan: Plan
    header: PartHeader
    """Of the earlier run's parts."""
    widths: Mapping[str, int]
    """Numbers in an embedding by kind."""
    plan: Plan
    earlier_row: np.ndarray
    """(r,) for each row of `plan` the equal row of `earlier_plan`, -1 where there is none."""
    unit_cost: np.ndarray
    """(u,) cost of each unit's other rows."""
    unit_tokens: np.ndarray
    """(u,) tokens of each unit's other rows."""
    _read: dict[int, dict[str, np.ndarray] | None] = field(default_factory=dict)
    """The latest parts."""

    @property
    def n_rows(self) -> int:
        return int((self.earlier_row >= 0).sum())

    def known(self, unit: int) -> KnownRows:
        """Rows of `unit` whose embeddings the earlier run holds. What has failed there, or cannot be read by now, is
        not among them. Raises StorageError."""
        rows = self.plan.rows(unit)
        earlier = np.asarray(self.earlier_row[rows.start : rows.stop])
        kinds = tuple(self.header.models)
        positions, pieces = [np.zeros(0, np.int64)], {kind: list[np.ndarray]() for kind in kinds}
        earlier_unit = np.searchsorted(self.earlier_plan.unit_row, earlier, side="right") - 1
        for number in np.unique(earlier_unit[earlier >= 0]).tolist():
            part = self._part(number)
            if part is None:
                continue
            wanted = np.flatnonzero((earlier >= 0) & (earlier_unit == number))
            inside = earlier[wanted] - self.earlier_plan.rows(number).start
            sound = part["failed"][inside] == 0
            positions.append(wanted[sound])
            for kind in kinds:
                pieces[kind].append(part[kind][inside[sound]])
        joined = np.concatenate(positions)
        order = np.argsort(joined)
        return KnownRows(joined[order], {kind: np.concatenate(all_)[order] for kind, all_ in pieces.items() if all_})

    def _part(self, unit: int) -> dict[str, np.ndarray] | None:
        """A part of the earlier run, None where it cannot be read. Raises StorageError."""
        if unit not in self._read:
            while len(self._read) >= PARTS_KEPT:
                del self._read[next(iter(self._read))]
            try:
                parts.check(self.folder, unit, self.earlier_plan, self.header, full=False)
                part = parts.read(self.folder, unit, ("failed", *self.header.models))
                if any(part[kind].shape[1] != width for kind, width in self.widths.items()):
                    raise DamagedFile(f"{parts.part_path(self.folder, unit)}: embeddings have another width")
                self._read[unit] = part
            except DamagedFile as reason:
                logger.warning("not taken over: %s", reason)
                self._read[unit] = None
        return self._read[unit]


def write_equal_rows(
    path: Path, plan_ids: tuple[str, str], earlier_row: np.ndarray, unit_cost: np.ndarray, unit_tokens: np.ndarray
) -> None:
    """Write what `map_equal_rows` returns; `plan_ids`: of this run and of the earlier one. Raises StorageError."""
    arrays = {"earlier_row": earlier_row, "unit_cost": unit_cost, "unit_tokens": unit_tokens}
    hdf5_files.write_atomic(path, arrays, {"plan": plan_ids[0], "earlier_plan": plan_ids[1]})


def map_equal_rows(
    path: Path, plan_ids: tuple[str, str], plan: Plan, earlier_plan: Plan
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(r,) earlier row of each row, (u,) cost and (u,) tokens of what is left of each unit, mapped from disk.

    Raises DamagedFile, also for the file of other plans.
    """
    with hdf5_files.opened(path) as file:
        found = hdf5_files.attributes(file)
        if (found.get("plan"), found.get("earlier_plan")) != plan_ids:
            raise DamagedFile(f"{path}: belongs to other plans")
        shapes = {"earlier_row": plan.n_rows, "unit_cost": plan.n_units, "unit_tokens": plan.n_units}
        arrays = {name: hdf5_files.map_dataset(file, name) for name in shapes}
        for name, n in shapes.items():
            least, most = (-1, earlier_plan.n_rows - 1) if name == "earlier_row" else (0, None)
            array = arrays[name]
            if array.dtype != np.int64 or array.shape != (n,) or int(array.min(initial=0)) < least:
                raise DamagedFile(f"{path}: {name} is not that of this plan")
            if most is not None and int(array.max(initial=-1)) > most:
                raise DamagedFile(f"{path}: {name} is not that of the earlier plan")
    return arrays["earlier_row"], arrays["unit_cost"], arrays["unit_tokens"]
