"""The run folder: one run at a time, nothing of others removed, abandoned locks taken over."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vpdist.errors import StorageError, UsageError
from vpdist.runfolder import STALE_AFTER_S, Lock, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.prepare(restart=False)
    return made


def write_lock(folder: RunFolder, host: str, pid: int, started: float) -> Path:
    lock = folder.path / "lock"
    lock.write_text(json.dumps({"host": host, "pid": pid, "started": started}))
    return lock


def test_a_new_folder_has_its_subfolders(folder: RunFolder) -> None:
    assert sorted(os.listdir(folder.path)) == ["at_work", "logs", "parts", "tokens"]


def test_a_second_run_in_the_folder_is_refused_naming_host_process_and_age(folder: RunFolder) -> None:
    first = Lock(folder)
    first.take()
    with pytest.raises(UsageError, match=rf"process {os.getpid()} on {socket.gethostname()}, last sign of life \d+ s"):
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


def test_restart_discards_the_run_and_nothing_else(folder: RunFolder) -> None:
    folder.update_run(a=1)
    (folder.parts / "unit-000000.h5").write_text("x")
    (folder.path / "sequences.tsv").write_text("x")
    (folder.path / "notes.txt").write_text("mine")
    folder.prepare(restart=True)
    assert sorted(os.listdir(folder.path)) == ["at_work", "logs", "notes.txt", "parts", "tokens"]
    assert os.listdir(folder.parts) == []


def test_a_folder_with_other_peoples_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"holds thesis\.tex"):
        RunFolder(tmp_path).prepare(restart=True)
    assert (tmp_path / "thesis.tex").exists()


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
