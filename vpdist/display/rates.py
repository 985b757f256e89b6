"""From snapshots to what displays show: share done, rates, time left, per rank and for all ranks.

Enters: snapshots, the older first. Leaves: a `Line` per rank, one for all, and the time left. All displays show these.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from vpdist.display.rank_history import MEASURED, RankHistory
from vpdist.display.time_left import RankLeft, Span, done_and_planned, ranks_left, run_left, stage_left
from vpdist.monitoring.counters import COUNTER_INDEX, SCORE_BINS, STAGES, UNKNOWN, RankRow, Snapshot
from vpdist.monitoring.facts import RankFacts

COUNTED = ("records", "bases", "fragments", "units", "failures")
PLACES = tuple((name, COUNTER_INDEX[name]) for name in COUNTED)
STRAGGLES_BELOW = 0.85
"""Of the median rate of ranks with the same type of device."""
CURVE_POINTS = 64
"""Rates of the whole run that are kept for a curve."""
ORDER = ("lost", "running", "stalled", "waiting")


@dataclass(frozen=True, slots=True)
class Shares:
    """Of a rank's time, each from 0 to 1; the rest it was idle."""

    compute: float
    wait: float
    """For other ranks, and for tokens to be read."""
    write: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a display shows of one rank, or of all ranks."""

    label: str
    state: str
    stage: str
    silent_s: float = 0.0
    done: int = 0
    planned: int = 0
    """Tokens; or units or steps if only those are planned; 0 if nothing is."""
    tokens_per_s: float | None = None
    """None where it is not known."""
    fragments_per_s: float | None = None
    limit_share: float | None = None
    """Operations in a second as a share of those of plain products; None where either is not known."""
    left_s: float | None = None
    memory_bytes: int = 0
    utilisation: int = UNKNOWN
    counts: dict[str, int] = field(default_factory=dict)
    """Counters since the stage began, and `tokens` of all encoders."""
    facts: RankFacts = field(default_factory=RankFacts)
    shares: Shares | None = None
    power_w: float | None = None
    temperature: int | None = None
    throttle: int = 0
    straggles: bool = False
    costs_s: float = 0.0
    """How much later the run ends because this rank straggles."""

    @property
    def fraction(self) -> float | None:
        """Fraction done, 0 to 1; None if unknown."""
        if self.planned > 0:
            return min(1.0, self.done / self.planned)
        return 1.0 if self.state == "done" else None


class Rates:
    """The lines to show for the newest snapshot that was given."""

    def __init__(self) -> None:
        self._histories: dict[int, RankHistory] = {}
        self._stage = ""
        self._share_of: dict[int, tuple[int, int]] = {}
        self.lines: list[Line] = []
        """One per rank."""
        self.total = Line(label="all", state="running", stage=STAGES[0])
        self.stage_left: Span | None = None
        """Seconds until this stage ends."""
        self.run_left: Span | None = None
        """Seconds until the run ends."""
        self.last: int | None = None
        """The rank that probably ends last, if the ranks have shares of their own."""
        self.ends_within_s = 0.0
        """How far the ranks' ends lie apart."""
        self.curve: list[tuple[float, float]] = []
        """(elapsed, tokens per second) since the run began, at about equal distances."""
        self._curve_spacing_s = 1.0

    def observe(self, snapshot: Snapshot) -> None:
        """Update from a newer snapshot."""
        elapsed, rows = snapshot.elapsed, snapshot.rows
        if snapshot.stage != self._stage:
            self._stage, self._share_of = snapshot.stage, {}
        begins = dict(snapshot.run.stages)  # of a run that is looked at from its middle on
        for row in rows:
            history = self._histories.get(row.rank)
            if history is None or history.stage != row.stage:
                began = begins.get(row.stage) if history is None else None
                self._histories[row.rank] = RankHistory.of(row, elapsed, began)
            else:
                history.observe(row, elapsed)
        left = ranks_left(rows, self._histories, self._stage)
        self._look_ahead(snapshot, left)
        seconds = {each.rank: each.seconds for each in left}
        facts = snapshot.facts or (RankFacts(),) * len(rows)
        rates = [None if row.state in ("done", "lost") else self._histories[row.rank].per_s(elapsed) for row in rows]
        slow = self._stragglers(rows, rates, facts)
        self.lines = [
            self._line(row, rate, fact, seconds, row.rank in slow)
            for row, rate, fact in zip(rows, rates, facts, strict=True)
        ]
        self.total = self._sum(snapshot)
        self._add_to_curve(elapsed)

    def _look_ahead(self, snapshot: Snapshot, left: list[RankLeft]) -> None:
        self.stage_left = stage_left(left, snapshot.rows, self._stage)
        self.run_left = run_left(snapshot, left, self._stage)
        own = [each for each in left if each.seconds > 0] if not any(row.shared for row in snapshot.rows) else []
        self.last = max(own, key=lambda each: each.seconds).rank if len(own) > 1 else None
        ends = [each.seconds for each in own]
        self.ends_within_s = max(ends) - min(ends) if len(own) == len(snapshot.rows) else 0.0
        self._usual_s = median(ends) if ends else 0.0

    def _stragglers(
        self, rows: tuple[RankRow, ...], rates: list[tuple[float, ...] | None], facts: tuple[RankFacts, ...]
    ) -> set[int]:
        """Ranks whose rate is far below that of the others with such a device, while they embed."""
        by_type: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for row, rate, fact in zip(rows, rates, facts, strict=True):
            if rate is not None and row.stage == "embed" and row.state == "running":
                measure = MEASURED.index("work_mflop") if row.planned_work else 0
                by_type[fact.device].append((row.rank, rate[measure]))
        slow = set()
        for of_type in by_type.values():
            bound = STRAGGLES_BELOW * median(rate for _, rate in of_type)
            slow |= {rank for rank, rate in of_type if rate < bound}
        return slow

    def _line(
        self, row: RankRow, rate: tuple[float, ...] | None, facts: RankFacts, seconds: dict[int, float], slow: bool
    ) -> Line:
        done, planned, _ = done_and_planned(row)
        if row.stage == self._stage:
            self._share_of[row.rank] = (done, planned)
        per_s = dict(zip(MEASURED, rate, strict=True)) if rate is not None and row.state == "running" else {}
        limit = per_s.get("work_mflop", 0.0) / facts.limit_mflops if facts.limit_mflops else 0.0
        left_s = seconds.get(row.rank) if row.state == "running" and row.stage == self._stage else None
        return Line(
            label=f"rank {row.rank}",
            state=row.state,
            stage=row.stage,
            silent_s=row.silent_s,
            done=done,
            planned=planned,
            tokens_per_s=per_s.get("tokens") or None,
            fragments_per_s=per_s.get("fragments") or None,
            limit_share=limit or None,
            left_s=left_s,
            memory_bytes=row.memory_bytes,
            utilisation=row.utilisation,
            counts={"tokens": row.tokens, **{name: row.counters[at] - row.base[at] for name, at in PLACES}},
            facts=facts,
            shares=_shares(row, per_s),
            power_w=None if row.power_mw == UNKNOWN else row.power_mw / 1000,
            temperature=None if row.temperature == UNKNOWN else row.temperature,
            throttle=max(0, row.throttle),
            straggles=slow,
            costs_s=max(0.0, (left_s or 0.0) - self._usual_s) if slow and not row.shared else 0.0,
        )

    def _sum(self, snapshot: Snapshot) -> Line:
        done = planned = 0
        for row in snapshot.rows:  # a rank in a later stage has done its share of this one
            rank_done, rank_planned = self._share_of.get(row.rank, (0, 0))
            is_later = row.stage != self._stage
            done += rank_planned if is_later and not row.shared else rank_done
            planned += rank_planned
        here = [line for line in self.lines if line.stage == self._stage]
        states = {line.state for line in self.lines}
        readings = [line.utilisation for line in self.lines if line.utilisation >= 0]
        shares = [line.limit_share for line in self.lines if line.limit_share is not None]
        powers = [line.power_w for line in self.lines if line.power_w is not None]
        return Line(
            label="all",
            state=next((state for state in ORDER if state in states), "done"),
            stage=self._stage,
            silent_s=max(row.silent_s for row in snapshot.rows),
            done=min(done, planned) if planned else done,
            planned=planned,
            tokens_per_s=sum(line.tokens_per_s or 0.0 for line in self.lines) or None,
            fragments_per_s=sum(line.fragments_per_s or 0.0 for line in self.lines) or None,
            limit_share=sum(shares) / len(shares) if shares else None,
            left_s=None if self.stage_left is None or "stalled" in states else self.stage_left.middle,
            memory_bytes=sum(line.memory_bytes for line in self.lines),
            utilisation=round(sum(readings) / len(readings)) if readings else UNKNOWN,
            counts={name: sum(line.counts[name] for line in here) for name in ("tokens", *COUNTED)},
            power_w=sum(powers) if powers else None,
        )

    def _add_to_curve(self, elapsed: float) -> None:
        rate = self.total.tokens_per_s
        if rate is None or (self.curve and elapsed - self.curve[-1][0] < self._curve_spacing_s):
            return
        self.curve.append((elapsed, rate))
        if len(self.curve) > CURVE_POINTS:
            self.curve, self._curve_spacing_s = self.curve[::2], 2 * self._curve_spacing_s


def _shares(row: RankRow, per_s: dict[str, float]) -> Shares | None:
    if row.state == "waiting":
        return Shares(0.0, 1.0, 0.0)
    if not per_s or not any(per_s[name] for name in ("compute_us", "load_us", "wait_us", "write_us")):
        return None
    compute, write = (min(1.0, per_s[name] / 1e6) for name in ("compute_us", "write_us"))
    return Shares(compute, min(1.0 - compute, (per_s["load_us"] + per_s["wait_us"]) / 1e6), write)


def score_counts(snapshot: Snapshot) -> list[int]:
    """Rows of all ranks by virus score, in eighths."""
    totals = snapshot.totals
    return [totals[name] for name in SCORE_BINS]
