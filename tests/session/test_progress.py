import contextlib
import io
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from tests.launched import PATIENCE_S, environment, wait_until
from tests.snapshots import Stream, row, snapshot
from vpdist.display.progress_file import Recorder
from vpdist.display.terminal_bars import CLEAR_BARS
from vpdist.display.watch import watch
from vpdist.distributed.runtime import KeyStore, Runtime
from vpdist.environment import LaunchContext
from vpdist.errors import EXIT_BUG, Interrupted, PeerLost, StorageError, VpdistError
from vpdist.monitoring.counters import Snapshot
from vpdist.monitoring.telemetry import Telemetry
from vpdist.session.progress import Progress
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import Lock


@pytest.fixture
def alone() -> Runtime:
    """A plain process: rank 0 of 1."""
    store = HashStore()
    keys = KeyStore(store, lambda: store)
    return Runtime(context=LaunchContext(), device=torch.device("cpu"), keys=keys)


def recorded(path: Path) -> list[Snapshot]:
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Snapshot.from_json(line) for line in lines]


def work(progress: Progress, batches: int = 50) -> None:
    progress.stage("embed", planned_tokens=batches * 10)
    for _ in range(batches):
        progress.add(batches=1, fragments=2, nucleotide_tokens=6, protein_tokens=4)


@pytest.mark.parametrize("mode", ["auto", "bars", "log", "none"])
def test_every_mode_records_the_exact_final_counters(alone: Runtime, tmp_path: Path, mode: str) -> None:
    stream = Stream()
    progress = Progress(alone, mode, tmp_path / "progress.jsonl", stream)
    work(progress)
    progress.message("half way")
    progress.close()
    last = recorded(tmp_path / "progress.jsonl")[-1]
    assert last.ended == ""
    expected = {"batches": 50, "fragments": 100, "nucleotide_tokens": 300, "protein_tokens": 200}
    assert {name: last.totals[name] for name in expected} == expected
    assert (last.rows[0].state, last.rows[0].tokens) == ("done", 500)
    assert ("half way" in stream.getvalue()) == (mode != "none")
    assert not set(stream.getvalue()) & {"\x1b", "\r"}


def test_a_note_is_a_line_where_there_are_no_bars_and_ends_with_its_stage(alone: Runtime, tmp_path: Path) -> None:
    stream, path = Stream(), tmp_path / "progress.jsonl"
    progress = Progress(alone, "log", path, stream)
    progress.stage("fit", planned_units=2)
    progress.note("epoch 1/2, loss 0.5")
    progress.add(units=1)
    wait_until(lambda: any(each.note for each in recorded(path)), "the note")
    progress.stage("judge")
    progress.close()
    assert stream.getvalue().count("epoch 1/2, loss 0.5\n") == 1
    assert {each.note for each in recorded(path) if each.stage == "fit"} <= {"", "epoch 1/2, loss 0.5"}
    assert recorded(path)[-1].note == ""


