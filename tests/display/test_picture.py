"""What the picture tells, at every size, of few ranks and of many."""

import re
from dataclasses import replace

import pytest
from rich.text import Text

from scripts.checks.pictures import scene_of
from tests.snapshots import row, snapshot
from vpdist.display.letters import ASCII, Letters, duration_text, end_text, power_text, range_text, time_shares
from vpdist.display.picture import Scene, picture, picture_height
from vpdist.display.rank_table import View
from vpdist.display.rates import Shares
from vpdist.display.time_left import Span
from vpdist.monitoring.counters import RankRow, Snapshot
from vpdist.monitoring.facts import RankFacts, RunFacts

RUN = RunFacts(
    command="predict",
    inputs=("reads.fa.gz",),
    n_inputs=1,
    output="RUN",
    told=("float16", "resumed, 4 of 9 units kept"),
    stages=(("start", 0.0), ("ingest", 0.0), ("plan", 2.0), ("embed", 4.0)),
    coming=("check", "tables"),
    stall_timeout_s=1800.0,
)


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


def scene_with(rows: list[RankRow], *, facts: bool = True, run: RunFacts = RUN) -> Scene:
    """Of a run ten seconds after the rows were all zero."""
    scene = Scene()
    start = [row(each.rank, planned_tokens=each.planned_tokens, stage=each.stage) for each in rows]
    told = tuple(RankFacts(f"node{each.rank // 8}", 100 + each.rank, "A100", each.rank % 8, 80 << 30) for each in rows)
    for made in (snapshot(4, *start), snapshot(14, *rows)):
        scene.observe(replace(made, run=run, facts=told if facts else ()))
    return scene


def drawn(
    rows: list[RankRow], width: int = 119, height: int = 24, later_s: float = 0.0, view: View | None = None
) -> list[str]:
    scene = scene_with(rows)
    assert scene.snapshot is not None
    return [text.plain for text in picture(scene, width, height, scene.snapshot.time + later_s, ASCII, view)]


def test_the_picture_goes_from_the_run_to_its_stages_and_ranks() -> None:
    title, stages, run_bar, figures, titles, *ranks = drawn([working(0, 45), working(1, 55)])
    assert title.startswith("vpdist - reads.fa.gz -> RUN")
    assert title.endswith("2 ranks - float16 - resumed, 4 of 9 units kept")
    assert stages.startswith("+ ingest 0:02  + plan 0:02  > embed 50.0 %  - check  - tables")
    assert stages.endswith("0:14 gone")
    assert run_bar.endswith(" left")
    assert figures.startswith("1.00M of 2.00M tokens - 100k tok/s")
    assert titles.split()[:2] == ["node0", "done"]
    assert [line.split()[:3] for line in ranks] == [["0", "gpu0", "45.0%"], ["1", "gpu1", "55.0%"]]
    bars = [line.count("#") / (line.count("#") + line.count("-")) for line in ranks]
    assert bars == [pytest.approx(0.45, abs=0.06), pytest.approx(0.55, abs=0.06)]


@pytest.mark.parametrize("ranks", [1, 2, 16, 512, 1024])
@pytest.mark.parametrize(("columns", "lines"), [(20, 6), (40, 12), (80, 24), (120, 40), (200, 60)])
def test_the_picture_fits_every_terminal_and_takes_no_more_than_its_share(ranks: int, columns: int, lines: int) -> None:
    scene = scene_with([working(rank, rank % 100, "stalled" if rank == 5 else "running") for rank in range(ranks)])
    assert scene.snapshot is not None
    made = picture(scene, columns - 1, picture_height(lines), scene.snapshot.time, Letters())
    assert max(text.cell_len for text in made) < columns
    assert len(made) <= max(4, 0.6 * lines)


def test_the_pictures_of_the_check_show_what_is_odd_on_every_size() -> None:
    for ranks in (16, 512):
        scene = scene_of(ranks)
        assert scene.snapshot is not None
        for columns, lines in ((80, 24), (120, 40), (200, 60)):
            made = picture(scene, columns - 1, picture_height(lines), scene.snapshot.time, ASCII)
            odd = [text.plain for text in made if text.plain.startswith("!")]
            assert any("stalled 2 min" in line for line in odd)
            assert any("slow" in line for line in odd)
            assert sum("ends the run in" in text.plain for text in made) == 1


def test_where_lines_are_few_odd_ranks_remain_and_the_others_are_letters() -> None:
    rows = [working(rank) for rank in range(40)]
    rows[7] = working(7, state="stalled", silent_s=45)
    rows[9] = working(9, 20)
    lines = drawn(rows, height=10)
    assert [line.split()[1] for line in lines if line.startswith("!")] == ["7", "9"]
    (others,) = (at for at, line in enumerate(lines) if "38 others running" in line)
    assert len(lines[others + 1].strip()) == 38


