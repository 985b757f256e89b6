"""The end lies inside the range that was told, whatever the schedule, also with a slow rank."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from scripts.checks.time_left import judge, simulated
from tests.snapshots import row, snapshot
from vpdist.commands.told_to_displays import TableSteps
from vpdist.display.rates import Rates
from vpdist.display.time_left import CHECK_S_PER_UNIT, UNSURE, Span, coming_left, to_come
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


TO_COME = RunFacts(command="predict", coming=("check", "tables"), n_units=1000, n_fragments=10_000)


def test_stages_that_come_take_longer_where_parts_have_taken_longer_to_write() -> None:
    def coming(write_us: int) -> Span:
        rows = (row(rank, units=100, write_us=write_us) for rank in range(2))
        return coming_left(replace(snapshot(60, *rows), run=TO_COME), "embed")

    idle, slow = coming(100 * 4000), coming(100 * 24_000)
    assert slow.least == pytest.approx(6 * idle.least)
    assert slow.most == pytest.approx(6 * idle.most)
    assert coming(100 * 1000) == idle, "a disk that keeps parts in memory makes nothing faster"


def test_what_parts_took_to_be_checked_counts_for_the_tables_to_come() -> None:
    run = replace(TO_COME, coming=("tables",), stages=(("embed", 0.0), ("check", 50.0)))

    def coming(steps: int) -> Span:
        written = {"units": 100, "write_us": 400_000}
        checking = row(0, stage="check", steps=steps, planned_steps=1000, base=written, **written)
        return coming_left(replace(snapshot(60, checking), run=run), "check")

    assert coming(500).least > 3 * coming(5000).least
    by_check_alone = 10 / 500 / CHECK_S_PER_UNIT * (0.5 + 2 + 0.3) / UNSURE
    assert coming(500).least < by_check_alone, "what was written counts, too: the first parts checked do not decide"


def test_tables_that_rank_0_has_begun_while_others_check_are_in_the_time_left() -> None:
    run = replace(TO_COME, coming=(), stages=(("embed", 0.0), ("check", 50.0), ("tables", 60.0)))
    rows = [row(0, stage="tables"), row(1, stage="check", steps=500, planned_steps=500)]
    assert to_come(replace(snapshot(61, *rows), run=run), "check") == ("tables",)
    assert coming_left(replace(snapshot(61, *rows), run=run), "check").least > 1


def test_a_rank_whose_rate_went_up_and_down_has_a_wider_range() -> None:
    def after(rates: tuple[int, ...]) -> Span:
        done, rows = 0, []
        for second in range(121):
            rows.append((second, [row(nucleotide_tokens=done, planned_tokens=24_000)]))
            done += rates[min(3, second // 30)]
        span = left_after(*rows).run_left  # type: ignore[arg-type]
        assert span is not None
        return span

    even, uneven = after((100, 100, 100, 100)), after((140, 60, 120, 80))
    assert even.most - even.least < 20
    assert uneven.most - uneven.least > 60
    assert uneven.least < 120 < uneven.most


def test_the_last_unit_of_the_slowest_rank_belongs_to_a_dynamic_run() -> None:
    def at(second: int, units: bool) -> tuple[int, list[object]]:
        def rank(number: int, pace: int) -> object:
            done = {"nucleotide_tokens": pace * second, "units": pace * second // 400 if units else 0}
            return row(number, shared=True, planned_tokens=20_000, planned_units=50, **done)

        return second, [rank(0, 100), rank(1, 10)]

    with_units, without = (
        left_after(*(at(second, units) for second in range(0, 301, 10))).run_left for units in (True, False)
    )
    assert with_units is not None
    assert without is not None
    assert with_units.least == without.least
    assert with_units.most > without.most + 40, "a unit takes the slow rank 40 s"


def test_the_steps_of_tables_end_with_all_files_in_their_place() -> None:
    told: list[int] = []
    progress = SimpleNamespace(plan_steps=told.append, add=lambda steps: told.append(steps))
    control = SimpleNamespace(progress=progress, raise_if_ending=lambda: None)
    summary = SimpleNamespace(fragments_per_block=(10, 700), n_fragments=710)
    steps = TableSteps(control, summary, 3, files=2)  # type: ignore[arg-type]
    for done, times in ((steps.unit, 3), (steps.block, 2), (steps.file, 2), (steps.end, 1)):
        for _ in range(times):
            done()
    planned, *added = told
    assert sum(added) == planned
    assert all(added)
