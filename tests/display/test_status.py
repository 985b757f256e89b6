"""What `vpdist status` and `vpdist watch` say of runs that live, have ended, or are dead."""

import json
import os
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from tests.launched import PATIENCE_S, environment
from tests.snapshots import Stream, row, snapshot
from vpdist.display.status import DEAD, OF_RUN, RUNNING, exit_code, status, status_line
from vpdist.display.watch import log_tail, replay, watch
from vpdist.errors import StorageError
from vpdist.monitoring.counters import Snapshot
from vpdist.monitoring.facts import RankFacts, RunFacts
from vpdist.storage import run_state
from vpdist.storage.lock_holder import Holder, this_process
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import HEARTBEAT_S, WATCHED_BEATS
from vpdist.storage.run_state import process_state


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """A run folder with this status, and a lock of this process, of one that has ended, of another host, or none."""

    def make(state: str, code: int | None, lock: str = "", *snapshots: Snapshot) -> Path:
        folder = RunFolder(tmp_path)
        folder.prepare(restart=False)
        folder.write_status(state, code, "why it ended" if code else "")
        holder = this_process()
        if lock:
            other = {"gone": {"pid": gone()}, "elsewhere": {"host": "far", "boot_id": "x"}, "here": {}}[lock]
            (tmp_path / "lock").write_text(replace(holder, **other).to_json())  # type: ignore[arg-type]
        lines = [each.to_json() for each in snapshots]
        (tmp_path / "progress.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path

    return make


def embedding(ended: str | None = None) -> list[Snapshot]:
    """Half of a run that goes on now."""
    made = [
        replace(snapshot(second, row(0, nucleotide_tokens=10 * second, planned_tokens=200), ended=ended))
        for second in (0, 10)
    ]
    return [replace(each, time=time.time() - 10 + each.elapsed) for each in made]


def append(folder: Path, *snapshots: Snapshot) -> None:
    with (folder / "progress.jsonl").open("a") as file:
        file.writelines(f"{each.to_json()}\n" for each in snapshots)


def test_a_run_that_is_alive_says_how_far_it_is(run: Callable[..., Path]) -> None:
    folder = run("running", None, "here", *embedding())
    told = status(folder)
    assert (told["state"], told["alive"], told["exit_code"], told["done_percent"]) == ("running", True, None, 50.0)
    assert told["left_s"][0] < 10 < told["left_s"][1]
    line = status_line(folder, told)
    assert "running, embed 50.0 %, " in line
    assert f"process {os.getpid()} on " in line
    assert "\n" not in line
    assert exit_code(told) == RUNNING
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("state", "code"), [("done", 0), ("done_with_failures", 5), ("interrupted", 143), ("failed", 3)]
)
def test_a_run_that_has_ended_gives_its_own_code(run: Callable[..., Path], state: str, code: int) -> None:
    folder = run(state, code, "", *embedding(""))
    told = status(folder)
    assert (told["state"], exit_code(told), told["alive"]) == (state, code, False)
    assert status_line(folder, told).startswith(f"{folder}: {state.replace('_', ' ')}, exit code {code}")


def test_a_run_that_is_done_tells_its_first_warning_and_how_many_there_are(run: Callable[..., Path]) -> None:
    folder = run("done", 0, "", *embedding(""))
    RunFolder(folder).write_status("done", 0, "20 sequences\nwarning: first, and more. What to do\nwarning: second")
    assert status_line(folder, status(folder)).endswith(", 2 warnings: first, and more")
    RunFolder(folder).write_status("done_with_failures", 5, "warning: first. What to do\n20 sequences (1 failed)\nmore")
    assert status_line(folder, status(folder)).endswith(", 20 sequences (1 failed), 1 warning: first")
    RunFolder(folder).write_status("done", 0, "20 sequences, no warning: all is well")
    assert "warning" not in status_line(folder, status(folder))


def test_it_tells_what_was_kept_and_done_again_and_the_stages_to_come(run: Callable[..., Path]) -> None:
    facts = RunFacts(coming=("tables",), n_units=9, kept_units=4, recomputed_units=1, n_fragments=50, deduplicated=7)
    folder = run("running", None, "here", *(replace(each, run=facts) for each in embedding()))
    told = status(folder)
    assert {name: told[name] for name in OF_RUN} == {name: getattr(facts, name) for name in OF_RUN}
    assert told["coming"] == ["tables"]
    assert ", 4 units kept, 1 unit recomputed, " in status_line(folder, told)


