"""How a command ends whose run has not begun."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launched import environment
from vpdist.errors import InputError, UsageError
from vpdist.session.before_begin import before_begin, record
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import Lock

STOPPED = """
import os, signal, sys
from pathlib import Path
from vpdist.session.before_begin import before_begin
from vpdist.storage.run_folder import RunFolder

with before_begin(RunFolder(Path(sys.argv[1]))):
    if sys.argv[2:]:
        Path(sys.argv[1], "status.json").write_text(sys.argv[2])
    os.kill(os.getpid(), signal.SIGTERM)
    print("never reached")
"""


def stop(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STOPPED, str(folder), *arguments],
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def status(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "status.json").read_text()))


@pytest.mark.parametrize("exists", [True, False])
def test_a_signal_ends_the_process_and_is_recorded(exists: bool, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    if exists:
        folder.mkdir(parents=True)
        (folder / "status.json").write_text('{"state": "done", "exit_code": 0, "failing_rank": null}')
    ended = stop(folder)
    assert (ended.returncode, ended.stdout) == (143, "")
    assert ended.stderr == "vpdist: stopped by SIGTERM before it began; run the same command again to resume\n"
    assert (status(folder)["state"], status(folder)["exit_code"]) == ("interrupted", 143)
    assert sorted(path.name for path in folder.iterdir()) == ["status.json"]


def test_a_run_that_has_ended_meanwhile_keeps_its_status(tmp_path: Path) -> None:
    assert stop(tmp_path, '{"state": "done"}').returncode == 143
    assert status(tmp_path) == {"state": "done"}


def test_only_the_first_rank_records_and_speaks(tmp_path: Path) -> None:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    ended = stop(tmp_path / "run", RANK="1", WORLD_SIZE="2", **meeting)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_or_with_other_files_is_left_alone(tmp_path: Path) -> None:
    held, foreign = RunFolder(tmp_path / "held"), RunFolder(tmp_path / "foreign")
    for folder in (held, foreign):
        folder.path.mkdir()
    (foreign.path / "thesis.tex").touch()
    lock = Lock(held)
    lock.take()
    try:
        for folder in (held, foreign):
            record(folder, "interrupted", 143, "stopped")
            assert not folder.status.exists()
        record(held, "interrupted", 143, "stopped", lock=lock)
        assert held.status.exists()
    finally:
        lock.release()


def test_a_folder_that_cannot_be_written_is_no_new_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    record(RunFolder(tmp_path / "file" / "run"), "interrupted", 143, "stopped")
    record(RunFolder(tmp_path / ("x" * 300)), "interrupted", 143, "stopped")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_is_recorded_and_one_of_usage_is_not(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    folder = RunFolder(tmp_path)
    with pytest.raises(UsageError), before_begin(folder):
        raise UsageError("no such option")
    assert not folder.status.exists()
    with pytest.raises(InputError), before_begin(folder):
        raise InputError("no such file", path="reads.fa")
    assert (status(tmp_path)["state"], status(tmp_path)["exit_code"]) == ("failed", 3)
    assert before == {number: signal.getsignal(number) for number in before}
    assert os.listdir(tmp_path) == ["status.json"]
