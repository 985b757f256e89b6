"""How long a run still takes: a range, from each rank's pace and what is left for it.

Enters: rows and histories of all ranks. Leaves: seconds, least and most, and what each rank takes. Times in which a
rank stood still are left out: nobody knows how long a stall lasts. `python -m scripts.checks.time_left RUN...` measures
how often the truth lies inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from vpdist.display.rank_history import RankHistory
from vpdist.monitoring.counters import RankRow, Snapshot

MARGIN, FIRST_MARGIN = 0.03, 0.8
"""By how much a pace may change: the least share, and that of a stage that has lasted for a second."""
CHECK_S_PER_UNIT, CHECK_BYTES_PER_S = 0.004, 300e6
"""A rank opens a part and compares its digests: python -m scripts.bench.whole_runs, two cores."""
TABLE_S_PER_UNIT, TABLE_S_PER_FRAGMENT = 0.002, 60e-6
"""Rank 0 reads the scores of a part and writes the rows of a fragment and its chunks."""
WRITE_S_PER_UNIT, WRITE_BYTES_PER_S, MOST_SLOWER = 0.01, 150e6, 3.0
"""A rank writes a part, by the same; by how much longer it takes here, other stages take longer, too."""
LATER_STAGES = ("check", "tables")
UNSURE = 2.5
"""A stage that has not begun may take so many times longer or shorter than those figures say."""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds left: at least and at most."""

    least: float
    most: float

    def __add__(self, other: Span) -> Span:
        return Span(self.least + other.least, self.most + other.most)

    @property
    def middle(self) -> float:
        return (self.least + self.most) / 2


def done_and_planned(row: RankRow) -> tuple[int, int, str]:
    """What a rank has done of its share of the stage, that share (0 where it is not known), and the measure of both."""
    if row.planned_tokens:
        return row.tokens, row.planned_tokens, "tokens"
    if row.planned_units:
        return row.in_stage("units"), row.planned_units, "units"
    return min(row.in_stage("steps"), row.planned_steps), row.planned_steps, "steps"


def work_done_and_planned(row: RankRow) -> tuple[int, int, str]:
    """The same by operations where they are planned: long sequences take longer than their tokens tell."""
    if row.planned_work:
        return row.in_stage("work_mflop"), row.planned_work, "work_mflop"
    return done_and_planned(row)


@dataclass(frozen=True, slots=True)
class RankLeft:
    """How long one rank takes for what is left: its own share of this stage, or all by itself what all share."""

    rank: int
    least: float
    """Seconds, by the faster of its paces."""
    most: float
    active_s: float

    @property
    def span(self) -> Span:
        margin = _margin(self.active_s)
        return Span(self.least * (1 - margin), self.most * (1 + margin))

    @property
    def seconds(self) -> float:
        """The likely number of seconds."""
        return (self.least + self.most) / 2


def ranks_left(rows: Sequence[RankRow], histories: Mapping[int, RankHistory], stage: str) -> list[RankLeft]:
    """Every rank that works on this stage and has a share of it; ranks without a pace have the others' median. Empty
    while no rank has one, or nothing is planned."""
    here = [row for row in rows if row.stage == stage]
    shares = {row.rank: work_done_and_planned(row) for row in here}
    left = {rank: planned - done for rank, (done, planned, _) in shares.items()}
    if any(row.shared for row in here):  # a rank may have done more than an equal share
        left = dict.fromkeys(left, sum(left.values()))
    measured = {
        rank: paces
        for rank, (_, planned, measure) in shares.items()
        if planned and (paces := histories[rank].paces(measure)) is not None
    }
    if not measured:
        return []
    usual = (median(average for average, _ in measured.values()), median(recent for _, recent in measured.values()))
    made = []
    for rank, (_, planned, _) in shares.items():
        seconds = [max(0, left[rank]) * pace for pace in measured.get(rank, usual)]
        active_s = histories[rank].active_s if rank in measured else 1.0
        if planned:
            made.append(RankLeft(rank, min(seconds), max(seconds), active_s))
    return made


def stage_left(left: Sequence[RankLeft], rows: Sequence[RankRow], stage: str) -> Span | None:
    """Seconds until this stage ends: until its slowest rank is through, or all together if they share the work."""
    if not left:
        return None
    spans = [each.span for each in left]
    if not any(row.shared for row in rows if row.stage == stage):
        return Span(max(span.least for span in spans), max(span.most for span in spans))
    return Span(_together(span.least for span in spans), _together(span.most for span in spans))


def _together(seconds: Iterable[float]) -> float:
    """How long all take together for what each would do alone in so many seconds."""
    alone = list(seconds)
    return 1 / sum(1 / each for each in alone) if min(alone) > 0 else 0.0


def coming_left(snapshot: Snapshot) -> Span:
    """Seconds that the stages take which have not begun."""
    run, totals = snapshot.run, snapshot.totals
    written = max(1, totals["units"])
    bytes_per_unit = totals["bytes_written"] / written
    likely = 0.0
    if "check" in run.coming:
        likely += run.n_units * (CHECK_S_PER_UNIT + bytes_per_unit / CHECK_BYTES_PER_S) / len(snapshot.rows)
    if "tables" in run.coming:
        likely += run.n_units * TABLE_S_PER_UNIT + run.n_fragments * TABLE_S_PER_FRAGMENT
    expected_s = WRITE_S_PER_UNIT + bytes_per_unit / WRITE_BYTES_PER_S
    slower = max(1.0, min(MOST_SLOWER, totals["write_us"] / 1e6 / written / expected_s))
    return Span(likely / UNSURE, likely * slower * UNSURE)


def run_left(snapshot: Snapshot, left: Sequence[RankLeft], stage: str) -> Span | None:
    """Seconds until the run ends; None until it embeds, where nothing is planned, and of commands that do not tell
    which stages they have."""
    if snapshot.run.stages and not snapshot.run.command:
        return None
    of_stage = stage_left(left, snapshot.rows, stage)
    if of_stage is None or any(name not in LATER_STAGES for name in snapshot.run.coming):
        return None
    return of_stage + coming_left(snapshot)


def _margin(active_s: float) -> float:
    """The share by which a pace may change after a stage has lasted for so long."""
    return min(FIRST_MARGIN, MARGIN + (FIRST_MARGIN - MARGIN) / max(1.0, active_s) ** 0.6)
