"""The tasks that one `srun` starts, described by the variables that torchrun would set for them.

A job step of several tasks is a launch of so many ranks: Slurm says which task this is and on which nodes the others
are. Where they meet follows from the job's number, so nobody has to choose a port.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vpdist.errors import UsageError

FIRST_PORT, PORTS, PER_STEP = 15_000, 15_000, 1_009
"""Ports below the kernel's range of free ones; neighbouring jobs, and the steps of a job, have different ones."""
FIRST_SPECIAL_STEP = 0xFFFF_FFF0
"""Numbers from here on are no steps of tasks, but a job's script or an interactive shell."""
LONE_TASK = "SLURM_STEP_NUM_TASKS=1"
"""Put before a command, it is a run of its own."""


def launch_variables(environ: Mapping[str, str], *, by_hand: bool = False) -> dict[str, str]:
    """RANK, WORLD_SIZE, ... of this task; empty where no `srun` has started several tasks.

    The variables of a job say how many tasks it may start, those of a step how many were started: a job's script, or
    the shell of an allocation, is one process. Raises UsageError where Slurm does not say where the tasks meet.

    Args:
        environ: the process's environment.
        by_hand: whether somebody has typed the command into a shell, which may be a task (`srun -n 4 --pty bash`).
    """
    if by_hand or "SLURM_PROCID" not in environ or not environ.keys() & {"SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID"}:
        return {}
    try:
        tasks = int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or 1)
        step = int(environ.get("SLURM_STEP_ID", 0))
        if tasks == 1 or step >= FIRST_SPECIAL_STEP or _of_another_step(environ, tasks):
            return {}
        return _torchrun_variables(environ, tasks, step)
    except (KeyError, ValueError, IndexError) as error:
        raise UsageError(
            f"srun has started several tasks, but its variables do not say where these meet ({error}): start one "
            f"torchrun per node (docs/slurm.md), or put {LONE_TASK} before a command that is its own run"
        ) from error


def _of_another_step(environ: Mapping[str, str], tasks: int) -> bool:
    """Whether the step's variables are left over from the step in which this job was submitted: `sbatch` hands on the
    environment, and Slurm sets anew what it says of a job and of a task (SLURM_GTIDS: this node's tasks) only."""
    nodes = int(environ.get("SLURM_STEP_NUM_NODES") or 1)
    if int(environ.get("SLURM_NTASKS") or tasks) != tasks or int(environ.get("SLURM_NNODES") or nodes) < nodes:
        return True
    here, spread = environ.get("SLURM_GTIDS"), environ.get("SLURM_STEP_TASKS_PER_NODE")
    if not here or not spread:
        return False
    return len(here.split(",")) != tasks_per_node(spread)[int(environ.get("SLURM_NODEID", 0))]


def _torchrun_variables(environ: Mapping[str, str], tasks: int, step: int) -> dict[str, str]:
    nodes = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or 1)
    node = int(environ.get("SLURM_NODEID", 0))
    address, tasks_here = "127.0.0.1", tasks
    if nodes > 1:
        address = first_host(environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"])
        tasks_here = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE") or environ["SLURM_TASKS_PER_NODE"])[node]
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environ.get("SLURM_LOCALID") or str(int(environ["SLURM_PROCID"]) % tasks_here),
        "LOCAL_WORLD_SIZE": str(tasks_here),
        "GROUP_RANK": str(node),
        "MASTER_ADDR": environ.get("MASTER_ADDR") or address,
        "MASTER_PORT": environ.get("MASTER_PORT") or str(port(int(environ["SLURM_JOB_ID"]), step)),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


def port(job: int, step: int) -> int:
    """Where rank 0 of a job's step listens."""
    return FIRST_PORT + (job + PER_STEP * step) % PORTS


def tasks_per_node(text: str) -> list[int]:
    """The numbers that Slurm writes as `4(x2),3`. Raises ValueError."""
    counts: list[int] = []
    for part in text.split(","):
        count = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part.strip())
        if count is None:
            raise ValueError(f"tasks per node: {text}")
        counts += [int(count[1])] * int(count[2] or 1)
    return counts


def first_host(node_list: str) -> str:
    """The first name in a list such as `node[003-010,012],other`. Raises ValueError."""
    first = re.match(r"(?:[^,\[\]\s]|\[[^\[\]]*\])+", node_list)
    name = first and re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])
    if not name:
        raise ValueError(f"list of nodes: {node_list}")
    return name
