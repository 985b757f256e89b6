"""Which process of its machine a rank is, where RANK and WORLD_SIZE are set and LOCAL_RANK is not."""

import os

import pytest

from vpdist.environment import FOREIGN, LaunchContext, launch_context
from vpdist.errors import UsageError

RANK = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
    "SLURM_TASKS_PER_NODE": "3(x2),2",
}
MPI = {"RANK": "5", "SIZE": "8", "LOCAL_RANK": "2", "LOCAL_SIZE": "3"}


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> LaunchContext:
    """Of a process with these variables and no others of a launcher."""
    for name in list(os.environ):
        if name.startswith((*FOREIGN, "SLURM_")) or "RANK" in name or "WORLD_SIZE" in name:
            monkeypatch.delenv(name)
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    return launch_context()


def where(context: LaunchContext) -> tuple[int, int, int, bool]:
    return context.local_rank, context.local_world_size, context.node, context.placed


@pytest.mark.parametrize(
    "context",
    [
        RANK | SLURM,
        RANK | SLURM | {"SLURM_NTASKS": "99", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "3(x2),2"},
    ],
    indirect=True,
    ids=["a job", "a step of it"],
)
def test_slurm_says_which_process_of_its_node_a_rank_is(context: LaunchContext) -> None:
    assert where(context) == (2, 3, 1, True)
    assert not context.by_srun


@pytest.mark.parametrize(
    "context",
    [
        RANK | {f"OMPI_COMM_WORLD_{name}": value for name, value in MPI.items()},
        RANK | {f"MV2_COMM_WORLD_{name}": value for name, value in MPI.items()},
        RANK | {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "3"},
    ],
    indirect=True,
    ids=["Open MPI", "MVAPICH", "MPICH"],
)
def test_mpi_says_it_too_but_does_not_number_machines(context: LaunchContext) -> None:
    assert where(context) == (2, 3, 0, True)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (RANK | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "2"} | SLURM, (1, 2, 2, True)),
        (RANK | {"LOCAL_RANK": "1"}, (1, 8, 0, True)),
        (RANK | {"MASTER_ADDR": "127.0.0.1"}, (5, 8, 0, True)),
        (RANK, (5, 8, 0, False)),
        (RANK | SLURM | {"SLURM_PROCID": "4"}, (5, 8, 0, False)),
        (RANK | SLURM | {"SLURM_NTASKS": "9"}, (5, 8, 0, False)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, 0, True)),
    ],
    indirect=["context"],
    ids=["torchrun", "LOCAL_RANK", "one machine", "nothing", "another task", "another number of tasks", "one rank"],
)
def test_a_rank_is_placed_by_what_speaks_of_it_and_by_nothing_else(
    context: LaunchContext, expected: tuple[int, int, int, bool]
) -> None:
    assert where(context) == expected


def test_slurm_variables_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (RANK | SLURM | {"SLURM_NODEID": "7"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UsageError, match="not valid"):
        launch_context()
