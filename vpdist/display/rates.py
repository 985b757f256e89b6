"""From snapshots to what displays show: fraction done, rates, time left, per rank and for all ranks.

Rates are smoothed over the last half minute, or over the last two reports if these are further apart.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from vpdist.monitoring.counters import STAGES, RankRow, Snapshot

WINDOW_S = 30.0
MEASURED = ("tokens", "fragments", "units")
COUNTED = ("records", "bases", "fragments", "units", "failures")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a display shows of one rank, or of all ranks."""

    label: str
    state: str
    stage: str
    silent_s: float = 0.0
    done: int = 0
    planned: int = 0
    """Tokens, or units if only those are planned; 0 if nothing is."""
    tokens_per_s: float = 0.0
    fragments_per_s: float = 0.0
    done_per_s: float = 0.0
    """Rate of `done`."""
    left_s: float | None = None
    memory_bytes: int = 0
    utilisation: int = -1
    counts: dict[str, int] = field(default_factory=dict)
    """Counters since the stage began, and `tokens` of all encoders."""

    @property
    def fraction(self) -> float | None:
        """Fraction done, 0 to 1; None if unknown."""
        if self.planned > 0:
            return min(1.0, self.done / self.planned)
        return 1.0 if self.state == "done" else None


class Rates:
    """The lines to show for the newest snapshot that was given."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[tuple[float, tuple[int, ...]]]] = {}
        self._stage_of: dict[int, str] = {}
        self._stage = ""
        self._planned_of: dict[int, tuple[int, int]] = {}
        self.lines: list[Line] = []
        """One per rank."""
        self.total = Line(label="all", state="running", stage=STAGES[0])

    def observe(self, snapshot: Snapshot) -> None:
        """Update from a newer snapshot."""
        if snapshot.stage != self._stage:
            self._stage, self._planned_of = snapshot.stage, {}
        for row in snapshot.rows:
            self._sample(row, snapshot.elapsed)
        self.lines = [self._line(row, snapshot.elapsed) for row in snapshot.rows]
        self.total = self._sum(snapshot)

    def _sample(self, row: RankRow, elapsed: float) -> None:
        measures = (row.tokens, row.in_stage("fragments"), row.in_stage("units"))
        if self._stage_of.get(row.rank) != row.stage:
            self._stage_of[row.rank] = row.stage
            self._samples[row.rank] = deque([(elapsed, measures)])
        samples = self._samples[row.rank]
        if samples[-1][1] != measures:
            samples.append((elapsed, measures))
        while len(samples) > 2 and samples[1][0] < elapsed - WINDOW_S:
            samples.popleft()

    def _rates(self, rank: int, elapsed: float) -> dict[str, float]:
        (since, first), (_, last) = self._samples[rank][0], self._samples[rank][-1]
        seconds = elapsed - since
        per_s = [(b - a) / seconds if seconds > 0 else 0.0 for a, b in zip(first, last, strict=True)]
        return dict(zip(MEASURED, per_s, strict=True))

    def _line(self, row: RankRow, elapsed: float) -> Line:
        rates = self._rates(row.rank, elapsed)
        if row.planned_tokens:
            done, planned, rate = row.tokens, row.planned_tokens, rates["tokens"]
        else:
            done, planned, rate = row.in_stage("units"), row.planned_units, rates["units"]
        if row.stage == self._stage:
            self._planned_of[row.rank] = (done, planned)
        inactive = row.state != "running"
        return Line(
            label=f"rank {row.rank}",
            state=row.state,
            stage=row.stage,
            silent_s=row.silent_s,
            done=done,
            planned=planned,
            tokens_per_s=0.0 if inactive else rates["tokens"],
            fragments_per_s=0.0 if inactive else rates["fragments"],
            done_per_s=0.0 if inactive else rate,
            left_s=None if inactive or rate <= 0 or not planned else max(0, planned - done) / rate,
            memory_bytes=row.memory_bytes,
            utilisation=row.utilisation,
            counts={"tokens": row.tokens, **{name: row.in_stage(name) for name in COUNTED}},
        )

    def _sum(self, snapshot: Snapshot) -> Line:
        done = planned = 0
        for row in snapshot.rows:  # a rank in a later stage has done its share of this one
            rank_done, rank_planned = self._planned_of.get(row.rank, (0, 0))
            is_later = row.stage != self._stage
            done += rank_planned if is_later and not row.shared else rank_done
            planned += rank_planned
        states = {row.state for row in snapshot.rows}
        active = [line for line in self.lines if line.state in ("running", "stalled") and line.stage == self._stage]
        readings = [line.utilisation for line in self.lines if line.utilisation >= 0]
        tokens_per_s = sum(line.tokens_per_s for line in self.lines)
        return Line(
            label="all",
            state=next((state for state in ("lost", "running", "stalled", "waiting") if state in states), "done"),
            stage=self._stage,
            silent_s=max(row.silent_s for row in snapshot.rows),
            done=done,
            planned=planned,
            tokens_per_s=tokens_per_s,
            fragments_per_s=sum(line.fragments_per_s for line in self.lines),
            left_s=self._left_s(active, done, planned, any(row.shared for row in snapshot.rows)),
            memory_bytes=sum(line.memory_bytes for line in self.lines),
            utilisation=round(sum(readings) / len(readings)) if readings else -1,
            counts={name: sum(line.counts[name] for line in self.lines) for name in ("tokens", *COUNTED)},
        )

    def _left_s(self, active: list[Line], done: int, planned: int, shared: bool) -> float | None:
        """Seconds until the slowest rank has done its share, or all together the rest if units are shared."""
        if not shared:
            left = [line.left_s for line in active if line.planned]
            known = [seconds for seconds in left if seconds is not None]
            return max(known) if known and len(known) == len(left) else None
        per_s = sum(line.done_per_s for line in active)
        return max(0, planned - done) / per_s if per_s > 0 else None