@pytest.mark.parametrize(
    ("state", "lock", "told", "said"),
    [
        ("running", "here", "running, process", "a later command is at work (process"),
        ("running", "gone", "dead, process", "is gone, before it recorded any progress"),
        ("failed", "", "failed, exit code 3", "a later command has ended: failed: why it ended"),
    ],
)
def test_the_end_of_an_earlier_command_is_not_that_of_a_later_one(
    run: Callable[..., Path], state: str, lock: str, told: str, said: str
) -> None:
    folder = run(state, 3 if state == "failed" else None, lock, *embedding(""))
    found = status(folder)
    assert status_line(folder, found).startswith(f"{folder}: {told}")
    assert (found["stage"], found["elapsed_s"], found["done_percent"]) == (None, None, None)
    stream = Stream()
    watch(folder, stream, follow=False)
    assert said in stream.getvalue()
    assert "done" not in stream.getvalue().splitlines()[-1]


@pytest.mark.parametrize("lock", ["here", "gone"])
def test_progress_that_another_process_has_recorded_is_of_an_earlier_command(
    run: Callable[..., Path], lock: str
) -> None:
    host, pid = this_process().host, os.getpid()
    mine, others = ([replace(each, facts=(RankFacts(host, number),)) for each in embedding()] for number in (pid, 1))
    folder = run("running", None, lock, *others)
    assert status(folder)["stage"] is None
    append(folder, *(replace(each, elapsed=each.elapsed + 20) for each in mine))
    assert status(folder)["stage"] == ("embed" if lock == "here" else None)


def test_a_run_that_has_recorded_its_end_and_not_yet_its_status_goes_on(run: Callable[..., Path]) -> None:
    ending = [replace(each, time=time.time() + 86_400) for each in embedding("")]  # after status.json was written
    assert status(run("running", None, "here", *ending))["stage"] == "embed"


def test_one_look_at_a_run_that_has_ended_or_died_says_so(run: Callable[..., Path]) -> None:
    for state, code, lock, ended, said in (("done", 0, "", "", "done"), ("running", None, "gone", None, "dead: ")):
        stream = Stream()
        watch(run(state, code, lock, *embedding(ended)), stream, follow=False)
        assert said in stream.getvalue().splitlines()[-1]


def test_a_run_whose_process_is_gone_is_dead(run: Callable[..., Path]) -> None:
    folder = run("running", None, "gone", *embedding())
    told = status(folder)
    assert (told["state"], told["alive"], exit_code(told)) == ("dead", False, DEAD)
    assert f"process {told['pid']} on {told['host']} is gone" in status_line(folder, told)


@pytest.mark.parametrize("first", ["running", None])
def test_a_run_that_ends_while_its_process_is_looked_for_is_not_dead(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, first: str | None
) -> None:
    folder = run("running", None, "", *embedding(""))
    if first is None:
        RunFolder(folder).status.unlink()

    def end(found: RunFolder) -> tuple[bool, Holder]:
        found.write_status("done", 0, "")
        return False, Holder()

    monkeypatch.setattr(run_state, "process_state", end)
    told = status(folder)
    assert (told["state"], exit_code(told)) == ("done", 0)


