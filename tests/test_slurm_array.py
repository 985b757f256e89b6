"""The array script in docs/many-jobs.md, with stand-ins for vpdist and Slurm's commands: each task its shard, and what it
makes of each end and of Slurm's signal."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

PATIENCE_S = 600.0
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "many-jobs.md").read_text()
SCRIPT = re.search(r"```bash\n(#!.*?)```", PAGE, re.DOTALL)
UNTIL_STOPPED = "trap 'exit %s' TERM; touch started; while :; do sleep 0.05; done"


def run_script(folder: Path, vpdist: str, *, stopped: bool = False) -> tuple[int, str, bool]:
    """Exit code of the script, arguments of `vpdist`, which is this line of shell, and whether the task was requeued.
    `stopped`: Slurm sends its signal once that has started."""
    assert SCRIPT is not None
    (folder / "job.sh").write_text(SCRIPT[1])
    commands = folder / "bin"
    commands.mkdir()
    for name, line in (("vpdist", f'echo "$*" > arguments; {vpdist}'), ("scontrol", 'echo "$*" > requeued')):
        (commands / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (commands / name).chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "2"}
    job = subprocess.Popen(["bash", "job.sh"], cwd=folder, env=os.environ | variables)
    until = time.monotonic() + PATIENCE_S
    while stopped and not (folder / "started").exists():
        assert job.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    if stopped:
        job.send_signal(signal.SIGUSR1)
    code = job.wait(PATIENCE_S)
    requeued = folder / "requeued"
    assert not requeued.exists() or requeued.read_text() == "requeue 9\n"
    return code, (folder / "arguments").read_text(), requeued.exists()


@pytest.mark.parametrize("code", [0, 2, 5, 137])
def test_a_task_runs_its_shard_and_ends_with_its_exit_code(tmp_path: Path, code: int) -> None:
    found, arguments, requeued = run_script(tmp_path, f"exit {code}")
    assert (found, requeued) == (code, False)
    assert "--manifest manifest.tsv --shard 5/7 -o run-5 " in arguments


@pytest.mark.parametrize(("code", "again"), [(143, True), (0, False)])
def test_a_task_that_is_stopped_before_its_time_is_over_is_queued_again_unless_it_was_done(
    tmp_path: Path, code: int, again: bool
) -> None:
    found, _, requeued = run_script(tmp_path, UNTIL_STOPPED % code, stopped=True)
    assert (found, requeued) == (code, again)


def test_as_many_tasks_as_shards_are_merged() -> None:
    assert SCRIPT is not None
    array, n = re.search(r"--array=1-(\d+)", SCRIPT[1]), re.search(r"^n=(\d+)", SCRIPT[1], re.MULTILINE)
    assert array is not None
    assert n is not None
    assert array[1] == n[1]
    merged = re.search(r"vpdist merge ((?:run-\d+ )+)-o RUN\n```\n$", PAGE)
    assert merged is not None
    assert merged[1].split() == [f"run-{number}" for number in range(1, int(n[1]) + 1)]
