"""What one rank has reported in its present stage: enough of it for rates, now and on average, and no more.

Rates are smoothed over the last half minute, or over the last two reports if these are further apart; for the time left
also over the last quarter of the stage.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from vpdist.monitoring.counters import COUNTER_INDEX, RankRow

WINDOW_S = 30.0
MEASURED = ("tokens", "fragments", "units", "steps", "work_mflop", "compute_us", "load_us", "wait_us", "write_us")
PLACES = tuple(COUNTER_INDEX[name] for name in MEASURED[1:])
KEPT_OF_STAGE = 32
"""Reports of the whole stage that are kept, at about equal distances."""
RECENT_SHARE = 0.25
"""The last part of the stage, by which the average pace is corrected."""
QUARTERS = 4
INACTIVE = ("stalled", "lost")

Sample = tuple[float, tuple[int, ...]]
"""Seconds since the run began; values of MEASURED since the stage began."""


@dataclass(slots=True)
class RankHistory:
    """One rank's reports in its stage."""

    stage: str
    began: float
    """Seconds since the run began."""
    inactive_s: float = 0.0
    """Time in this stage in which the rank was stalled or lost."""
    recent: deque[Sample] = field(default_factory=deque)
    whole: list[Sample] = field(default_factory=list)
    _seen: float = 0.0
    _spacing_s: float = 1.0
    _scatter: tuple[tuple[float, int, str], float] | None = None
    """Of which reports and what, and how much."""

    @classmethod
    def of(cls, row: RankRow, elapsed: float, began: float | None = None) -> RankHistory:
        """From a rank's first report that is seen; `began`: when its stage began, where that was before."""
        first = (elapsed, measures(row))
        whole = [first] if began is None else [(began, (0,) * len(MEASURED)), first]
        return cls(row.stage, elapsed if began is None else began, 0.0, deque([first]), whole, elapsed)

    def observe(self, row: RankRow, elapsed: float) -> None:
        """A newer report of the same stage."""
        values = measures(row)
        recent = self.recent
        if row.state in INACTIVE:
            self.inactive_s += elapsed - self._seen
        self._seen = elapsed
        if recent[-1][1] != values:
            recent.append((elapsed, values))
            if elapsed - self.whole[-1][0] >= self._spacing_s:
                self.whole.append(recent[-1])
                if len(self.whole) > KEPT_OF_STAGE:
                    self.whole, self._spacing_s = self.whole[::2], 2 * self._spacing_s
        while len(recent) > 2 and recent[1][0] < elapsed - WINDOW_S:
            recent.popleft()

    def per_s(self, elapsed: float) -> tuple[float, ...] | None:
        """Rates of MEASURED over the window; None until there were two reports that differ."""
        (since, first), (_, last) = self.recent[0], self.recent[-1]
        if elapsed <= since or len(self.recent) < 2:
            return None
        return tuple((b - a) / (elapsed - since) for a, b in zip(first, last, strict=True))

    def paces(self, measure: str) -> tuple[float, float] | None:
        """Seconds that the rank takes for one of what `measure` counts: on average in this stage, and in its last
        quarter, both until its last report and without the time in which it stood still. None until something is
        done."""
        at = MEASURED.index(measure)
        until, values = self.recent[-1]
        active_s = self.active_s
        if active_s <= 0:
            return None
        done = values[at] - self.whole[0][1][at]  # it may have begun before its first report that was seen
        if done <= 0:
            return None
        average = active_s / done
        since = until - RECENT_SHARE * active_s
        start = next((sample for sample in reversed(self.whole) if sample[0] <= since), self.whole[0])
        if self.inactive_s > 0 or values[at] <= start[1][at]:
            return average, average
        return average, (until - start[0]) / (values[at] - start[1][at])

    def scatter(self, measure: str) -> float:
        """By how much the rate of `measure` differs between quarters of the stage so far: their standard deviation as a
        share of their mean. 0 where the rank stood still, or has too few reports to tell quarters apart."""
        if self.inactive_s > 0 or len(self.whole) <= 2 * QUARTERS:
            return 0.0
        so_far = (self._spacing_s, len(self.whole) // QUARTERS, measure)
        if self._scatter is None or self._scatter[0] != so_far:  # one more report changes it by little
            self._scatter = (so_far, _scatter(self.whole, MEASURED.index(measure)))
        return self._scatter[1]

    @property
    def active_s(self) -> float:
        """How long it has worked in this stage until its last report."""
        return self.recent[-1][0] - self.began - self.inactive_s


def measures(row: RankRow) -> tuple[int, ...]:
    """MEASURED of a row, since its stage began."""
    counters, base = row.counters, row.base
    return (row.tokens, *(counters[place] - base[place] for place in PLACES))


def _scatter(samples: list[Sample], at: int) -> float:
    first, last = samples[0][0], samples[-1][0]
    bounds = [first + (last - first) * quarter / QUARTERS for quarter in range(QUARTERS)]
    places = [next(sample for sample in samples if sample[0] >= bound) for bound in bounds]
    pairs = list(pairwise([*places, samples[-1]]))
    if any(after[0] <= before[0] for before, after in pairs):  # nothing was reported for more than a quarter
        return 0.0
    rates = [(after[1][at] - before[1][at]) / (after[0] - before[0]) for before, after in pairs]
    mean = sum(rates) / QUARTERS
    variance = sum((rate - mean) ** 2 for rate in rates) / (QUARTERS - 1)
    return math.sqrt(variance) / mean if mean > 0 else 0.0