def test_a_lock_on_another_machine_lives_while_it_is_touched(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run("running", None, "elsewhere", *embedding())
    lock = folder / "lock"
    now = lock.stat().st_mtime + 1
    monkeypatch.setattr(time, "time", lambda: now)
    assert process_state(RunFolder(folder))[0] is True, "touched just now"
    for age_s, alive in ((30, None), (1000, False)):
        os.utime(lock, (now - age_s, now - age_s))
        looks: list[float] = []
        assert process_state(RunFolder(folder), looks.append)[0] is alive
        assert sum(looks) == WATCHED_BEATS * HEARTBEAT_S
    assert process_state(RunFolder(folder), lambda _: os.utime(lock))[0] is True


def test_a_folder_without_a_run_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no run that has begun"):
        status(tmp_path)


def test_a_status_is_told_without_any_progress(run: Callable[..., Path]) -> None:
    folder = run("interrupted", 143)
    (folder / "progress.jsonl").unlink()
    assert status(folder)["stage"] is None
    assert "interrupted, exit code 143" in status_line(folder, status(folder))


def test_a_status_has_the_same_keys_with_and_without_progress(run: Callable[..., Path]) -> None:
    told = status(run("running", None, "here", *embedding()))
    without = status(run("running", None, "here"))
    assert set(without) == set(told)
    assert without["report_age_s"] is None
    assert all(name in str(status.__doc__) for name in told)


def test_watching_a_dead_run_says_so_and_ends(run: Callable[..., Path]) -> None:
    old = [replace(each, time=each.time - 1000) for each in embedding()]
    folder, stream = run("running", None, "gone", *old), Stream()
    watch(folder, stream)
    last = stream.getvalue().splitlines()[-1]
    assert "dead: process " in last
    assert "is gone, after 0:10; run the same command again to resume" in last


def test_watching_a_run_that_ends_while_its_process_is_looked_for_says_how_it_ended(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [replace(each, time=each.time - 1000) for each in embedding()]
    folder, stream = run("running", None, "here", *old), Stream()

    def end(*_: object) -> tuple[bool, Holder]:
        append(folder, replace(old[-1], ended=""))
        return False, Holder()

    monkeypatch.setattr("vpdist.display.watch.process_state", end)
    watch(folder, stream)
    assert stream.getvalue().splitlines()[-1].endswith("done, after 0:10")
    assert "dead" not in stream.getvalue()


def test_a_resumed_run_is_followed_though_an_earlier_command_has_ended(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stream = run("running", None, "here", *embedding("interrupted")), Stream()

    def resume(*_: object) -> tuple[bool, Holder]:
        append(folder, *embedding(), replace(embedding()[-1], elapsed=20, ended=""))
        return True, Holder()

    monkeypatch.setattr("vpdist.display.watch.process_state", resume)
    watch(folder, stream)
    assert stream.getvalue().splitlines()[-1].endswith("done, after 0:20")
    assert "ended: interrupted" not in stream.getvalue()


def test_rates_come_from_the_history_at_once(run: Callable[..., Path]) -> None:
    folder, stream = run("done", 0, "", *embedding("")), Stream()
    watch(folder, stream)
    assert "tokens_per_s=10" in stream.getvalue()


def test_a_replay_shows_all_that_was_recorded(run: Callable[..., Path]) -> None:
    made = [replace(each, elapsed=100 * each.elapsed) for each in embedding()]
    folder, stream = run("done", 0, "", *made, replace(made[-1], elapsed=1001, ended="")), Stream()
    replay(folder, stream, speed=1e6)
    lines = stream.getvalue().splitlines()
    assert ["elapsed_s=1000 " in lines[0], "elapsed_s=1001 " in lines[-2]] == [True, True]
    assert lines[-1].endswith("done, after 16:41")


def test_the_end_of_a_log_is_read_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    log = tmp_path / "rank00000.log"
    log.write_text("".join(f"line {number}\n" for number in range(5000)))
    assert log_tail(log)[-1] == "line 4999"
    assert len(log_tail(log)) < 100
    assert "No such file" in log_tail(tmp_path / "absent")[0]


def test_keys_are_taken_on_a_terminal_and_the_terminal_is_left_as_it_was(run: Callable[..., Path]) -> None:
    folder = run("running", None, "here", *embedding())
    (folder / "logs" / "rank00000.log").write_text("what rank 0 does\n")
    terminal = pexpect.spawn(
        "/bin/sh",
        ["-c", 'read line; exec "$@"', "sh", sys.executable, "-m", "vpdist", "watch", str(folder)],
        env=environment() | {"TERM": "xterm", "CI": ""},
        dimensions=(24, 80),
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    before = termios.tcgetattr(terminal.child_fd)
    terminal.sendline()  # only now the command changes the terminal
    terminal.expect("q quit")
    terminal.expect("embed 50.0 %")
    terminal.send("0\r")
    terminal.expect("what rank 0 does")
    terminal.send("q")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    after = termios.tcgetattr(terminal.child_fd)
    terminal.close()
    assert terminal.exitstatus == 0
    assert after[3] == before[3], "echo and lines as before"
