"""Since when each rank has not reported, by one process's clock.

Enters: the matrix of all ranks' vectors, whenever one arrives. Leaves: each rank's state and a `Snapshot`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from vpdist.monitoring.counters import FIRST_BASE, FIRST_STATE, STAGES, Cell, RankRow, Snapshot, empty_vector
from vpdist.monitoring.facts import RankFacts, RunFacts

USUAL_INTERVALS = 5
"""A computing rank is stalled after this many of its usual intervals between batches, if that is longer than
`stalled_s`."""


class Liveness:
    """Since when each rank has been silent, by this process's clock (so clocks need not agree).

    A rank's `beat` increases while its process runs, its `tick` with every call of its main thread.
    """

    def __init__(self, ranks: int, now: float, stalled_s: float) -> None:
        self._stalled_s = stalled_s
        self.matrix = np.tile(empty_vector(), (ranks, 1))
        """The newest vectors, (ranks, WIDTH) int64."""
        self._tick_at = np.full(ranks, now)
        self._beat_at = np.full(ranks, now)
        self._usual_s = np.zeros(ranks)

    def observe(self, matrix: np.ndarray, now: float) -> None:
        """Update from vectors of all ranks, (ranks, WIDTH); a row with a lower `beat` than known is ignored."""
        fresh = matrix[:, Cell.BEAT] >= self.matrix[:, Cell.BEAT]
        ticks = np.where(fresh, matrix[:, Cell.TICK] - self.matrix[:, Cell.TICK], 0)
        moved = ticks > 0
        interval_s = (now - self._tick_at) / np.maximum(ticks, 1)
        usual_s = np.where(self._usual_s == 0, interval_s, 0.7 * self._usual_s + 0.3 * interval_s)
        self._usual_s = np.where(moved & self._computing(), usual_s, self._usual_s)
        self._tick_at = np.where(moved, now, self._tick_at)
        self._beat_at = np.where(matrix[:, Cell.BEAT] > self.matrix[:, Cell.BEAT], now, self._beat_at)
        self.matrix = np.where(fresh[:, None], matrix, self.matrix)

    def _computing(self) -> np.ndarray:
        """Ranks that report with every batch: past their stage's first batch, neither waiting nor done."""
        return (self.matrix[:, Cell.ADDED] > 0) & (self.matrix[:, Cell.WAITING] == 0) & (self.matrix[:, Cell.DONE] == 0)

    def silent_s(self, now: float) -> np.ndarray:
        """Seconds without a report, per rank: from the main thread of computing ranks, else from the process."""
        return np.where(self._computing(), now - np.minimum(self._tick_at, self._beat_at), now - self._beat_at)

    def states(self, now: float, lost: Collection[int] = ()) -> list[str]:
        """running, waiting, done, stalled or lost, per rank."""
        usual_s = np.where(self._computing(), USUAL_INTERVALS * self._usual_s, 0.0)
        stalled = self.silent_s(now) > np.maximum(self._stalled_s, usual_s)
        is_lost = np.isin(np.arange(len(stalled)), list(lost))
        done, waiting = self.matrix[:, Cell.DONE] != 0, self.matrix[:, Cell.WAITING] != 0
        names = ["lost", "stalled", "done", "waiting"]
        return list(np.select([is_lost, stalled, done, waiting], names, "running").tolist())

    def snapshot(
        self,
        now: float,
        *,
        time: float,
        elapsed: float,
        source: str,
        ended: str | None = None,
        lost: Collection[int] = (),
        note: str = "",
        run: RunFacts | None = None,
        facts: tuple[RankFacts, ...] = (),
    ) -> Snapshot:
        """The newest vectors as a Snapshot."""
        silent_s, states = self.silent_s(now), self.states(now, lost)
        rows = tuple(
            RankRow(
                rank=rank,
                state=states[rank],
                stage=STAGES[row[Cell.STAGE]],
                silent_s=round(float(silent_s[rank]), 2),
                planned_tokens=row[Cell.PLANNED_TOKENS],
                planned_units=row[Cell.PLANNED_UNITS],
                shared=bool(row[Cell.SHARED]),
                memory_bytes=row[Cell.MEMORY],
                utilisation=row[Cell.UTILISATION],
                counters=tuple(row[:FIRST_BASE]),
                base=tuple(row[FIRST_BASE:FIRST_STATE]),
                planned_work=row[Cell.PLANNED_WORK],
                planned_steps=row[Cell.PLANNED_STEPS],
                power_mw=row[Cell.POWER_MW],
                temperature=row[Cell.TEMPERATURE],
                throttle=row[Cell.THROTTLE],
                energy_j=row[Cell.ENERGY_J],
            )
            for rank, row in enumerate(self.matrix.tolist())
        )
        return Snapshot(time, elapsed, source, rows, ended, note, run or RunFacts(), facts)