def test_what_counting_costs_is_counted(alone: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter_ns", itertools.count(0, 1000).__next__)  # a call takes a microsecond
    progress = Progress(alone, "none", tmp_path / "progress.jsonl", None)
    work(progress, 20_000)
    progress.close()
    assert recorded(tmp_path / "progress.jsonl")[-1].totals["progress_us"] >= 20_000


def test_waiting_is_shown_and_ends(alone: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    progress = Progress(alone, "none", path, None)
    with progress.waiting(), progress.waiting():
        wait_until(lambda: "waiting" in {made.rows[0].state for made in recorded(path)}, "a record of the wait")
    wait_until(lambda: recorded(path)[-1].rows[0].state == "running", "a record of its end")
    progress.close()
    assert recorded(path)[-1].rows[0].state == "done"


def test_counters_of_unknown_name_are_refused(alone: Runtime) -> None:
    progress = Progress(alone, "none", None, None)
    with pytest.raises(KeyError):
        progress.add(virions=1)
    with pytest.raises(ValueError, match="tuple"):
        progress.stage("sequencing")
    progress.close()


def test_a_failure_is_raised_at_the_next_call(alone: Runtime) -> None:
    progress = Progress(alone, "none", None, None)
    progress._exchange.failure = PeerLost("rank 3 was lost")
    for call in (
        progress.raise_if_failed,
        progress.close,
        lambda: progress.add(batches=1),
        lambda: progress.stage("embed"),
    ):
        with pytest.raises(PeerLost, match="rank 3 was lost"):
            call()
    progress.abort("rank 3 was lost")


def test_a_bug_on_the_exchanges_thread_is_no_good_end(
    alone: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others, read_by_others = set(threading.enumerate()), Telemetry.read

    def read(telemetry: Telemetry) -> None:
        if threading.current_thread() in others:  # of a test before: a bug would end this process
            return read_by_others(telemetry)
        raise ZeroDivisionError("no readings")

    monkeypatch.setattr(Telemetry, "read", read)
    progress = Progress(alone, "none", tmp_path / "progress.jsonl", None)
    with pytest.raises(VpdistError, match=r"this is a bug.*ZeroDivisionError: no readings") as failure:
        progress.close()
    assert failure.value.exit_code == EXIT_BUG
    progress.abort(str(failure.value))
    assert "Traceback" in caplog.text
    assert recorded(tmp_path / "progress.jsonl")[-1].ended == str(failure.value)


def test_the_lowest_survivor_clears_the_terminal_that_a_killed_rank_0_leaves_behind(alone: Runtime) -> None:
    stream = Stream(terminal=True)
    progress = Progress(replace(alone, context=LaunchContext(rank=1)), "bars", None, stream)
    progress._exchange.failure = PeerLost("rank 0 was lost", (0,))
    progress.abort("rank 0 was lost")
    assert stream.getvalue() == CLEAR_BARS


def test_an_abort_is_recorded_once_and_may_be_repeated(alone: Runtime, tmp_path: Path) -> None:
    progress = Progress(alone, "log", tmp_path / "progress.jsonl", Stream())
    work(progress)
    wait_until(lambda: recorded(tmp_path / "progress.jsonl") != [], "the first record")
    progress.abort("stopped by SIGTERM")
    progress.abort("again")
    ends = [made.ended for made in recorded(tmp_path / "progress.jsonl")]
    assert ends[-1] == "stopped by SIGTERM"
    assert ends.count("stopped by SIGTERM") == 1
    assert "again" not in ends


def full() -> io.TextIOWrapper:
    return open("/dev/full", "w", encoding="utf-8")


def closed() -> Stream:
    stream = Stream()
    stream.close()
    return stream


def broken_pipe() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8", buffering=1)


@pytest.mark.parametrize("make", [full, broken_pipe], ids=["a full disk", "a broken pipe"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_display_that_cannot_be_written_is_turned_off_with_one_line(
    alone: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture, make: type
) -> None:
    stream = make()
    with caplog.at_level(logging.WARNING):
        progress = Progress(alone, "log", tmp_path / "progress.jsonl", stream)
        for number in range(3):
            progress.message(f"line {number}")
        work(progress)
        progress.close()
    assert [record.message.split(":")[0] for record in caplog.records] == ["the progress display is turned off"]
    assert recorded(tmp_path / "progress.jsonl")[-1].totals["batches"] == 50
    with contextlib.suppress(OSError):  # what was never written
        stream.close()


def test_a_stream_that_is_closed_meanwhile_does_not_touch_the_run(
    alone: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream()
    progress = Progress(alone, "log", tmp_path / "progress.jsonl", stream)
    stream.close()
    work(progress)
    progress.close()
    assert "the progress display is turned off" in caplog.text
    assert recorded(tmp_path / "progress.jsonl")[-1].ended == ""


def test_progress_that_cannot_be_recorded_is_logged_once_and_the_run_goes_on(
    alone: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (Path("/dev/full"), tmp_path / "absent" / "progress.jsonl"):
        caplog.clear()
        stream = Stream()
        progress = Progress(alone, "log", path, stream)
        work(progress)
        progress.close()
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
        assert "recorded" in caplog.text
        assert "batches" in stream.getvalue() or "rank=0" in stream.getvalue()


def test_a_line_that_a_killed_run_left_unfinished_spoils_none_after_it(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text(snapshot(1, row()).to_json() + "\n" + '{"v":1,"ti')
    recorder = Recorder(path)
    recorder.record(snapshot(2, row(), ended=""))
    recorder.close()
    lines = path.read_text().splitlines()
    assert lines[1] == '{"v":1,"ti'
    assert Snapshot.from_json(lines[2]).elapsed == 2
    stream = Stream()
    watch(tmp_path, stream, follow=True)
    assert "elapsed_s=2.0" in stream.getvalue()


def test_watching_shows_what_the_run_shows_and_ends_with_it(alone: Runtime, tmp_path: Path) -> None:
    lock = Lock(RunFolder(tmp_path))
    lock.take()  # else a run that records nothing for some seconds is taken for dead
    progress = Progress(alone, "none", tmp_path / "progress.jsonl", None)
    work(progress)
    wait_until(lambda: recorded(tmp_path / "progress.jsonl") != [], "the first record")
    once = Stream()
    watch(tmp_path, once, follow=False)
    assert "ranks=1" in once.getvalue()
    program = (
        "import sys, pathlib; from vpdist.display.watch import watch; watch(pathlib.Path(sys.argv[1]), sys.stdout)"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program, str(tmp_path)], env=environment(), stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout is not None
        assert "ranks=1" in watcher.stdout.readline()  # it shows what there is, and goes on
        assert watcher.poll() is None
        progress.close()
        output, _ = watcher.communicate(timeout=PATIENCE_S)
    lock.release()
    assert watcher.returncode == 0
    assert "state=done stage=embed done_percent=100.0" in output
    assert "done, 100 fragments, after 0:" in output.splitlines()[-1]


@pytest.mark.parametrize(
    "junk", [b"junk\n" * 100, b"\0" * 5000, b"{}\n", b"\n" * 100_000], ids=["lines", "zeros", "objects", "breaks"]
)
def test_watching_says_where_there_is_nothing_that_it_can_show(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "progress.jsonl").write_bytes(junk)
    stream = Stream()
    watch(tmp_path, stream, follow=False)
    assert stream.getvalue().count("progress.jsonl: holds no progress of a run") == 1
    (tmp_path / "progress.jsonl").write_bytes(junk + b"\n" + snapshot(2, row(), ended="").to_json().encode() + b"\n")
    stream = Stream()
    watch(tmp_path, stream, follow=True)
    assert "holds no progress" not in stream.getvalue()
    assert "elapsed_s=2.0" in stream.getvalue()


def test_there_is_nothing_to_watch_in_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"progress\.jsonl.*no run to watch"):
        watch(tmp_path, Stream())


def test_a_process_that_forgets_to_close_ends_all_the_same(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from vpdist.distributed import runtime\nfrom vpdist.environment import LaunchContext\n"
        "from vpdist.session.progress import Progress\n"
        "progress = Progress(runtime.start(LaunchContext()), 'log', pathlib.Path(sys.argv[1]), sys.stderr)\n"
        "progress.stage('embed')\nprogress.add(batches=1)\nraise SystemExit(7)\n"
    )
    path = tmp_path / "progress.jsonl"
    ended = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=environment(), timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 7
    assert json.loads(path.read_text().splitlines()[-1])["ended"] == "the process ended"


def test_a_launcher_that_has_ended_is_an_interruption(
    alone: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpdist.environment.PARENT", -1)
    launched = replace(alone, context=LaunchContext(launched=True))
    progress = Progress(launched, "none", tmp_path / "progress.jsonl", None)
    with pytest.raises(Interrupted, match="the launcher has ended") as interruption:
        progress.close()
    assert interruption.value.exit_code == 143
    progress.abort(str(interruption.value))
    assert recorded(tmp_path / "progress.jsonl")[-1].ended == "the launcher has ended"
