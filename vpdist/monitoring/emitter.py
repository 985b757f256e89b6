"""Snapshots from rank 0: the newest vectors, with what is known beside the counters, to whoever displays them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from vpdist.monitoring.counters import Cell, Snapshot
from vpdist.monitoring.facts import FactsOfAll, RunFacts
from vpdist.monitoring.liveness import Liveness

SNAPSHOT_S_PER_RANK = 1 / 80
"""Least time between snapshots, unless a stage or state changes: each costs some 30 microseconds a rank to make and to
show, and a thousand ranks are shown every 12 s."""


class Emitter:
    """Makes snapshots. `note` and `run` are set by the main thread; `facts` are every rank's."""

    def __init__(self, facts: FactsOfAll, on_snapshot: Callable[[Snapshot], None]) -> None:
        self.facts, self.note, self.run = facts, "", RunFacts()
        self.last: Snapshot | None = None
        self.start_time = time.monotonic()
        self._on_snapshot = on_snapshot
        self._emitted: tuple[object, ...] = ()
        self._next = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.start_time

    def emit(self, liveness: Liveness, source: str, ended: str | None, lost: Collection[int]) -> None:
        """A snapshot, unless the last one is not old enough and all ranks are in its stages and states."""
        now = time.monotonic()
        stages_and_states = (liveness.matrix[:, Cell.STAGE].tobytes(), liveness.states(now, lost))
        if ended is None and now < self._next and stages_and_states == self._emitted:
            return
        self._emitted = stages_and_states
        self._next = now + len(liveness.matrix) * SNAPSHOT_S_PER_RANK
        self.last = liveness.snapshot(
            now,
            time=time.time(),
            elapsed=now - self.start_time,
            source=source,
            ended=ended,
            lost=lost,
            note=self.note,
            run=self.run,
            facts=self.facts.all,
        )
        self._on_snapshot(self.last)
