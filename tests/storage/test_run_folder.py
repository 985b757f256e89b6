"""The run folder: one run at a time, no foreign file removed, abandoned locks taken over."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.launched import wait_until
from vpdist.errors import Interrupted, StorageError, UsageError
from vpdist.session.session import Session
from vpdist.storage import lock_holder, run_lock
from vpdist.storage.lock_holder import Holder, this_process
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import STALE_AFTER_S, Lock


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run_folder = RunFolder(tmp_path / "run")
    run_folder.prepare(restart=False)
    return run_folder


NOW = time.time()
"""For the tests in which time stands still but for what is slept."""


def write_lock(folder: RunFolder, content: str | Holder, age_s: float = 0.0) -> Path:
    """A lock as another process has it, whole or absent; its last heartbeat was so long before NOW."""
    lock, complete = folder.path / "lock", folder.path.with_name("their lock")
    complete.write_text(content if isinstance(content, str) else content.to_json())
    os.utime(complete, (NOW - age_s, NOW - age_s))
    os.replace(complete, lock)
    return lock


ELSEWHERE = Holder(host="elsewhere", pid=7, boot_id="b", namespaces="n", start_ticks=1, token="t")


def test_a_new_folder_has_its_subfolders(folder: RunFolder) -> None:
    assert sorted(os.listdir(folder.path)) == ["at_work", "logs", "parts", "tokens"]


def test_a_second_run_in_the_folder_is_refused_naming_host_process_and_age(folder: RunFolder) -> None:
    first = Lock(folder)
    first.take()
    with pytest.raises(UsageError, match=rf"process {os.getpid()} on {socket.gethostname()}, last heartbeat \d+ s"):
        Lock(folder).take()
    first.release()
    second = Lock(folder)
    second.take()
    second.release()
    assert not (folder.path / "lock").exists()


class Watch:
    """Stands in for the time module of run_lock: counts the seconds slept, and does something during a sleep.

    No other time passes, however slow the machine is."""

    def __init__(self, during: Callable[[], object] = lambda: None, at_look: int = 1) -> None:
        self.slept_s, self._looks, self._during, self._at_look = 0.0, 0, during, at_look

    def time(self) -> float:
        return NOW + self.slept_s

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self._looks += 1
        if self._looks == self._at_look:
            self._during()


AGES = {"young": 3.0, "old": 3600.0, "in the future": -3600.0}
"""What a file says of its last heartbeat; a file server's clock may be off."""


