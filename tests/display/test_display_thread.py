import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from tests.snapshots import Stream, row, snapshot
from vpdist.display.choose import choose_display
from vpdist.display.display_thread import DisplayThread
from vpdist.display.log_lines import LogLines
from vpdist.display.progress_file import Recorder
from vpdist.display.terminal_bars import Bars
from vpdist.errors import UsageError
from vpdist.monitoring.counters import Snapshot


def recorded(path: Path) -> list[Snapshot]:
    return [Snapshot.from_json(line) for line in path.read_text().splitlines()]


def test_a_file_gets_log_lines_and_a_terminal_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    assert isinstance(choose_display("auto", Stream(terminal=True)), Bars)
    assert isinstance(choose_display("bars", Stream(terminal=True)), Bars)
    assert isinstance(choose_display("log", Stream(terminal=True)), LogLines)
    assert isinstance(choose_display("auto", Stream()), LogLines)
    assert isinstance(choose_display("bars", Stream()), LogLines)
    assert choose_display("none", Stream(terminal=True)) is None
    for variable, value in (("TERM", "dumb"), ("CI", "true")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert isinstance(choose_display("auto", Stream(terminal=True)), LogLines)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="--progress loud: choose one of"):
        choose_display("loud", Stream())


@pytest.fixture
def unread() -> Iterator[tuple[int, TextIO]]:
    """A full pipe that nobody reads, and a stream that writes to it."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writes, b"." * 4096)
    os.set_blocking(writes, True)
    with open(writes, "w", encoding="utf-8") as stream:
        yield reads, stream
        os.close(reads)


def test_recording_goes_on_while_nobody_reads_the_log_lines(tmp_path: Path, unread: tuple[int, TextIO]) -> None:
    _, stream = unread
    thread = DisplayThread(LogLines(stream, interval_s=1), tmp_path / "progress.jsonl")
    thread.start()
    thread.put("a message")
    for second in range(20):
        thread.put(snapshot(second, row(0, "stalled" if second > 10 else "running")))
    thread.end("")
    made = recorded(tmp_path / "progress.jsonl")
    assert [len(made), made[-1].ended] == [21, ""]


def test_what_was_due_is_told_once_somebody_reads(unread: tuple[int, TextIO]) -> None:
    reads, stream = unread
    log = LogLines(stream, interval_s=1000, first_s=1000)
    log.show(snapshot(1, row(0, "running")))
    log.message("a message")
    log.show(snapshot(2, row(0, "stalled")))
    os.read(reads, 1 << 16)
    log.show(snapshot(3, row(0, "stalled")))
    told = os.read(reads, 1 << 16).decode().splitlines()
    assert len(told) == 2
    assert told[0].endswith(" a message")
    assert "elapsed_s=3.0 rank=0 state=stalled" in told[1]


def test_records_are_thinned_out_but_changes_are_kept(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "progress.jsonl")
    for tenth in range(100):
        recorder.record(snapshot(tenth / 10, row(0, "stalled" if tenth == 55 else "running")))
    recorder.record(snapshot(10.0, row(0, "done"), ended=""))
    recorder.close()
    made = recorded(tmp_path / "progress.jsonl")
    assert len(made) < 20
    assert [each.rows[0].state for each in made].count("stalled") == 1
    assert made[-1].ended == ""
    old = Recorder(tmp_path / "old.jsonl")
    for second in range(100_000, 100_060):
        old.record(snapshot(second, row(0)))
    old.close()
    assert 10 <= len(recorded(tmp_path / "old.jsonl")) <= 14
