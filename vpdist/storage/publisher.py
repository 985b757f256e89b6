"""Finished parts are published beside the computation, by one thread: it is never waited for before the end.

Enters: numbers of units whose parts are written. Leaves: the units that could not be published, with the reason. The
queue holds numbers only; a part is read again from the disk when it is its turn.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from queue import Empty, SimpleQueue

from vpdist.errors import VpdistError
from vpdist.storage.object_stores import Retries
from vpdist.storage.published import PublishedRun

logger = logging.getLogger(__name__)

POLL_S = 0.1
LAST_UPLOAD_S = 5.0
"""Seconds that a command which must end leaves to the upload at hand."""


class Publisher:
    """Publishes the parts of one rank, while the context lasts."""

    def __init__(self, address: str, plan: str, read: Callable[[int], bytes], retries: Retries) -> None:
        """`read` gives the bytes of a unit's part, and raises OSError."""
        self._stop = threading.Event()
        here = replace(retries, sleep=self._pause, waiting=None)  # of the thread, which the context waits for
        self._run, self._hasty = (PublishedRun(address, each) for each in (here, replace(here, tries=1)))
        self._listed = PublishedRun(address, replace(retries, tries=1))
        self._plan, self._read = plan, read
        self._units: SimpleQueue[int] = SimpleQueue()
        self._asked = self._done = 0
        self._thread = threading.Thread(target=self._work, name="publish", daemon=True)
        self.failed: dict[int, str] = {}
        """Why a unit is not published."""

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """What is not published by now is left."""
        self._stop.set()
        self._thread.join(LAST_UPLOAD_S)

    def add(self, unit: int) -> None:
        """Publish the part of a unit, soon."""
        self._asked += 1
        self._units.put(unit)

    def published(self) -> set[int]:
        """The units that are published; none where the store does not answer."""
        try:
            return self._listed.units()
        except VpdistError as error:
            logger.warning("what is published is not known: %s", error)
            return set()

    @property
    def idle(self) -> bool:
        """Whether all that was asked for is published, or has failed."""
        return self._done == self._asked

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                unit = self._units.get(timeout=POLL_S)
            except Empty:
                continue
            try:
                run = self._hasty if self.failed else self._run  # so that a store that is gone holds nothing up
                run.add(unit, self._plan, self._read(unit))
                self.failed.pop(unit, None)
            except Stopped:
                return
            except (VpdistError, OSError) as error:
                self._failed(unit, error)
            except Exception as error:
                logger.exception("unit %d is not published", unit)
                self._failed(unit, error)
            self._done += 1

    def _failed(self, unit: int, error: Exception) -> None:
        self.failed[unit] = str(error) or type(error).__name__
        logger.warning("unit %d is not published: %s", unit, self.failed[unit])


class Stopped(Exception):  # noqa: N818 - what the command is
    """The command ends; nothing more is published."""
