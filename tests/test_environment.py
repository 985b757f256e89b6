"""A process and the launcher that started it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.launched import PATIENCE_S, environment
from vpdist.environment import (
    FOREIGN,
    SPIN_COUNT,
    LaunchContext,
    bound_spinning,
    described_to_accelerate,
    launch_context,
    unused_launcher,
)

WORKER = """
import sys
from vpdist.environment import ending_with_launcher, launch_context

with ending_with_launcher():
    print("up", flush=True)
    sys.stdin.read()
print(launch_context().launched, launch_context().orphaned)
"""


def test_a_process_goes_on_when_only_the_thread_ends_that_started_it() -> None:
    started: list[subprocess.Popen[str]] = []

    def start() -> None:
        context = {"RANK": "0", "WORLD_SIZE": "1"}
        command = [sys.executable, "-c", WORKER]
        worker = subprocess.Popen(
            command, env=environment() | context, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(worker)
        assert worker.stdout is not None
        worker.stdout.readline()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (worker,) = started
    output, _ = worker.communicate(timeout=PATIENCE_S)
    assert output == "True False\n"
    assert worker.returncode == 0


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT") or name.startswith((*FOREIGN, "SLURM_")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("name", ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"])
def test_a_process_alone_is_one_process_and_says_which_variable_it_does_not_use(
    name: str, no_launcher: pytest.MonkeyPatch
) -> None:
    no_launcher.setenv(name, "2")
    assert launch_context() == LaunchContext()
    assert f"{name}=2 is not used" in unused_launcher()


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_nothing_is_said_of_a_launcher_of_one_process(value: str, no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv("WORLD_SIZE", value)
    assert unused_launcher() == ""


def test_accelerate_on_cpus_is_told_how_to_start_two_ranks(no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv("ACCELERATE_USE_CPU", "True")
    assert unused_launcher() == ""
    no_launcher.setenv("MASTER_PORT", "29500")  # accelerate sets it for two processes or more
    assert "--multi_gpu --num_processes 2" in unused_launcher()


@pytest.mark.parametrize("world_size", [1, 3])
def test_accelerate_reads_one_launcher_only_and_leaves_nothing_behind(
    world_size: int, no_launcher: pytest.MonkeyPatch
) -> None:
    stray = {
        "PMI_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "ACCELERATE_TORCH_DEVICE": "meta",
        "LOCAL_RANK": "x",
        "WORLD_SIZE": "7",
    }
    for name, value in stray.items():
        no_launcher.setenv(name, value)
    before = dict(os.environ)
    context = LaunchContext(rank=world_size - 1, world_size=world_size, master_address="127.0.0.1", master_port=1)
    with described_to_accelerate(context):
        seen = {name: value for name, value in os.environ.items() if before.get(name) != value}
        assert not os.environ.keys() & {"PMI_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "ACCELERATE_TORCH_DEVICE"}
        if world_size == 1:
            assert not os.environ.keys() & {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
        else:
            assert (seen["RANK"], seen["WORLD_SIZE"], seen["LOCAL_RANK"]) == ("2", "3", "0")
        os.environ["RANK"] = "5"
    assert dict(os.environ) == before


STREAMS = """
import os, sys
from vpdist.standard_streams import open_standard_streams

open_standard_streams()
print("to nobody")
print("to nobody", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as file:
    file.write(f"{file.fileno() > 2} {sys.stdin.read()!r} {[os.get_inheritable(number) for number in range(3)]}")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_opened_before_another_file_takes_their_place(closed: str, tmp_path: Path) -> None:
    command = f'exec "$0" -c "$1" "$2" {closed}'
    arguments = ["sh", "-c", command, sys.executable, STREAMS, str(tmp_path / "file")]
    ended = subprocess.run(
        arguments, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
    )
    assert ended.returncode == 0
    assert (tmp_path / "file").read_text() == "True '' [True, True, True]"


SHELL = """
import os, pty, subprocess, sys, tempfile
own_group, with_terminal, told = sys.argv[1] == "job control", sys.argv[2] == "terminal", tempfile.TemporaryFile()
pid = pty.fork()[0] if with_terminal else os.fork()
if pid == 0:
    if not with_terminal:
        os.setsid()
    command = [sys.executable, "-c", "from vpdist.environment import *; print(launch_context().world_size, unused_launcher())"]
    task = {"SLURM_TASK_PID": str(os.getpid()), "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "1"}
    subprocess.run(command, stdout=told, env=os.environ | task, process_group=0 if own_group else None, check=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
told.seek(0)
print(told.read().decode(), end="")
"""
"""A task of four, which starts a process as an interactive shell does or as a script does, on a terminal or not."""


@pytest.mark.parametrize(
    ("job_control", "terminal", "world_size"),
    [("job control", "terminal", 1), ("script", "terminal", 4), ("job control", "none", 4), ("script", "none", 4)],
)
def test_a_command_typed_into_the_shell_of_a_task_is_one_process(
    job_control: str, terminal: str, world_size: int, no_launcher: pytest.MonkeyPatch
) -> None:
    told = subprocess.run(
        [sys.executable, "-c", SHELL, job_control, terminal], capture_output=True, text=True, timeout=600, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(str(world_size))
    assert ("SLURM_STEP_NUM_TASKS=4 is not used" in told.stdout) == (world_size == 1)


def test_waiting_threads_spin_for_a_while_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    bound_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == SPIN_COUNT
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    bound_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    bound_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
