"""The run folder: one run at a time, no foreign file removed, abandoned locks taken over."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.launched import wait_until
from vpdist.errors import StorageError, UsageError
from vpdist.session.session import Session
from vpdist.storage import run_lock
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import STALE_AFTER_S, Lock


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run_folder = RunFolder(tmp_path / "run")
    run_folder.prepare(restart=False)
    return run_folder


def write_lock(folder: RunFolder, host: str, pid: int, started: float) -> Path:
    lock = folder.path / "lock"
    lock.write_text(json.dumps({"host": host, "pid": pid, "started": started}))
    return lock


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


def test_a_lock_whose_process_is_gone_is_taken_over(folder: RunFolder) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_lock(folder, socket.gethostname(), ended.pid, time.time())
    lock = Lock(folder)
    lock.take()
    lock.release()


def test_a_lock_whose_process_number_was_given_to_another_process_is_taken_over(folder: RunFolder) -> None:
    write_lock(folder, socket.gethostname(), os.getppid(), 12345.0)
    lock = Lock(folder)
    lock.take()
    lock.release()


def test_a_lock_from_another_host_holds_while_its_heartbeat_is_young(folder: RunFolder) -> None:
    path = write_lock(folder, "elsewhere", 1, 1.0)
    with pytest.raises(UsageError, match="process 1 on elsewhere"):
        Lock(folder).take()
    old = time.time() - STALE_AFTER_S - 5
    os.utime(path, (old, old))
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
    folder: RunFolder, held: Lock
) -> None:
    path = write_lock(folder, "elsewhere", 7, 1.0)
    make_old(path)
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
    aside, reads, real = folder.path / "aside", 0, run_lock._read

    def read(path: Path) -> str:
        nonlocal reads
        reads += 1
        if reads == 1:
            path.rename(aside)
        elif reads == 2:
            aside.rename(path)
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(run_lock, "_read", read)
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
        write_lock(folder, "elsewhere", 7, 1.0)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    lock.release()
    assert json.loads(lock.path.read_text())["host"] == "elsewhere"
    assert not list(folder.path.glob(".lock*"))


def test_the_last_status_is_not_written_over_that_of_the_run_that_took_over(folder: RunFolder) -> None:
    lock = Lock(folder)
    lock.take()
    folder.write_status("running", None, "the other's")
    write_lock(folder, "elsewhere", 7, 1.0)  # the heartbeat has not looked yet
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
