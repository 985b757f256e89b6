"""The exchange of counters under real launchers: uneven, idle, slow, stopped and killed ranks."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from scripts.faults.two_nodes import free_port
from tests.launched import PATIENCE_S, launched, lives, report_of, torchrun, wait_until
from vpdist.monitoring.counters import Snapshot

pytestmark = pytest.mark.launcher

THREE = ("--standalone", "--nproc-per-node=3")


def snapshots(folder: Path, scenario: str) -> list[Snapshot]:
    path = folder / f"{scenario}.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Snapshot.from_json(line) for line in lines]


def newest_state(folder: Path, scenario: str, rank: int) -> str:
    return next((snapshot.rows[rank].state for snapshot in reversed(snapshots(folder, scenario))), "")


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Popen[bytes]]]:
    """Three ranks that go through several scenarios, in the order of the tests below."""
    folder = tmp_path_factory.mktemp("three")
    scenarios = ("uneven", "idle", "slow", "stopped", "silent")
    with launched(folder, torchrun(folder, *scenarios, options=THREE)) as (agent,):
        yield folder, agent


@pytest.mark.parametrize(
    ("scenario", "batches"),
    [("uneven", [40, 80, 120]), ("idle", [30, 0, 30])],
    ids=["uneven batch counts", "one rank without work"],
)
def test_every_rank_ends_with_the_exact_counters_of_all(
    three_ranks: tuple[Path, Popen[bytes]], scenario: str, batches: list[int]
) -> None:
    folder, _ = three_ranks
    assert_exact(folder, scenario, batches)


def assert_exact(folder: Path, scenario: str, batches: list[int]) -> None:
    """Every rank has come to its end, with the counters of all."""
    for rank in range(3):
        end = report_of(folder, f"{scenario}.{rank}")
        assert end["error"] == ""
        assert end["batches"] == batches
        assert end["tokens"] == [600 * count for count in batches]
    last = snapshots(folder, scenario)[-1]
    assert last.ended == ""
    assert [row.state for row in last.rows] == ["done"] * 3
    assert last.totals["fragments"] == 10 * sum(batches)


def test_a_fast_rank_is_not_held_up_by_a_slow_one(three_ranks: tuple[Path, Popen[bytes]]) -> None:
    folder, _ = three_ranks
    wait_until(
        lambda: any(
            (snapshot.rows[0].state, snapshot.rows[2].state) == ("done", "running")
            for snapshot in snapshots(folder, "slow")
        ),
        "rank 0 done while rank 2 is at work",
    )
    assert not (folder / "slow.0.json").exists()  # it answers the others until all are done
    (folder / "slow.release").touch()
    assert_exact(folder, "slow", [15, 15, 15])


def test_a_stopped_rank_is_shown_as_stalled_until_it_continues(three_ranks: tuple[Path, Popen[bytes]]) -> None:
    folder, _ = three_ranks
    pid = int(str(report_of(folder, "stopped.1.started")["pid"]))
    wait_until(lambda: newest_state(folder, "stopped", 1) == "running", "rank 1 at work")
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: newest_state(folder, "stopped", 1) == "stalled", "rank 1 shown as stalled")
        before = snapshots(folder, "stopped")[-1]

        def others_go_on() -> bool:
            last = snapshots(folder, "stopped")[-1]
            states = [row.state for row in last.rows]
            return states == ["running", "stalled", "running"] and (
                last.source == "keys"
                and last.rows[0].count("batches") > before.rows[0].count("batches")
                and last.rows[1].silent_s > before.rows[1].silent_s
            )

        wait_until(others_go_on, "reports of rank 0, through the keys, while rank 1 is stopped")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: newest_state(folder, "stopped", 1) == "running", "rank 1 at work again")
    (folder / "stopped.release").touch()
    assert [report_of(folder, f"stopped.{rank}")["error"] for rank in range(3)] == ["", "", ""]
    assert snapshots(folder, "stopped")[-1].ended == ""


def test_a_rank_that_stays_silent_ends_the_run_and_is_named(three_ranks: tuple[Path, Popen[bytes]]) -> None:
    folder, agent = three_ranks
    pid = int(str(report_of(folder, "silent.1.started")["pid"]))
    wait_until(lambda: newest_state(folder, "silent", 1) == "running", "rank 1 at work")
    os.kill(pid, signal.SIGSTOP)
    (folder / "silent.impatient").touch()
    try:
        for rank in (0, 2):
            assert re.fullmatch(
                r"PeerLost: rank 1 was lost: it sent no report for \d+ s",
                str(report_of(folder, f"silent.{rank}")["error"]),
            )
        pids = [int(str(report_of(folder, f"silent.{rank}.started")["pid"])) for rank in (0, 2)]
        wait_until(lambda: not any(map(lives, pids)), "an exit that does not wait for the current round")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert re.fullmatch(
        r"PeerLost: rank 1 was lost: it sent no report for \d+ s", str(report_of(folder, "silent.1")["error"])
    )
    last = snapshots(folder, "silent")[-1]
    assert last.ended is not None
    assert last.ended.startswith("rank 1 was lost")
    assert last.rows[1].state == "lost"
    assert agent.wait(PATIENCE_S) == 0, "ranks must end in order after a loss"


def test_a_killed_rank_is_named_and_a_hanging_one_is_ended(tmp_path: Path) -> None:
    """Although neither survivor's work has an end."""
    with launched(tmp_path, torchrun(tmp_path, "killed", options=THREE)):
        assert report_of(tmp_path, "killed.0")["error"] == "PeerLost: rank 1 was lost"
        hanging = report_of(tmp_path, "killed.2.forced")
        assert hanging["line"] == "rank 1 was lost"
        wait_until(lambda: not lives(int(str(hanging["pid"]))), "the end of the hanging rank")
    assert not (tmp_path / "killed.2.json").exists()
    last = snapshots(tmp_path, "killed")[-1]
    assert (last.ended, last.rows[1].state) == ("rank 1 was lost", "lost")


def test_two_nodes_gather_through_their_first_ranks_and_learn_why_a_rank_exited(tmp_path: Path) -> None:
    options = (
        "--nnodes=2",
        "--nproc-per-node=2",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{free_port()}",
        "--local-addr=127.0.0.1",
    )
    command = torchrun(tmp_path, "uneven", "leaving", options=options)
    with launched(tmp_path, command, command):
        for rank in range(4):
            end = report_of(tmp_path, f"uneven.{rank}")
            assert end["error"] == ""
            assert end["batches"] == [40, 80, 120, 160]
        for rank in range(3):
            end = report_of(tmp_path, f"leaving.{rank}")
            assert end["error"] == "PeerLost: rank 3 stopped: x.fa, record 7: no sequence"


def test_workers_end_by_themselves_when_their_launcher_is_killed(tmp_path: Path) -> None:
    options = ("--standalone", "--nproc-per-node=2")
    with launched(tmp_path, torchrun(tmp_path, "orphan", options=options)) as (agent,):
        pids = [int(str(report_of(tmp_path, f"orphan.{rank}.started")["pid"])) for rank in range(2)]
        wait_until(lambda: newest_state(tmp_path, "orphan", 1) == "running", "rank 1 at work")
        agent.kill()
        message = "the launcher has ended"
        assert report_of(tmp_path, "orphan.0")["error"] == f"Interrupted: {message}"
        wait_until(lambda: not any(map(lives, pids)), "the end of the workers")
        assert report_of(tmp_path, "orphan.1.forced")["line"] == message
