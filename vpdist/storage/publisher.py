"""Finished parts are published beside the computation, by one thread: it is never waited for before the end.

Enters: numbers of units whose parts are written. Leaves: the units that could not be published, with the reason. While
the store is away units stay in the queue, which holds numbers only: a part is read again from the disk when it is its
turn.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue

from vpdist.errors import VpdistError
from vpdist.storage.object_stores import PATIENT_TRIES, Retries
from vpdist.storage.published import PublishedRun, StoreAway

logger = logging.getLogger(__name__)

POLL_S = 0.1
LAST_UPLOAD_S = 5.0
"""Seconds that a command which must end leaves to the upload at hand."""


class Publisher:
    """Publishes the parts of one rank, while the context lasts."""

    def __init__(self, address: str, plan: str, read: Callable[[int], bytes], retries: Retries) -> None:
        """`read` gives the bytes of a unit's part, and raises OSError. `retries` says how long the pauses after uploads
        that fail are, and how often a list of what is published is asked for."""
        self._stop = threading.Event()
        self._run = PublishedRun(address, replace(retries, tries=1, waiting=None))  # the queue is what tries again
        self._address, self._retries = address, retries
        self._pauses = self._new_pauses()
        self._plan, self._read = plan, read
        self._units: SimpleQueue[int] = SimpleQueue()
        self._asked = self._done = 0
        self._at_the_end, self._failed_in_a_row = False, 0
        """Whether nothing is computed any more; uploads in a row that have failed since then."""
        self._published: set[int] = set()
        self._thread = threading.Thread(target=self._work, name="publish", daemon=True)
        self.failed: dict[int, str] = {}
        """Why a unit is not published."""
        self.away = ""
        """Why units wait: what the store's last answer was, where it was none; empty once it takes parts again."""

    def _new_pauses(self) -> Iterator[float]:
        return replace(self._retries, tries=sys.maxsize).pauses()

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

    def last_tries(self) -> str:
        """Nothing is computed any more: from now on a store that stays away is given up, see PATIENT_TRIES. Returns
        why units wait, as `away`."""
        self._at_the_end = True
        return self.away

    def published(self) -> set[int]:
        """The units that are published; where the store does not answer, those of this rank that are known to be."""
        tries = 1 if self.away else self._retries.tries
        try:
            return PublishedRun(self._address, replace(self._retries, tries=tries)).units()
        except VpdistError as error:
            logger.warning("what is published is not known: %s", error)
            return set(self._published)

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
                self._run.add(unit, self._plan, self._read(unit))
            except StoreAway as error:
                self._later(unit, str(error))
                continue
            except (VpdistError, OSError) as error:
                self._fail(unit, str(error) or type(error).__name__)
            except Exception as error:
                logger.exception("unit %d is not published", unit)
                self._fail(unit, str(error) or type(error).__name__)
            else:
                self._succeed(unit)
            self._done += 1

    def _succeed(self, unit: int) -> None:
        if self.away:
            logger.info("the store takes parts again")
        self.away, self._pauses, self._failed_in_a_row = "", self._new_pauses(), 0
        self.failed.pop(unit, None)
        self._published.add(unit)

    def _later(self, unit: int, reason: str) -> None:
        """Put a unit back, and wait; at the end give all up after so many tries."""
        if not self.away:
            logger.warning("unit %d is not published yet: %s; it is tried again", unit, reason)
        self.away = reason
        self._failed_in_a_row += self._at_the_end
        if self._failed_in_a_row >= PATIENT_TRIES:
            self._give_up(unit, reason)
            return
        self._units.put(unit)
        self._stop.wait(next(self._pauses))

    def _give_up(self, unit: int, reason: str) -> None:
        """Fail a unit and all that wait with it: a store that is gone holds nothing up."""
        with suppress(Empty):
            while True:
                self._fail(unit, reason)
                self._done += 1
                unit = self._units.get_nowait()

    def _fail(self, unit: int, reason: str) -> None:
        self.failed[unit] = reason
        logger.warning("unit %d is not published: %s", unit, reason)
