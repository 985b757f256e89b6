"""The tasks of one `srun` as ranks; a job's script and a shell as one process."""

import pytest

from vpdist.errors import UsageError
from vpdist.slurm_step import FIRST_PORT, PORTS, first_host, launch_variables, port, tasks_per_node

JOB = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "5", "SLURM_PROCID": "0", "SLURM_NNODES": "3"}
STEP = JOB | {
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}


def test_a_task_of_a_step_is_a_rank_on_its_node() -> None:
    assert launch_variables(STEP) == {
        "RANK": "3",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(port(4711, 2)),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


def test_the_tasks_of_a_step_on_one_node_meet_on_loopback() -> None:
    there = launch_variables(STEP | {"SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "3"})
    assert (there["MASTER_ADDR"], there["LOCAL_WORLD_SIZE"], there["LOCAL_RANK"]) == ("127.0.0.1", "5", "3")


def test_where_ranks_meet_can_be_set() -> None:
    there = launch_variables(STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "20001"})
    assert (there["MASTER_ADDR"], there["MASTER_PORT"]) == ("10.0.0.1", "20001")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        JOB,
        JOB | {"SLURM_STEP_ID": str(0xFFFF_FFFB)},
        JOB | {"SLURM_STEP_ID": str(0xFFFF_FFFA), "SLURM_STEP_NUM_TASKS": "1"},
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
    ],
    ids=["no Slurm", "a job's script", "a script with its step", "an interactive shell", "a step of one task"],
)
def test_a_process_that_srun_has_not_started_with_others_is_no_rank(variables: dict[str, str]) -> None:
    assert launch_variables(variables) == {}


@pytest.mark.parametrize(
    "anew",
    [
        {"SLURM_NTASKS": "2"},
        {"SLURM_NNODES": "1"},
        {"SLURM_NTASKS": "5", "SLURM_NNODES": "3", "SLURM_GTIDS": "0"},
    ],
    ids=["other tasks", "fewer nodes", "one task on this node"],
)
def test_a_job_that_was_submitted_inside_a_step_is_one_process(anew: dict[str, str]) -> None:
    left_over = STEP | {"SLURM_GTIDS": "0,1", "SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_PROCID": "0"}
    assert launch_variables(left_over)["WORLD_SIZE"] == "5"
    assert launch_variables(left_over | anew) == {}


def test_a_command_typed_into_the_shell_of_a_task_is_one_process() -> None:
    assert launch_variables(STEP, by_hand=True) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_JOB_ID", ""),
        ("SLURM_STEP_NODELIST", "[]"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x"),
        ("SLURM_STEP_TASKS_PER_NODE", "2"),
        ("SLURM_STEP_NUM_TASKS", "many"),
    ],
)
def test_what_slurm_does_not_say_is_told_with_a_way_out(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=r"torchrun per node.*SLURM_STEP_NUM_TASKS=1"):
        launch_variables(STEP | {name: value})


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[003-010,012],other", "node003"),
        ("rack[0-1]node[2,4]", "rack0node2"),
        ("a-b.example.org", "a-b.example.org"),
    ],
)
def test_the_first_host_of_a_list(names: str, first: str) -> None:
    assert first_host(names) == first


def test_tasks_per_node_are_repeated() -> None:
    assert tasks_per_node("4(x2),3") == [4, 4, 3]


def test_neighbouring_jobs_and_steps_meet_at_ports_of_their_own() -> None:
    ports = {port(job, step) for job in range(9000, 9010) for step in range(3)}
    assert len(ports) == 30
    assert all(FIRST_PORT <= each < FIRST_PORT + PORTS for each in ports)