def test_every_node_has_a_line_where_not_every_rank_has_one() -> None:
    rows = [working(rank, state="lost" if rank == 20 else "running") for rank in range(32)]
    lines = drawn(rows, height=14)
    nodes = [line.split()[0] for line in lines if re.match(r" node\d ", line)]
    assert nodes == ["node0", "node1", "node2", "node3"]
    (lost,) = (line for line in lines if line.startswith("!"))
    assert lost.split()[0] == "!20"
    assert next(line for line in lines if "node2" in line).endswith("====x===".replace("=", lines[5][-1]))


def test_columns_are_dropped_as_the_terminal_narrows_and_no_word_is_cut() -> None:
    rows = [working(0, utilisation=97, load_us=1, compute_us=9_000_000), working(1, utilisation=93)]
    titles = {width: drawn(rows, width=width)[4].split()[1:] for width in (49, 79, 119, 160)}
    assert titles[49] == ["done", "tok/s", "left"]
    assert titles[79] == ["done", "tok/s", "GPU", "memory", "left"]
    assert titles[119][:4] == ["done", "#comp", "=wait", "+write"]
    words = {word for line in drawn(rows, width=200) for word in re.findall(r"[a-z]{2,}", line)}
    for width in range(30, 120):
        for line in drawn(rows, width=width)[:4]:
            assert set(re.findall(r"[a-z]{2,}", line)) <= words | {"ingest", "plan"}, line


def test_the_seconds_of_a_stalled_rank_count_on_between_snapshots() -> None:
    rows = [working(0), working(1, state="stalled", silent_s=45)]
    assert drawn(rows)[6].endswith("stalled 45 s - pid 101")
    assert drawn(rows, later_s=3)[6].endswith("stalled 48 s - pid 101")
    assert drawn(rows)[3].startswith("1 stalled - ")


