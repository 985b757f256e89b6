"""Who is silent: when each rank was last heard of, judged by one process's clock.

Enters: the matrix of all ranks' vectors, whenever one comes. Leaves: each rank's state and a `Snapshot`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from vpdist.monitoring.counters import (
    ADDED,
    BEAT,
    DONE,
    FIRST_BASE,
    FIRST_STATE,
    MEMORY,
    PLANNED_TOKENS,
    PLANNED_UNITS,
    SHARED,
    STAGE,
    STAGES,
    TICK,
    UTILISATION,
    WAITING,
    RankRow,
    Snapshot,
    empty_vector,
)

USUAL_INTERVALS = 5
"""A working rank counts as stalled after this many of its usual intervals, if that is more than the least time."""


class Liveness:
    """Since when each rank has been silent, by the clock of the one who looks (so clocks need not agree).

    A rank's `beat` moves while its process lives, its `tick` with everything that its main thread does.
    """

    def __init__(self, ranks: int, now: float, stalled_s: float) -> None:
        """A rank is stalled after `stalled_s` seconds of silence, or USUAL_INTERVALS usual intervals if longer."""
        self._stalled_s = stalled_s
        self._matrix = np.tile(empty_vector(), (ranks, 1))
        self._tick_at = np.full(ranks, now)
        self._beat_at = np.full(ranks, now)
        self._usual_s = np.zeros(ranks)

    @property
    def matrix(self) -> np.ndarray:
        """The newest vectors, (ranks, WIDTH) int64."""
        return self._matrix

    def observe(self, matrix: np.ndarray, now: float) -> None:
        """Take in newer vectors of all ranks, (ranks, WIDTH); a row with a lower `beat` than known is ignored."""
        fresh = matrix[:, BEAT] >= self._matrix[:, BEAT]
        ticks = np.where(fresh, matrix[:, TICK] - self._matrix[:, TICK], 0)
        moved = ticks > 0
        interval_s = (now - self._tick_at) / np.maximum(ticks, 1)
        usual_s = np.where(self._usual_s == 0, interval_s, 0.7 * self._usual_s + 0.3 * interval_s)
        self._usual_s = np.where(moved & self._at_work(), usual_s, self._usual_s)
        self._tick_at = np.where(moved, now, self._tick_at)
        self._beat_at = np.where(matrix[:, BEAT] > self._matrix[:, BEAT], now, self._beat_at)
        self._matrix = np.where(fresh[:, None], matrix, self._matrix)

    def _at_work(self) -> np.ndarray:
        """Ranks that owe a sign of life with every batch: past their stage's first batch, neither waiting nor done."""
        return (self._matrix[:, ADDED] > 0) & (self._matrix[:, WAITING] == 0) & (self._matrix[:, DONE] == 0)

    def silent_s(self, now: float) -> np.ndarray:
        """Seconds without a sign of life, per rank: of the main thread for ranks at work, else of the process."""
        return np.where(self._at_work(), now - np.minimum(self._tick_at, self._beat_at), now - self._beat_at)

    def states(self, now: float, lost: Collection[int] = ()) -> list[str]:
        """running, waiting, done, stalled or lost, per rank."""
        patience_s = np.where(self._at_work(), USUAL_INTERVALS * self._usual_s, 0.0)
        stalled = self.silent_s(now) > np.maximum(self._stalled_s, patience_s)
        states = []
        for rank, row in enumerate(self._matrix):
            if rank in lost:
                states.append("lost")
            elif stalled[rank]:
                states.append("stalled")
            else:
                states.append("done" if row[DONE] else "waiting" if row[WAITING] else "running")
        return states

    def snapshot(
        self,
        now: float,
        *,
        time: float,
        elapsed: float,
        source: str,
        ended: str | None = None,
        lost: Collection[int] = (),
    ) -> Snapshot:
        """The newest vectors as a Snapshot."""
        silent_s, states = self.silent_s(now), self.states(now, lost)
        rows = tuple(
            RankRow(
                rank=rank,
                state=states[rank],
                stage=STAGES[int(row[STAGE])],
                silent_s=round(float(silent_s[rank]), 2),
                planned_tokens=int(row[PLANNED_TOKENS]),
                planned_units=int(row[PLANNED_UNITS]),
                shared=bool(row[SHARED]),
                memory_bytes=int(row[MEMORY]),
                utilisation=int(row[UTILISATION]),
                counters=tuple(row[:FIRST_BASE].tolist()),
                base=tuple(row[FIRST_BASE:FIRST_STATE].tolist()),
            )
            for rank, row in enumerate(self._matrix)
        )
        return Snapshot(time, elapsed, source, rows, ended)
