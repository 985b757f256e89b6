"""What is recorded can be read again: whole lines, changes between them, lines of earlier versions."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.snapshots import row, snapshot
from vpdist.display.history import History
from vpdist.display.progress_file import BYTES_PER_S, FIRST_BYTES, WHOLE_RANKS, Recorder
from vpdist.display.progress_lines import Reader, changes_json, read_file
from vpdist.monitoring.counters import COUNTERS, RankRow, Snapshot
from vpdist.monitoring.facts import RankFacts, RunFacts
from vpdist.storage.atomic_files import open_regular

COUNTS = st.tuples(*[st.integers(0, 2**40) for _ in COUNTERS])


def rows_of(draw: st.DrawFn, ranks: int) -> tuple[RankRow, ...]:
    return tuple(
        replace(
            row(rank, draw(st.sampled_from(["running", "stalled", "done"])), draw(st.sampled_from(["embed", "check"]))),
            counters=draw(COUNTS),
            memory_bytes=draw(st.integers(0, 2**40)),
            utilisation=draw(st.integers(-1, 100)),
            planned_tokens=draw(st.integers(0, 2**40)),
        )
        for rank in range(ranks)
    )


@st.composite
def two_snapshots(draw: st.DrawFn) -> tuple[Snapshot, Snapshot]:
    ranks = draw(st.integers(1, 3))
    return snapshot(1, *rows_of(draw, ranks)), snapshot(2, *rows_of(draw, ranks))


@settings(deadline=None, max_examples=50)
@given(two_snapshots())
def test_changes_lead_from_one_snapshot_to_the_next(pair: tuple[Snapshot, Snapshot]) -> None:
    before, after = pair
    line, known = changes_json(before, after, COUNTERS, readings=True)
    reader = Reader()
    assert reader.read(before.to_json()) == before
    read = reader.read(line)
    assert read == known
    assert [each.counters for each in known.rows] == [each.counters for each in after.rows]
    assert [(each.state, each.stage, each.memory_bytes) for each in known.rows] == [
        (each.state, each.stage, each.memory_bytes) for each in after.rows
    ]


def test_a_value_that_no_device_tells_any_more_is_no_longer_known() -> None:
    first, second = snapshot(1, row(0, utilisation=97), row(1)), snapshot(2, row(0), row(1))
    line, _ = changes_json(first, second, COUNTERS, readings=True)
    reader = Reader()
    reader.read(first.to_json())
    read = reader.read(line)
    assert read is not None
    assert [each.utilisation for each in read.rows] == [-1, -1]
    assert "power_mw" not in line


def test_counters_that_are_left_out_follow_later() -> None:
    first, second, third = (snapshot(at, row(0, batches=at, nucleotide_tokens=10 * at)) for at in (1, 2, 3))
    line, known = changes_json(first, second, ("nucleotide_tokens",), readings=False)
    assert (known.rows[0].count("nucleotide_tokens"), known.rows[0].count("batches")) == (20, 1)
    assert json.loads(line)["totals"]["batches"] == 2, "totals are exact in every line"
    later, known = changes_json(known, third, COUNTERS, readings=True)
    assert known.rows == third.rows
    reader = Reader()
    read = [reader.read(text) for text in (first.to_json(), line, later)]
    assert read[-1] == replace(third, facts=())


def test_what_a_later_version_tells_of_ranks_is_left_out() -> None:
    line, known = changes_json(snapshot(1, row()), snapshot(2, row(0, "done")), COUNTERS, readings=False)
    told = json.loads(line)
    told["changes"]["ranks"]["0"]["fan_percent"] = 40
    reader = Reader()
    reader.read(snapshot(1, row()).to_json())
    assert reader.read(json.dumps(told)) == known


def test_a_change_without_what_it_changes_is_skipped() -> None:
    line, _ = changes_json(snapshot(1, row()), snapshot(2, row(batches=1)), COUNTERS, readings=False)
    assert Reader().read(line) is None
    reader = Reader()
    reader.read(snapshot(1, row()).to_json())
    assert reader.read(line[:-5]) is None
    assert reader.read(line) is None, "what follows a damaged line is not known"


@pytest.mark.parametrize(
    "wrong", ['{"columns":{"batches":[1]}}', '{"columns":7}', '{"columns":{},"ranks":{"0":{"state":"new"}}}']
)
def test_changes_that_no_run_records_are_refused(wrong: str) -> None:
    reader = Reader()
    assert reader.read(snapshot(1, row(0), row(1)).to_json()) is not None
    head = '{"v":1,"time":1e9,"elapsed":2,"source":"round","ended":null,"changes":'
    assert reader.read(f"{head}{wrong}}}") is None


def test_lines_of_earlier_versions_are_read() -> None:
    old = json.loads(snapshot(5, row(0, batches=7)).to_json())
    dropped = COUNTERS[COUNTERS.index("wait_us") :]
    kept = [at for at, name in enumerate(COUNTERS) if name not in dropped]
    old["columns"] = [COUNTERS[at] for at in kept]
    for rank in old["ranks"]:
        rank |= {name: [rank[name][at] for at in kept] for name in ("counters", "base")}
    read = Snapshot.from_json(json.dumps(old))
    assert read.rows[0].count("batches") == 7
    assert read.rows[0].count("work_mflop") == 0


def test_facts_of_ranks_and_of_the_run_are_recorded() -> None:
    facts = (RankFacts("node01", 4711, "NVIDIA H100", 3, 80 << 30, 660_000_000), RankFacts("node02", 4712, "cpu"))
    run = RunFacts("predict", ("a.fa",), 1, "RUN", ("float16",), (("start", 0.0),), ("embed",), 9, 4, 1000, 1800.0)
    made = replace(snapshot(1, row(0), row(1)), facts=facts, run=run)
    assert Snapshot.from_json(made.to_json()) == made


def test_facts_that_others_have_written_are_printable_and_short() -> None:
    made = replace(snapshot(1, row(0)), facts=(RankFacts("a\x1b[2Jb" * 1000),))
    read = Snapshot.from_json(made.to_json())
    assert "\x1b" not in read.facts[0].host
    assert len(read.facts[0].host) < 300


def busy(second: int, ranks: int, random_numbers: random.Random) -> Snapshot:
    """Every counter of every rank has moved by an amount of its own."""
    rows = tuple(
        replace(row(rank), counters=tuple(second * 10**6 + random_numbers.randrange(10**6) for _ in COUNTERS))
        for rank in range(ranks)
    )
    return snapshot(second, *rows)


def test_a_day_of_many_ranks_stays_small(tmp_path: Path) -> None:
    path, random_numbers = tmp_path / "progress.jsonl", random.Random(1)
    recorder = Recorder(path)
    recorder._bytes = FIRST_BYTES  # as after its first minutes
    for second in range(0, 1200, 3):
        recorder.record(busy(second, 128, random_numbers))
    recorder.close()
    longest = max(len(line) for line in path.read_bytes().splitlines())
    assert path.stat().st_size <= BYTES_PER_S * 1200 + longest
    assert BYTES_PER_S * 86_400 + FIRST_BYTES < 100e6
    assert sum('"changes":' in line for line in path.read_text().splitlines()) > 10


def test_few_ranks_have_whole_lines_only(tmp_path: Path) -> None:
    path, random_numbers = tmp_path / "progress.jsonl", random.Random(1)
    recorder = Recorder(path)
    made = [busy(second, WHOLE_RANKS, random_numbers) for second in range(20)]
    for each in made:
        recorder.record(each)
    recorder.close()
    assert list(read_file(path)) == made


def test_the_last_line_of_a_run_is_whole_and_exact(tmp_path: Path) -> None:
    path, random_numbers = tmp_path / "progress.jsonl", random.Random(1)
    recorder = Recorder(path)
    for second in range(40):
        recorder.record(busy(second, WHOLE_RANKS + 1, random_numbers))
    last = replace(busy(40, WHOLE_RANKS + 1, random_numbers), ended="")
    recorder.record(last)
    recorder.close()
    assert Snapshot.from_json(path.read_text().splitlines()[-1]) == last


def test_the_history_is_that_of_the_newest_command_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    for seconds in ((0, 10, 20), (0, 10)):  # two commands
        recorder = Recorder(path)
        for second in seconds:
            recorder.record(snapshot(second, row(0, batches=second)))
    with open_regular(path) as file:
        history = History(file)
        assert [each.elapsed for each in history.tail()] == [0, 10]
        recorder.record(snapshot(20, row(0, batches=20)))
        assert [each.elapsed for each in history.more()] == [20]
        assert history.more() == []
    recorder.close()
