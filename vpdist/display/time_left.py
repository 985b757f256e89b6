"""How long a run still takes: a range, from each rank's pace and what is left for it.

Enters: rows and histories of all ranks. Leaves: seconds, least and most, and what each rank takes. Times in which a
rank stood still are left out: nobody knows how long a stall lasts. `python -m scripts.checks.time_left RUN...` measures
how often the truth lies inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from vpdist.display.rank_history import RankHistory
from vpdist.monitoring.counters import RankRow, Snapshot

MARGIN, FIRST_MARGIN = 0.03, 0.8
"""By how much a pace may change: the least share, and that of a stage that has lasted for a second."""
WRITE_S_PER_UNIT, WRITE_BYTES_PER_S = 0.004, 150e6
CHECK_S_PER_UNIT, CHECK_BYTES_PER_S = 0.002, 300e6
TABLE_S, TABLE_S_PER_UNIT, TABLE_S_PER_FRAGMENT = 0.5, 0.002, 30e-6
"""What it takes to write a part, to open it and compare its digests, to begin and end the tables, to read the scores of
a part, and to write what the tables and the files beside them tell of a fragment, on two idle cores. By how much longer
parts take to be written and checked in this run, the stages that come take longer, too: a slow disk and a busy machine
slow all of them."""
LATER_STAGES = ("check", "tables")
SEVERAL_KINDS = 0.4
"""By how much the pace of the tables' steps may differ from kind to kind: reading scores, writing rows and files."""
REPORT_S = 1.0
"""Between two reports of a rank: nothing is known better than that."""
UNSURE = 2.0
"""A stage that has not begun may take so many times longer or shorter than is to be expected."""


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
    scatter: float = 0.0
    """How much its rate has differed from one quarter of the stage to the next, as a share."""
    unit_s: float = 0.0
    """What it takes for one unit; 0 where units are not counted."""

    @property
    def span(self) -> Span:
        margin = min(FIRST_MARGIN, math.hypot(_margin(self.active_s), self.scatter))
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
    shared = any(row.shared for row in here)
    if shared:  # a rank may have done more than an equal share
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
        if planned and rank in measured:
            history, (_, _, measure) = histories[rank], shares[rank]
            unit_s, _ = (history.paces("units") if shared else None) or (0.0, 0.0)
            scatter = max(history.scatter(measure), SEVERAL_KINDS if stage == "tables" else 0.0)
            made.append(RankLeft(rank, min(seconds), max(seconds), history.active_s, scatter, unit_s))
        elif planned:
            made.append(RankLeft(rank, min(seconds), max(seconds), 1.0))
    return made


def stage_left(left: Sequence[RankLeft], rows: Sequence[RankRow], stage: str) -> Span | None:
    """Seconds until this stage ends: until its slowest rank is through, or all together if they share the work."""
    if not left:
        return None
    spans = [each.span for each in left]
    if not any(row.shared for row in rows if row.stage == stage):
        return Span(max(span.least for span in spans), max(span.most for span in spans))
    together = Span(_together(span.least for span in spans), _together(span.most for span in spans))
    # The slowest rank may have begun a unit just before no other is left, and nobody helps it with that.
    last_unit_s = max(min(each.unit_s, span.most) for each, span in zip(left, spans, strict=True))
    return Span(together.least, max(together.most, min(together.most + last_unit_s, max(s.most for s in spans))))


def _together(seconds: Iterable[float]) -> float:
    """How long all take together for what each would do alone in so many seconds."""
    alone = list(seconds)
    return 1 / sum(1 / each for each in alone) if min(alone) > 0 else 0.0


def to_come(snapshot: Snapshot, stage: str) -> tuple[str, ...]:
    """The stages that follow this one, also those that rank 0 has begun while others are still in this one."""
    begun = [name for name, _ in snapshot.run.stages]
    later = begun[len(begun) - begun[::-1].index(stage) :] if stage in begun else []
    return (*later, *snapshot.run.coming)


def coming_left(snapshot: Snapshot, stage: str) -> Span:
    """Seconds that the stages take which follow this one."""
    run, rows, coming = snapshot.run, snapshot.rows, to_come(snapshot, stage)
    likely = 0.0
    if "check" in coming:
        likely += run.n_units * _check_s(snapshot) / len(rows) * _slower(snapshot, rows)
    if "tables" in coming:
        usual_s = TABLE_S + run.n_units * TABLE_S_PER_UNIT + run.n_fragments * TABLE_S_PER_FRAGMENT
        likely += usual_s * _slower(snapshot, rows[:1])  # rank 0 writes them
    return Span(likely / UNSURE, likely * UNSURE)


def _bytes_per_unit(snapshot: Snapshot) -> float:
    totals = snapshot.totals
    return totals["bytes_written"] / max(1, totals["units"])


def _check_s(snapshot: Snapshot) -> float:
    """What it takes to check a part of this size on an idle machine."""
    return CHECK_S_PER_UNIT + _bytes_per_unit(snapshot) / CHECK_BYTES_PER_S


def _slower(snapshot: Snapshot, rows: Sequence[RankRow]) -> float:
    """How many times as long as on an idle machine parts have taken these ranks so far, to be written and to be
    checked; 1 before there are any, and where they take less, as on a disk that keeps them in memory."""
    units = sum(row.count("units") for row in rows)
    taken_s = sum(row.count("write_us") for row in rows) / 1e6
    usual_s = units * (WRITE_S_PER_UNIT + _bytes_per_unit(snapshot) / WRITE_BYTES_PER_S)
    began = dict(snapshot.run.stages).get("check")
    checking = [row for row in rows if row.stage == "check" and row.state == "running"]
    if began is not None and checking:
        taken_s += (snapshot.elapsed - began) * len(checking)
        usual_s += sum(row.in_stage("steps") for row in checking) * _check_s(snapshot)
    return max(1.0, taken_s / usual_s) if usual_s > 0 else 1.0


def run_left(snapshot: Snapshot, left: Sequence[RankLeft], stage: str) -> Span | None:
    """Seconds until the run ends; None until it embeds, where nothing is planned, and of commands that do not tell
    which stages they have."""
    if snapshot.run.stages and not snapshot.run.command:
        return None
    of_stage = stage_left(left, snapshot.rows, stage)
    if of_stage is None or any(name not in LATER_STAGES for name in to_come(snapshot, stage)):
        return None
    whole = of_stage + coming_left(snapshot, stage)
    return Span(max(0.0, whole.least - REPORT_S), whole.most + REPORT_S)


def _margin(active_s: float) -> float:
    """The share by which a pace may change after a stage has lasted for so long."""
    return min(FIRST_MARGIN, MARGIN + (FIRST_MARGIN - MARGIN) / max(1.0, active_s) ** 0.6)