def another_namespace() -> Holder:
    """A process of another container with this host's name, whose number nobody has here."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return replace(this_process(), pid=ended.pid, namespaces="pid:[1] time:[1]")


UNKNOWN = {
    "elsewhere": lambda: ELSEWHERE,
    "another namespace": another_namespace,
    "another boot": lambda: replace(this_process(), boot_id="another"),
    "empty, after a power cut": lambda: "",
    "of a version before": lambda: json.dumps({"host": socket.gethostname(), "pid": 1, "started": 1.0}),
}


@pytest.mark.parametrize("who", UNKNOWN)
@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("at_look", [1, 10])
def test_a_lock_that_is_touched_while_it_is_watched_is_held(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, who: str, age: str, at_look: int
) -> None:
    lock = write_lock(folder, UNKNOWN[who](), AGES[age])
    content = lock.read_text()
    watch = Watch(lambda: os.utime(lock), at_look)
    monkeypatch.setattr(run_lock, "time", watch)
    told: list[str] = []
    with pytest.raises(UsageError, match=r"is in use: process \d+ on .*, last heartbeat 0 s ago"):
        Lock(folder).take(told.append)
    assert "watching its lock" in told[0]
    assert watch.slept_s == at_look * run_lock.LOOK_S
    assert lock.read_text() == content


@pytest.mark.parametrize("who", UNKNOWN)
@pytest.mark.parametrize(("age", "watched_s"), [("young", 57), ("old", 15), ("in the future", 60)])
def test_a_lock_that_nothing_touches_is_taken_over_after_some_beats_and_a_minute_of_silence_at_most(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, who: str, age: str, watched_s: float
) -> None:
    write_lock(folder, UNKNOWN[who](), AGES[age])
    watch = Watch()
    monkeypatch.setattr(run_lock, "time", watch)
    lock = Lock(folder)
    lock.take()
    assert watch.slept_s == pytest.approx(watched_s, abs=2)
    assert Holder.from_json(lock.path.read_text()).pid == os.getpid()
    lock.release()


def test_a_process_that_another_user_hides_is_not_taken_for_gone(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = write_lock(folder, this_process())

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(lock_holder.os, "kill", refuse)
    monkeypatch.setattr(lock_holder, "_state_and_start", lambda _: None)
    monkeypatch.setattr(run_lock, "time", Watch(lambda: os.utime(lock)))
    with pytest.raises(UsageError, match=f"process {os.getpid()}"):
        Lock(folder).take()


def test_a_lock_whose_process_is_gone_is_taken_over_at_once(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # nobody has collected its status: it has its number still
    gone = replace(this_process(), pid=ended.pid, start_ticks=lock_holder._state_and_start(ended.pid)[1])
    for collected in (False, True):
        if collected:
            ended.wait()
        write_lock(folder, gone, AGES["in the future"])
        watch = Watch()
        monkeypatch.setattr(run_lock, "time", watch)
        lock = Lock(folder)
        lock.take()
        lock.release()
        assert watch.slept_s == 0


def test_a_lock_whose_process_number_was_given_to_another_process_is_taken_over(folder: RunFolder) -> None:
    write_lock(folder, replace(this_process(), pid=os.getppid(), start_ticks=1))
    lock = Lock(folder)
    lock.take()
    lock.release()


def test_a_lock_that_is_released_while_it_is_watched_is_taken(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lock(folder, ELSEWHERE)
    watch = Watch(path.unlink)
    monkeypatch.setattr(run_lock, "time", watch)
    lock = Lock(folder)
    lock.take()
    lock.release()
    assert watch.slept_s == run_lock.LOOK_S


def test_a_lock_that_changes_hands_while_it_is_watched_is_held_by_the_new_holder(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock(folder, ELSEWHERE)
    monkeypatch.setattr(run_lock, "time", Watch(lambda: write_lock(folder, this_process())))
    with pytest.raises(UsageError, match=f"process {os.getpid()} on {socket.gethostname()}"):
        Lock(folder).take()


def test_watching_ends_when_the_run_is_to_end(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(folder, ELSEWHERE)
    watch = Watch()
    monkeypatch.setattr(run_lock, "time", watch)

    def stop() -> None:
        raise Interrupted("stopped by SIGTERM")

    with pytest.raises(Interrupted):
        Lock(folder).take(raise_if_ending=stop)
    assert watch.slept_s == 0


def test_a_run_that_loses_its_temporary_file_to_the_winners_cleaning_tries_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = run_lock._claim, []

    def claim(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            folder.remove_temporary_files()
        real(*arguments)

    monkeypatch.setattr(run_lock, "_claim", claim)
    lock = Lock(folder)
    lock.take()
    lock.release()
    assert len(calls) == 2


def test_a_lock_is_on_the_disk_before_it_has_its_name(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    fsync, link = os.fsync, os.link

    def note_fsync(descriptor: int) -> None:
        calls.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def note_link(source: Path, target: Path) -> None:
        calls.append(("link", target.name))
        link(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    lock = Lock(folder)
    lock.take()
    lock.release()
    assert [call for call, _ in calls] == ["fsync", "link", "fsync"]
    assert calls[0][1].startswith(".lock.")
    assert calls[2][1] == folder.path.name


def test_a_lock_whose_thread_cannot_be_started_is_not_held(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="thread"):
            Lock(folder).take()
    assert not (folder.path / "lock").exists()
    lock = Lock(folder)
    lock.take()
    lock.release()


RUN_JSON = '{"versions": {}, "decisions": {}}'


def test_restart_discards_the_run_and_nothing_else(folder: RunFolder) -> None:
    ours = ["run.json", "sequences.tsv", "parts/unit-000000.h5", "parts/.unit-000001.h5.77.tmp", "tokens/stdin"]
    ours += ["logs/rank00000.log", "at_work/rank00001.77", "tokens/block-000000.h5", "progress.jsonl"]
    theirs = ["notes.txt", "parts/model.pt", "logs/mine.log", "tokens/stdin.txt"]
    for name in (*ours, *theirs):
        (folder.path / name).write_text(RUN_JSON if name == "run.json" else "x")
    folder.prepare(restart=True)
    left = sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file())
    assert left == sorted(theirs)
    assert sorted(os.listdir(folder.path)) == ["at_work", "logs", "notes.txt", "parts", "tokens"]


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize(
    "name",
    ["thesis.tex", "sequences.tsv", "logs/mine.log", "parts/bolt.step", "tokens/secret", "run.json", "progress.jsonl"],
)
def test_a_folder_with_foreign_files_is_refused_and_keeps_them(tmp_path: Path, name: str, restart: bool) -> None:
    """Without a run's run.json or status.json, names like those of a run are somebody else's."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=rf"holds {name} and no run"):
        RunFolder(tmp_path).prepare(restart=restart)
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_what_a_command_left_that_was_killed_before_its_status_is_taken(folder: RunFolder) -> None:
    for name in ("lock", "progress.jsonl", "logs/rank00000.log", "tokens/.stdin.77.tmp", ".seen-by-all-7-7"):
        (folder.path / name).write_text("x")
    folder.prepare(restart=False)


def test_what_killed_processes_left_in_the_token_store_is_removed_and_the_store_kept(folder: RunFolder) -> None:
    left = ("raw-000003.h5", "raw-1234567.h5", "stdin.again", "files-from.again")
    kept = ("block-000003.h5", "stdin", "files-from", "raw-3.h5", "raw-000003.h5.old", "names.h5")
    for name in (*left, *kept):
        (folder.tokens / name).write_text("x")
    folder.remove_temporary_files()
    assert sorted(os.listdir(folder.tokens)) == sorted(kept)


