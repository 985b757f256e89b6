"""The first line of a command and its last words."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import vpdist
from tests.launched import PATIENCE_S, environment, wait_until
from vpdist.session import after_agent, last_words
from vpdist.session.first_sign import first_sign
from vpdist.session.last_words import say_after_agent, tell_agent, with_log
from vpdist.storage.run_folder import RunFolder


def test_the_sentence_stands_where_torchrun_prints_root_causes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    tell_agent("reads.fa: line 7: \x1b[2J not valid")
    silent = ProcessFailure(local_rank=1, pid=2, exitcode=3, error_file=str(tmp_path / "none"))
    told = ProcessFailure(local_rank=0, pid=1, exitcode=3, error_file=str(path))
    printed = str(ChildFailedError("vpdist", {1: silent, 0: told}))
    root_cause = printed.split("Root Cause")[1]
    assert "reads.fa: line 7:  [2J not valid" in root_cause
    assert "\x1b" not in printed


def test_without_an_agent_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    tell_agent("why")
    assert not (tmp_path / "error.json").exists()


def test_an_agents_file_that_cannot_be_written_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "absent" / "error.json"))
    tell_agent("why")


def test_the_log_is_named_where_there_is_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert with_log("why", None) == with_log("why", folder.log(3)) == "why"
    folder.log(3).parent.mkdir()
    folder.log(3).touch()
    assert with_log("why", folder.log(3)) == f"why\nlog: {tmp_path}/logs/rank00003.log"


def test_a_log_that_cannot_be_looked_for_keeps_no_command_from_its_end() -> None:
    refused = Path("x" * 300)  # as a disk with a fault is, or a folder without permission
    with pytest.raises(OSError, match="too long"):
        refused.stat()
    assert with_log("why", refused) == "why"


def test_a_text_is_written_once_the_process_has_ended_and_never_where_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        descriptor = os.pidfd_open(process.pid)
        monkeypatch.setattr(after_agent, "LOOKS", 1)
        after_agent.write_after(descriptor, "too early")
        assert capfd.readouterr().err == ""
        process.kill()
        process.wait()
        after_agent.write_after(descriptor, "in the end")
        os.close(descriptor)
    assert capfd.readouterr().err == "in the end"


@pytest.mark.parametrize("lacks", ["agent", "terminal", "foreign launcher"])
def test_no_process_is_started_where_nobody_would_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_ERROR_FILE": str(tmp_path / "error.json")}
    if lacks == "agent":
        del variables["TORCHELASTIC_ERROR_FILE"]
    if lacks == "foreign launcher":
        variables["VPDIST_STORE_SECRET"] = "secret"
    for name in (*variables, "TORCHELASTIC_ERROR_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    started: list[list[str]] = []
    monkeypatch.setattr(last_words.subprocess, "Popen", lambda command, **options: started.append(command))
    master, slave = os.openpty()
    with open(master, "rb"), open(slave, "w") as terminal, (tmp_path / "file").open("w") as file:
        say_after_agent("why", file if lacks == "terminal" else terminal)
        assert started == []
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
        monkeypatch.delenv("VPDIST_STORE_SECRET", raising=False)
        say_after_agent("why", terminal)
    assert [command[-1] for command in started] == ["vpdist: why\n"]


@pytest.mark.launcher
def test_after_ctrl_c_the_sentence_stands_below_the_traceback_of_torchrun(tmp_path: Path) -> None:
    ranks = (
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "tests.session_worker",
        str(tmp_path / "run"),
        "-1",
        "none",
        "-1",
    )
    command = shlex.join([sys.executable, "-m", "torch.distributed.run", *ranks])
    shell = f"trap : INT; {command}; read line"  # the shell holds the terminal open, as a user's does
    terminal = pexpect.spawn(
        "/bin/sh", ["-c", shell], env=environment(), dimensions=(50, 200), encoding="utf-8", timeout=PATIENCE_S
    )
    status = RunFolder(tmp_path / "run").status
    wait_until(lambda: status.exists() and "running" in status.read_text(), "the ranks have begun")
    terminal.sendintr()
    terminal.expect("SignalException: Process [0-9]+ got signal: 2")
    terminal.expect_exact("vpdist: stopped by SIGINT; run the same command again to resume")
    terminal.expect_exact(f"log: {tmp_path}/run/logs/rank00000.log")
    terminal.sendline()
    terminal.expect(pexpect.EOF)
    assert "Traceback" not in terminal.before
    assert json.loads(status.read_text())["exit_code"] == 128 + signal.SIGINT
    terminal.wait()
    terminal.close()


@pytest.mark.parametrize(
    ("state", "restart", "told"),
    [
        (None, False, "starting"),
        (None, True, "starting"),
        ("done", False, "complete since 2026-11-26 12:04; checking its files, only what is missing is computed"),
        ("done_with_failures", False, "complete (failures are listed) since"),
        ("done", True, "starting anew, what it holds is discarded"),
        ("interrupted", False, "going on with a run that was interrupted (2026-11-26 12:04)"),
        ("running", False, "going on with a run that was ended without a word"),
    ],
)
def test_the_first_line_says_what_becomes_of_the_folder(
    tmp_path: Path, state: str | None, restart: bool, told: str
) -> None:
    folder = RunFolder(tmp_path)
    if state is not None:
        status = {"state": state, "exit_code": 0, "failing_rank": None, "updated": "2026-11-26T12:04:11+0000"}
        folder.status.write_text(json.dumps(status))
    line = first_sign(folder, restart=restart)
    assert line.startswith(f"vpdist {vpdist.__version__}, {tmp_path}: {told}")
    assert "\n" not in line
