"""Support for tests that start real launchers: torchrun with `progress_worker.py`, and the ranks' reports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WORKER = Path(__file__).with_name("progress_worker.py")
PATIENCE_S = 600.0
"""Longer than any wait of these tests takes on a busy machine."""


def torchrun(folder: Path, *scenarios: str, options: tuple[str, ...]) -> list[str]:
    """The command that runs the worker under torchrun."""
    return [sys.executable, "-m", "torch.distributed.run", *options, str(WORKER), str(folder), *scenarios]


def environment() -> dict[str, str]:
    """For a launcher: the package importable, and no variable of a launcher that runs the tests."""
    launchers = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "CI")
    keep = {name: value for name, value in os.environ.items() if name not in launchers}
    root = str(WORKER.parents[1])
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": f"{PATIENCE_S:.0f}"}  # before torchrun kills ranks that are to stop
    return {**keep, **patience, "PYTHONPATH": root, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}


@contextmanager
def launched(folder: Path, *commands: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Running launchers, their output in folder/launcher-N.txt; they and their workers are killed in the end."""
    agents = []
    for number, command in enumerate(commands):
        with (folder / f"launcher-{number}.txt").open("wb") as output:
            agents.append(
                subprocess.Popen(
                    command, env=environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
            )
    try:
        yield agents
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
        for path in folder.glob("*.started.json"):
            end(json.loads(path.read_text())["pid"])


def end(pid: int) -> None:
    """Kill a worker, if it is still running."""
    if lives(pid):
        os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether the process is a running worker of these tests."""
    try:
        status, command = Path(f"/proc/{pid}/stat").read_text(), Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z" and WORKER.name.encode() in command


def wait_until(ready: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Poll until `ready()`; after `patience_s` the test fails with a message that names `what`."""
    until = time.monotonic() + patience_s
    while not ready():
        assert time.monotonic() < until, f"{what}: not within {patience_s:.0f} s"
        time.sleep(0.02)


def report_of(folder: Path, name: str) -> dict[str, object]:
    """What a rank wrote to folder/name.json; waits for it."""
    path = folder / f"{name}.json"
    try:
        wait_until(path.exists, name)
    except AssertionError as error:
        outputs = "".join(path.read_text(errors="replace")[-3000:] for path in sorted(folder.glob("launcher-*.txt")))
        raise AssertionError(f"{error}\n{outputs}") from None
    return dict(json.loads(path.read_text()))
