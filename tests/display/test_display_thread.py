from pathlib import Path

import pytest

from tests.snapshots import Stream, row, snapshot
from vpdist.display.choose import choose_display
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
