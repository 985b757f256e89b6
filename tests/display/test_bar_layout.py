from dataclasses import replace

import pytest

from tests.snapshots import row, snapshot
from vpdist.display.bar_layout import BarLetters, bar_lines
from vpdist.display.rates import Rates
from vpdist.monitoring.counters import RankRow

PLAIN = BarLetters("#", "", "-")


def drawn(rows: list[RankRow], width: int = 79, height: int = 22, later_s: float = 0.0) -> list[str]:
    """Lines drawn of a run ten seconds after the rows were all zero."""
    rates = Rates()
    start = [row(each.rank, planned_tokens=each.planned_tokens, stage=each.stage) for each in rows]
    rates.observe(snapshot(0, *start))
    newest = snapshot(10, *rows)
    rates.observe(newest)
    return [text.plain for text in bar_lines(rates, newest, width, height, newest.time + later_s, PLAIN)]


def working(rank: int, percent: int = 50, state: str = "running", **fields: int) -> RankRow:
    return row(
        rank,
        state,
        nucleotide_tokens=10_000 * percent,
        fragments=100 * percent,
        planned_tokens=1_000_000,
        memory_bytes=12_345_678_901,
        **fields,
    )


def test_there_is_a_bar_for_every_rank_and_one_for_all() -> None:
    lines = drawn([working(0, 25), working(1, 75)])
    assert lines[0].startswith("embed  1.00M of 2.00M tokens, 10.0k fragments")
    assert lines[0].endswith("0:10")
    labels = [line.split()[0:1] + line.split()[1:2] for line in lines[2:]]
    assert [label[0] for label in labels] == ["rank", "rank", "all"]
    assert ["25.0%" in lines[2], "75.0%" in lines[3], "50.0%" in lines[4]] == [True] * 3
    bars = [line.count("#") / (line.count("#") + line.count("-")) for line in lines[2:]]
    assert bars == [pytest.approx(0.25, abs=0.05), pytest.approx(0.75, abs=0.05), pytest.approx(0.5, abs=0.05)]


def test_the_heading_has_as_much_of_the_note_as_fits() -> None:
    rates, note = Rates(), "epoch 3/200, loss 0.5123, validation 0.4876, best 0.4876 at 3"
    newest = replace(snapshot(10, row(0, stage="fit", planned_units=9, units=3)), note=note)
    rates.observe(newest)

    def heading(width: int) -> str:
        return bar_lines(rates, newest, width, 9, newest.time, PLAIN)[0].plain

    assert heading(120).startswith(f"fit  {note}, 3 units")
    assert heading(40).startswith("fit  epoch 3/200, loss 0.5123   ")


def test_a_single_rank_needs_no_bar_for_all() -> None:
    assert not any(line.startswith("all") for line in drawn([working(0)]))


@pytest.mark.parametrize("width", [20, 30, 39, 59, 60, 79, 100, 119, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    rows = [working(rank, rank, utilisation=97) for rank in range(30)] + [working(30, 5, "stalled", silent_s=7000)]
    assert max(map(len, drawn(rows, width=width))) <= width


@pytest.mark.parametrize("height", [4, 6, 10, 22])
def test_where_lines_are_short_the_slowest_ranks_and_a_summary_remain(height: int) -> None:
    rows = [working(rank, 100 - rank) for rank in range(40)]
    rows[7] = working(7, 93, "stalled", silent_s=45)
    lines = drawn(rows, height=height)
    assert len(lines) == height
    assert lines[-1].startswith("all")
    assert lines[-2].startswith(f"and {40 - (height - 4)} more: ")
    shown = [line.split()[1] for line in lines[2:-2]]
    slowest = ["7", *map(str, range(40 - (height - 5), 40))] if height > 4 else []
    assert shown == slowest


def test_columns_are_dropped_as_the_terminal_narrows() -> None:
    titles = {width: drawn([working(0), working(1)], width=width)[1].split() for width in (49, 59, 79, 119)}
    assert titles[49] == ["done", "time", "left"]
    assert titles[59] == ["done", "tok/s", "time", "left"]
    assert titles[79] == ["done", "tok/s", "frag/s", "memory", "time", "left"]
    assert titles[119] == ["done", "tokens", "tok/s", "frag/s", "memory", "time", "left"]


def test_utilisation_is_shown_where_a_device_tells_it() -> None:
    assert "GPU" not in drawn([working(0)])[1]
    lines = drawn([working(0, utilisation=97), working(1, utilisation=93)], width=119)
    assert "GPU" in lines[1]
    assert ["97%" in lines[2], "93%" in lines[3], "95%" in lines[4]] == [True] * 3


def test_the_seconds_of_a_stalled_rank_count_on_between_snapshots() -> None:
    rows = [working(0), working(1, state="stalled", silent_s=45)]
    assert drawn(rows)[3].endswith("stalled 45 s")
    assert drawn(rows, later_s=3)[3].endswith("stalled 48 s")
    assert drawn(rows)[4].endswith("1 stalled")


def test_a_stage_without_a_plan_shows_counts_and_a_bar_that_moves() -> None:
    ingesting = [row(0, stage="ingest", records=100, bases=50_000, fragments=300)]
    first, second = (drawn(ingesting, later_s=later_s) for later_s in (0.0, 0.5))
    assert first[0].startswith("ingest  100 records, 50.0k bases, 300 fragments")
    assert first[2].split()[-1] == "working"
    assert first[2] != second[2]
    assert "time left" not in first[1]


def test_a_rank_in_another_stage_says_in_which() -> None:
    assert drawn([working(0), row(1, stage="check")])[3].endswith("check")


def test_news_that_do_not_come_are_announced() -> None:
    assert "no report for 60 s" in drawn([working(0)], later_s=60)[0]


def test_bars_are_ascii_where_the_terminal_knows_nothing_else() -> None:
    assert BarLetters.for_encoding("ascii") == BarLetters("#", "", "-")
    assert BarLetters.for_encoding("utf-8").full == "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