def luminance(colour: str) -> float:
    """Relative luminance of a colour in hexadecimal digits, as WCAG 2.1 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_everything_has_the_terminals_own_colours_because_no_other_is_read_on_every_background() -> None:
    scene = scene_with([working(0), working(1, state="stalled", silent_s=45), working(2, state="lost")])
    assert scene.snapshot is not None
    made = picture(scene, 119, 24, scene.snapshot.time, Letters())
    styles = {str(span.style) for text in made for span in text.spans} | {str(text.style) for text in made}
    assert styles <= {"", "bold", "dim", "bold reverse", "none"}
    assert "bold reverse" in styles
    for text in made:  # what is dim says nothing
        for span in text.spans:
            assert str(span.style) != "dim" or not re.search(r"\w", text.plain[span.start : span.end])
    white, solarized_dark = luminance("ffffff"), luminance("002b36")
    darkest, lightest = 4.5 * (solarized_dark + 0.05) - 0.05, (white + 0.05) / 4.5 - 0.05
    assert darkest > lightest, "no colour has a contrast of 4.5 with both"


def test_a_wide_terminal_is_used_to_its_right_edge() -> None:
    rows = [working(rank, utilisation=97, load_us=1, compute_us=9_000_000) for rank in range(2)]
    for width in (119, 199, 260):
        assert {len(line) for line in drawn(rows, width=width)[4:7]} == {width}


def test_a_stage_without_a_plan_stands_still_and_counts() -> None:
    ingesting = [row(0, stage="ingest", records=100, bases=50_000)]
    first, second = (drawn(ingesting, later_s=later_s) for later_s in (0.0, 0.5))
    assert first == second
    assert first[3].startswith("100 sequences - 50.0k bases")


def test_what_is_read_of_the_input_is_a_share() -> None:
    ingesting = [row(0, stage="ingest", records=1, steps=3 << 20, planned_steps=12 << 20)]
    scene = scene_with(ingesting, run=replace(RUN, coming=("plan", "embed", "check", "tables")))
    lines = [text.plain for text in picture(scene, 119, 24, 1e9 + 14, ASCII)]
    assert "> ingest 25.0 %" in lines[1]
    assert lines[2].endswith("left of ingest")
    assert lines[3].startswith("3.0 MiB of 12.0 MiB read - 1 sequence")


def test_counters_of_ranks_in_an_earlier_stage_are_not_in_the_figures() -> None:
    rows = [row(0, stage="check", steps=3, planned_steps=6), row(1, stage="check", records=7, planned_steps=6)]
    assert drawn(rows)[3].startswith("3 of 12 parts checked")


def test_news_that_do_not_come_are_announced() -> None:
    assert "no report for 60 s" in drawn([working(0)], later_s=60)[2]


def test_a_stage_that_came_twice_is_told_once_with_all_its_time() -> None:
    scene, stages = Scene(), (("start", 0), ("embed", 1), ("check", 61), ("embed", 71), ("check", 81))
    scene.observe(replace(snapshot(90, row(0, stage="check")), run=RunFacts(stages=stages, coming=("tables",))))
    line = picture(scene, 100, 9, 1e9 + 90, ASCII)[1].plain
    assert line.split("  ")[0].endswith("embed 1:10")
    assert line.count("embed") == line.count("check") == 1
    assert "tables" in line


def test_a_note_stands_before_the_figures_as_far_as_it_fits() -> None:
    note = "epoch 3/200, loss 0.5123, validation 0.4876"
    scene = Scene()
    scene.observe(replace(snapshot(10, row(0, stage="fit", planned_units=9, units=3)), note=note))
    figures = [picture(scene, width, 9, 1e9 + 10, ASCII)[3].plain for width in (100, 32)]
    assert figures == [f"{note.replace(', ', ' - ')} - 3 of 9 steps", "epoch 3/200 - loss 0.5123"]


def test_ranks_can_be_sorted_and_filtered_and_one_looked_at() -> None:
    rows = [working(0, 90), working(1, 10), working(2, state="stalled", silent_s=45)]
    order = [line.split()[0].strip("!") for line in drawn(rows, view=View(sort="done"))[5:8]]
    assert order == ["1", "2", "0"]
    odd = drawn(rows, view=View(filter="odd"))
    assert [line.split()[0] for line in odd[5:7]] == ["!1", "!2"]
    one = drawn(rows, view=View(rank=1, log=("a line", "the last line")))
    assert any("rank 1 gpu1 - A100 - node0, process 101" in line for line in one)
    assert one[-2:] == [" a line", " the last line"]


def test_names_in_the_picture_have_no_control_characters() -> None:
    scene = scene_with([working(0)], run=replace(RUN, inputs=("a\x1b[2Jb",), output="R\nN"))
    assert scene.snapshot is not None
    text = Text("\n").join(picture(scene, 119, 24, scene.snapshot.time, Letters())).plain
    assert "\x1b" not in text
    assert "R N" in text


def test_a_run_that_begins_anew_in_the_same_file_starts_from_nothing() -> None:
    scene = scene_with([working(0, 90)])
    again = Snapshot(1e9 + 100, 1.0, "round", (row(0, planned_tokens=1_000_000),))
    scene.observe(again)
    assert scene.rates.total.fraction == 0
    assert scene.rates.curve == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7, "7 s"), (89, "89 s"), (761, "13 min"), (7200, "2 h"), (26_340, "7 h 19 min"), (183_600, "2 d 3 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (Span(41, 58), "40 - 58 s"),
        (Span(730, 880), "12 - 15 min"),
        (Span(27_020, 28_000), "7 h 30 min - 7 h 48 min"),
        (Span(0.2, 0.9), "0 - 1 s"),
        (Span(40, 170), "0 - 3 min"),
        (Span(61, 170), "1 - 3 min"),
        (Span(4000, 46_000), "1 - 13 h"),
        (Span(2000, 46_000), "0 - 13 h"),
        (Span(2000, 9000), "30 min - 2 h 30 min"),
        (Span(5000, 7000), "1 h 20 min - 2 h"),
        (Span(100_000, 120_000), "1 d 3 h - 1 d 10 h"),
    ],
)
def test_a_range_holds_what_it_is_made_of(span: Span, text: str) -> None:
    assert range_text(span, ASCII) == text


@pytest.mark.parametrize(
    ("watts", "text"),
    [(90.4, "90.4 W"), (640, "640 W"), (999.6, "1.00 kW"), (1280, "1.28 kW"), (337_000, "337 kW"), (1.28e6, "1.28 MW")],
)
def test_power_has_the_unit_that_fits(watts: float, text: str) -> None:
    assert power_text(watts) == text
    assert text in picture_with_power(watts)


def picture_with_power(watts: float) -> str:
    scene = scene_with([replace(working(0), power_mw=round(1000 * watts))])
    assert scene.snapshot is not None
    return Text("\n").join(picture(scene, 199, 24, scene.snapshot.time, Letters())).plain


def test_the_end_has_a_day_where_it_is_not_today() -> None:
    noon = 1_780_000_000 - 1_780_000_000 % 86_400 + 43_200
    texts = [end_text(noon + ahead, noon) for ahead in (600, 86_400, 20 * 86_400)]
    assert [len(text.split()) for text in texts] == [1, 2, 3]


def test_a_ranks_time_is_shown_in_letters() -> None:
    assert time_shares(Shares(0.5, 0.25, 0.125), 8, ASCII) == "####==+."
    assert time_shares(Shares(1.0, 0.0, 0.5), 8, ASCII) == "########"
    assert time_shares(None, 4, ASCII) == ".   "


def test_letters_are_ascii_where_the_terminal_knows_nothing_else() -> None:
    assert Letters.for_encoding("ascii") == ASCII
    assert Letters.for_encoding("utf-8").full == "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
