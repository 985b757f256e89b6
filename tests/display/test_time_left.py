"""The end lies inside the range that was told, whatever the schedule, also with a slow rank."""

from dataclasses import replace

import pytest

from scripts.checks.time_left import judge, simulated
from tests.snapshots import row, snapshot
from vpdist.display.rates import Rates
from vpdist.display.time_left import Span
from vpdist.monitoring.facts import RunFacts


@pytest.mark.parametrize("shared", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("slow", [False, True], ids=["even ranks", "one slow rank"])
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_the_truth_lies_inside_in_four_of_five_snapshots(ranks: int, shared: bool, slow: bool) -> None:
    judged = judge(list(simulated(ranks, shared=shared, slow=slow, seed=5, seconds=400)))
    assert judged.told >= 0.9 * judged.snapshots
    assert judged.inside >= 0.8 * judged.told
    assert judged.width < 0.5


def left_after(*rows_at: tuple[int, list[object]], run: RunFacts | None = None) -> Rates:
    rates = Rates()
    for second, rows in rows_at:
        rates.observe(replace(snapshot(second, *rows), run=run or RunFacts()))  # type: ignore[arg-type]
    return rates


def test_long_sequences_count_by_their_operations_not_by_their_tokens() -> None:
    rows = [
        (second, [row(nucleotide_tokens=done, planned_tokens=1000, work_mflop=work, planned_work=10_000)])
        for second, done, work in ((0, 0, 0), (10, 500, 1000), (20, 900, 2000))
    ]
    rates = left_after(*rows)  # type: ignore[arg-type]
    assert rates.total.fraction == 0.9
    assert rates.run_left is not None
    assert rates.run_left.least < 80 < rates.run_left.most


def test_a_stall_does_not_make_a_rank_slow() -> None:
    def at(second: int, tokens: int, state: str = "running") -> tuple[int, list[object]]:
        return second, [row(0, state, nucleotide_tokens=tokens, planned_tokens=1000)]

    rates = left_after(at(0, 0), at(10, 100), at(20, 100, "stalled"), at(500, 100, "stalled"), at(510, 200))
    assert rates.run_left is not None
    assert rates.run_left.most < 250, "80 s at its pace, not 2,000"


def test_stages_that_come_are_in_the_time_left() -> None:
    rows = [(second, [row(nucleotide_tokens=10 * second, planned_tokens=400)]) for second in (0, 10)]
    now = left_after(*rows).run_left  # type: ignore[arg-type]
    coming = left_after(*rows, run=RunFacts(coming=("check", "tables"), n_units=10_000)).run_left  # type: ignore[arg-type]
    assert now is not None
    assert coming is not None
    assert coming.most > now.most + 10
    assert coming.least > now.least


def test_before_units_are_known_only_the_stage_has_a_time_left() -> None:
    rows = [(second, [row(stage="ingest", steps=second, planned_steps=40)]) for second in (0, 10)]
    rates = left_after(*rows, run=RunFacts(coming=("plan", "embed", "check")))  # type: ignore[arg-type]
    assert rates.run_left is None
    assert rates.stage_left is not None
    assert rates.stage_left.least < 30 < rates.stage_left.most


def test_a_command_that_does_not_tell_its_stages_has_a_time_left_of_this_one() -> None:
    rows = [(second, [row(stage="fit", units=second, planned_units=40)]) for second in (0, 10)]
    rates = left_after(*rows, run=RunFacts(stages=(("groups", 0.0), ("fit", 0.0))))  # type: ignore[arg-type]
    assert rates.run_left is None
    assert rates.stage_left is not None


def test_a_run_that_is_looked_at_from_its_middle_on_has_the_pace_of_its_whole_stage() -> None:
    run = RunFacts(command="predict", stages=(("start", 0.0), ("embed", 0.0)))
    rates = left_after((1000, [row(nucleotide_tokens=1000, planned_tokens=3000)]), run=run)
    assert rates.run_left is not None
    assert rates.run_left.least < 2000 < rates.run_left.most
    assert isinstance(rates.run_left, Span)


def test_one_slow_rank_is_marked_with_what_it_costs() -> None:
    def at(second: int) -> tuple[int, list[object]]:
        return second, [
            row(rank, nucleotide_tokens=pace * second, planned_tokens=10_000)
            for rank, pace in enumerate((100, 99, 101, 50))
        ]

    rates = left_after(at(0), at(10), at(20))
    assert [line.straggles for line in rates.lines] == [False, False, False, True]
    assert rates.last == 3
    assert rates.lines[3].costs_s == pytest.approx(100, rel=0.1)
    assert rates.ends_within_s == pytest.approx(101, rel=0.1)
