"""What is told to users about the environment's variables; environment.py hands them in.

Enters: all variables. Leaves: a note where a launcher's variables have no effect, and, for `vpdist info`, those that
change what vpdist does, with their values. No secret and no password leaves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which a launcher tells how many processes it has started."""
OWN = ("VPDIST_STORE_SECRET", "VPDIST_GITHUB_ENDPOINT")
"""What only vpdist reads."""
LAUNCHERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_SIGNALS_TO_HANDLE",
    "TORCHELASTIC_USE_AGENT_STORE",
    "ACCELERATE_USE_CPU",
)
"""By which torchrun and `accelerate launch` describe a rank."""
BATCH_SYSTEMS = (
    "SLURM_GTIDS",
    "SLURM_JOB_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_LOCALID",
    "SLURM_NNODES",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_STEP_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_NUM_NODES",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_TASKS_PER_NODE",
    "SLURM_TASK_PID",
)
"""By which Slurm does."""
MPI = ("OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "PMI_", "MPI_LOCAL")
"""Beginnings of those by which MPI does."""
LIBRARIES = (
    "CUDA_VISIBLE_DEVICES",
    "GLOO_SOCKET_IFNAME",
    "GOMP_SPINCOUNT",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "LRU_CACHE_CAPACITY",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "RAYON_NUM_THREADS",
    "TMPDIR",
    "TOKENIZERS_PARALLELISM",
)
"""Read by torch, the hub's client, OpenMP and Python, with an effect on vpdist."""
PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
DISPLAY = ("CI", "COLUMNS", "NO_COLOR", "TERM")
"""By which bars and colours are chosen."""
SHOWN = {*OWN, *LAUNCHERS, *BATCH_SYSTEMS, *LIBRARIES, *DISPLAY}
SECRET = re.compile("SECRET|TOKEN$")
HIDDEN = "(set, not shown)"
FOLDERS = ("HF_HOME", "HF_HUB_CACHE", "PYTHONPATH", "TMPDIR", "TORCHELASTIC_ERROR_FILE")
"""Paths, which may have an @ that ends no password."""
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//")
"""With what an address may begin."""


def not_used(variables: Mapping[str, str]) -> str:
    """What to tell where a launcher's variables promise several processes to one that is alone; empty elsewhere."""
    if variables.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1") and "MASTER_PORT" in variables:
        return (
            "note: `accelerate launch --cpu` has started one process only, whatever its --num_processes; two ranks are "
            "started by --nproc 2 without a launcher, or by accelerate launch "
            "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no, on a CPU too"
        )
    for name in SIZES:
        if variables.get(name, "1") not in ("", "0", "1"):
            return (
                f"note: {name}={variables[name]} is not used: without RANK and WORLD_SIZE this is one process; for "
                f"several ranks start through torchrun or srun, or give --nproc"
            )
    return ""


def shown(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of `variables` that change what vpdist does, by name; secrets and passwords are replaced."""
    found = {name: value for name, value in sorted(variables.items()) if is_shown(name)}
    return {name: HIDDEN if SECRET.search(name) else _without_password(name, value) for name, value in found.items()}


def _without_password(name: str, value: str) -> str:
    """A value without what stands before its last @: a password may hold / and @, and there may be no //."""
    before, mark, after = value.rpartition("@")
    if not mark or (name in FOLDERS and "//" not in value):
        return value
    scheme = SCHEME.match(before)
    return f"{scheme[0] if scheme else ''}...@{after}"


def is_shown(name: str) -> bool:
    """Whether a variable of this name changes what vpdist does. Those of proxies have lower case, too."""
    return name in SHOWN or name.upper() in PROXIES or name.startswith(MPI)
