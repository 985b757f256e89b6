"""Which process of its machine a rank is, where a launcher says so but not in torchrun's words.

RANK and WORLD_SIZE are often set by a job script from the variables of `srun` or `mpirun`, LOCAL_RANK is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

from vpdist.slurm_step import tasks_per_node

MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""Rank, number of ranks, rank on the machine and number of ranks there: Open MPI, MVAPICH, MPICH and Intel MPI."""


def local_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """LOCAL_RANK, LOCAL_WORLD_SIZE and, as far as it is known, GROUP_RANK of the process with RANK and WORLD_SIZE;
    empty where no launcher's variables speak of that rank. Raises ValueError for variables of Slurm that are none."""
    rank, world_size = environ["RANK"], environ["WORLD_SIZE"]
    tasks = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS")
    if (environ.get("SLURM_PROCID"), tasks) == (rank, world_size) and "SLURM_LOCALID" in environ:
        node = environ.get("SLURM_NODEID", "0")
        counts = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or world_size
        here = str(tasks_per_node(counts)[int(node)])
        return {"LOCAL_RANK": environ["SLURM_LOCALID"], "LOCAL_WORLD_SIZE": here, "GROUP_RANK": node}
    for of_rank, of_all, local_rank, local_size in MPI:
        if (environ.get(of_rank), environ.get(of_all)) == (rank, world_size) and local_rank in environ:
            here = environ.get(local_size, world_size)
            # MPI does not number machines: all ranks count as those of one, which only makes them meet in one group
            return {"LOCAL_RANK": environ[local_rank], "LOCAL_WORLD_SIZE": here, "GROUP_RANK": "0"}
    return {}
