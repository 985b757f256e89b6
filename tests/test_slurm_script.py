"""The job script in docs/slurm.md, with stand-ins for Slurm's commands: what it makes of each end, and of its signal."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE_S = 600.0
SCRIPT = re.search(
    r"```bash\n(#!.*?)```", (Path(__file__).resolve().parents[1] / "docs" / "slurm.md").read_text(), re.DOTALL
)
STATUS = """mkdir -p run
        until [ run/status.json -nt started ]; do echo '{"exit_code": %s}' > run/status.json; done"""
"""Times of files tick every few milliseconds: a fast machine would write it in the very tick in which the step began."""
UNTIL_STOPPED = "until [ -e stopped ]; do sleep 0.05; done"
STAND_INS = {
    "srun": "touch started; %(srun)s",
    "scancel": 'echo "$*" >> cancelled; %(scancel)s; touch stopped',
    "scontrol": """if [ "$1" = requeue ]; then echo "$*" > requeued; exit; fi
        touch looked
        until [ ! -e hold ] || [ -e signalled ]; do sleep 0.05; done
        echo node1""",
    "vpdist": f'exec "{sys.executable}" -m vpdist "$@"',
}


@dataclass(frozen=True, slots=True)
class Job:
    """How the script ended."""

    code: int
    requeued: bool
    cancelled: list[str]
    """What `scancel` was called with."""


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., Job]:
    """Run the script, its `srun` and `scancel` being these lines of shell; `signal_when` is the file of whose appearance
    Slurm sends its signal."""
    assert SCRIPT is not None
    (tmp_path / "job.sh").write_text(SCRIPT[1])

    def run(srun: str, *, scancel: str = ":", signal_when: str | None = None) -> Job:
        commands = tmp_path / "bin"
        commands.mkdir()
        for name, text in STAND_INS.items():
            lines = text % {"srun": srun, "scancel": scancel} if name in ("srun", "scancel") else text
            (commands / name).write_text(f"#!/usr/bin/env bash\n{lines}\n")
            (commands / name).chmod(0o755)
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        variables = {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "SLURM_NNODES": "1"}
        job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=os.environ | variables)
        until = time.monotonic() + PATIENCE_S
        while signal_when is not None and not (tmp_path / signal_when).exists():
            assert job.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        if signal_when is not None:
            job.send_signal(signal.SIGUSR1)
            (tmp_path / "signalled").touch()
        code = job.wait(PATIENCE_S)
        cancelled = tmp_path / "cancelled"
        calls = cancelled.read_text().splitlines() if cancelled.exists() else []
        requeued = tmp_path / "requeued"
        assert not requeued.exists() or requeued.read_text() == "requeue 7\n"
        return Job(code, requeued.exists(), calls)

    return run


@pytest.mark.parametrize(
    ("srun", "code"),
    [
        (STATUS % 0, 0),
        (STATUS % 5 + "; exit 1", 5),
        (STATUS % 143 + "; exit 1", 143),
        (STATUS % "null" + "; exit 1", 1),
        ("exit 1", 2),
        ("exit 143", 143),
    ],
    ids=["done", "failures listed", "interrupted", "killed", "refused", "terminated before it began"],
)
def test_the_code_is_the_runs_and_what_was_interrupted_is_queued_again(
    srun: str, code: int, run_script: Callable[..., Job]
) -> None:
    assert run_script(srun) == Job(code, code == 143, [])


@pytest.mark.parametrize(
    "end",
    [STATUS % 143, STATUS % "null", ":"],
    ids=["told by status.json", "killed by the launcher", "stopped before any rank could say so"],
)
def test_what_slurms_signal_has_stopped_is_queued_again(end: str, run_script: Callable[..., Job]) -> None:
    job = run_script(f"{UNTIL_STOPPED}; {end}; exit 1", signal_when="started")
    assert job == Job(143, True, ["--signal=TERM 7.0"])


def test_a_run_that_finishes_all_the_same_is_not_queued_again(run_script: Callable[..., Job]) -> None:
    assert run_script(f"{UNTIL_STOPPED}; {STATUS % 0}", signal_when="started") == Job(0, False, ["--signal=TERM 7.0"])


def test_a_signal_is_passed_on_once_there_is_a_step(run_script: Callable[..., Job]) -> None:
    no_step_yet = '[ "$(wc -l < cancelled)" -gt 2 ] || exit 1'
    job = run_script(f"{UNTIL_STOPPED}; exit 1", scancel=no_step_yet, signal_when="started")
    assert job == Job(143, True, ["--signal=TERM 7.0"] * 3)


def test_a_signal_that_comes_before_there_is_anything_to_stop_is_passed_on_later(
    tmp_path: Path, run_script: Callable[..., Job]
) -> None:
    (tmp_path / "hold").touch()
    job = run_script(f"{UNTIL_STOPPED}; exit 1", signal_when="looked")
    assert job == Job(143, True, ["--signal=TERM 7.0"])


def test_an_earlier_status_is_not_taken_for_this_ones(tmp_path: Path, run_script: Callable[..., Job]) -> None:
    status = tmp_path / "run" / "status.json"
    status.parent.mkdir()
    status.write_text(json.dumps({"exit_code": 0}))
    os.utime(status, (0, 0))
    assert run_script("exit 1") == Job(2, False, [])


def test_the_check_under_a_real_slurm_says_why_it_is_skipped(tmp_path: Path) -> None:
    """As another user than root, whose number `id` tells; nothing is installed or started."""
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    check = Path(__file__).resolve().parents[1] / "scripts" / "checks" / "slurm.sh"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run([check], env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ended.returncode, ended.stdout) == (0, "skipped: Slurm's daemons need root\n")