def test_temporary_files_of_others_are_left(folder: RunFolder) -> None:
    ours = (".run.json.77.tmp", "tokens/.plan.h5.0123456789abcdef.tmp", ".lock.host.77.old.tmp", ".lock.0f.tmp")
    theirs = (".draft.tmp", "parts/.bolt.step.77.tmp")
    for name in (*ours, *theirs):
        (folder.path / name).write_text("x")
    folder.remove_temporary_files()
    left = {str(path.relative_to(folder.path)) for path in folder.path.rglob(".*")}
    assert left == set(theirs)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        RunFolder(tmp_path / "x").prepare(restart=False)
    with pytest.raises(UsageError, match="is not a folder"):
        RunFolder(tmp_path / "x").check_writable()


def test_a_folder_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(StorageError, match="x/run"):
        RunFolder(tmp_path / "x" / "run").prepare(restart=False)


def test_status_and_run_are_json(folder: RunFolder) -> None:
    folder.write_status("done", 0, "all well")
    folder.update_run(a=1)
    folder.update_run(b="é")
    status = json.loads(folder.status.read_text())
    assert (status["state"], status["exit_code"], status["message"]) == ("done", 0, "all well")
    assert json.loads(folder.run.read_text()) == {"a": 1, "b": "é"}


@pytest.fixture
def fast_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(run_lock, "RECHECK_S", 0.1)


@pytest.fixture
def held(folder: RunFolder, fast_heartbeat: None) -> Iterator[Lock]:
    lock = Lock(folder)
    lock.take()
    yield lock
    lock.release()


def age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def make_old(path: Path) -> None:
    os.utime(path, (1.0, 1.0))


@pytest.mark.parametrize("call", ["utime", "open"])
def test_heartbeats_continue_after_an_error_which_is_logged_once(
    held: Lock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    real, calls = getattr(os, call), []

    def fail(path: Path, *arguments: object, **options: object) -> object:
        if path != held.path or threading.current_thread() is threading.main_thread():
            return real(path, *arguments, **options)
        calls.append(path)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        wait_until(lambda: len(calls) >= 3, "three failing heartbeats")
        make_old(held.path)
    wait_until(lambda: age(held.path) < 10, "a heartbeat after the errors")
    held.raise_if_lost()
    assert [record.getMessage().count("Stale file handle") for record in caplog.records] == [1]


def test_a_lock_that_was_taken_over_is_reported_with_its_holder_and_neither_touched_nor_removed(
    folder: RunFolder, held: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, taken_over = held.path, run_lock._look, []

    def look(lock: Path) -> tuple[str, int]:
        if not taken_over:  # before a heartbeat looks, not between its look and its touch
            taken_over.append(write_lock(folder, ELSEWHERE, 10 * STALE_AFTER_S))
        return real(lock)

    monkeypatch.setattr(run_lock, "_look", look)
    wait_until(lambda: is_lost(held), "the loss to be noticed")
    with pytest.raises(StorageError, match=rf"{folder.path} was taken over by process 7 on elsewhere"):
        held.raise_if_lost()
    held.release()
    assert json.loads(path.read_text())["host"] == "elsewhere"
    assert age(path) > STALE_AFTER_S


def test_a_lock_that_has_vanished_is_reported(folder: RunFolder, held: Lock) -> None:
    held.path.unlink()
    wait_until(lambda: is_lost(held), "the loss to be noticed")
    held.release()
    assert not held.path.exists()


def test_a_lock_that_is_away_for_a_moment_is_still_held(
    held: Lock, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another run takes it for abandoned, and gives it back."""
    aside, reads, real = folder.path / "aside", 0, run_lock._look

    def read(path: Path) -> tuple[str, int]:
        nonlocal reads
        reads += 1
        if reads == 1:
            path.rename(aside)
        elif reads == 2:
            aside.rename(path)
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(run_lock, "_look", read)
        wait_until(lambda: reads > 2, "a check after it came back")
    held.raise_if_lost()


def test_a_release_gives_back_a_lock_that_came_in_place_of_its_own(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken over in the very moment between looking and removing."""
    lock = Lock(folder)
    lock.take()
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        write_lock(folder, ELSEWHERE)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    lock.release()
    assert json.loads(lock.path.read_text())["host"] == "elsewhere"
    assert not list(folder.path.glob(".lock*"))


def test_the_last_status_is_not_written_over_that_of_the_run_that_took_over(folder: RunFolder) -> None:
    lock = Lock(folder)
    lock.take()
    folder.write_status("running", None, "the other's")
    write_lock(folder, ELSEWHERE)  # the heartbeat has not looked yet
    control = SimpleNamespace(lock=lock, is_first=True)
    session = Session(control, folder, None, begun=True)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="process 7 on elsewhere"):
        session.end("interrupted", 143, "stopped")
    lock.release()
    assert json.loads(folder.status.read_text())["message"] == "the other's"


def is_lost(lock: Lock) -> bool:
    try:
        lock.raise_if_lost()
    except StorageError:
        return True
    return False
