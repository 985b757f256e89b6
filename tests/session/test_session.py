"""A run with a rank that hangs ends with the failure of another rank, on every rank and in status.json."""

import io
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore, TCPStore

from tests.launched import PATIENCE_S, environment
from vpdist.distributed.runtime import KeyStore, Runtime
from vpdist.environment import LaunchContext
from vpdist.errors import PeerLost
from vpdist.session.coordination import Control, publish_first_failure
from vpdist.session.ending import OpenedSession
from vpdist.session.progress import Progress
from vpdist.session.session import Session
from vpdist.session.signals import StopRequest
from vpdist.storage.run_folder import RunFolder

WORKER = Path(__file__).parents[1] / "session_worker.py"
RANKS = 3


def run(folder: Path, bad_rank: int, how: str, stuck_rank: int) -> list[int]:
    """The exit code of every rank. The store outlives them all, as an agent's does."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=PATIENCE_S))
    shared = environment() | {
        "WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    command = [sys.executable, str(WORKER), str(folder), str(bad_rank), how, str(stuck_rank)]
    ranks = [subprocess.Popen(command, env=shared | {"RANK": str(rank)}) for rank in range(RANKS)]
    try:
        return [rank.wait(PATIENCE_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def status(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "status.json").read_text()))


def forced(folder: Path, rank: int) -> None:
    assert "the main thread did not stop within 1 s" in RunFolder(folder).log(rank).read_text()


@pytest.mark.parametrize("stuck_rank", [0, 2], ids=["rank 0 is stuck", "another rank is stuck"])
@pytest.mark.launcher
def test_a_rank_that_is_forced_out_leaves_the_failure_that_there_was(tmp_path: Path, stuck_rank: int) -> None:
    assert run(tmp_path, 1, "storage", stuck_rank) == [6] * RANKS
    forced(tmp_path, stuck_rank)
    written = status(tmp_path)
    assert (written["state"], written["exit_code"], written["failing_rank"]) == ("failed", 6, 1)
    assert "no space left" in str(written["message"])


@pytest.mark.parametrize("stuck_rank", [1, -1], ids=["and it is stuck", "and it computes"])
@pytest.mark.launcher
def test_a_rank_whose_exchange_has_a_bug_ends_the_run_and_is_named(tmp_path: Path, stuck_rank: int) -> None:
    assert run(tmp_path, 1, "bug", stuck_rank) == [1] * RANKS
    if stuck_rank == 1:
        forced(tmp_path, 1)
    written = status(tmp_path)
    assert (written["state"], written["exit_code"], written["failing_rank"]) == ("failed", 1, 1)
    assert "ZeroDivisionError: nothing is between zero readings" in str(written["message"])
    assert "in broken_read" in RunFolder(tmp_path).log(1).read_text()


def opened(folder: Path, rank: int) -> tuple[OpenedSession, KeyStore]:
    store = HashStore()
    keys = KeyStore(store, lambda: store)
    runtime = Runtime(context=LaunchContext(rank=rank, world_size=4), device=torch.device("cpu"), keys=keys)
    control = Control(runtime, StopRequest(on_second_signal=lambda stopped: stopped.exit_code))
    alone = Runtime(context=LaunchContext(), device=torch.device("cpu"), keys=keys)
    progress = Progress(alone, "none", None, None)
    progress.close()
    session = Session(control, RunFolder(folder), progress)
    session.begin()
    return OpenedSession(restart=False, console=io.StringIO(), control=control, session=session), keys


@pytest.mark.parametrize(
    ("rank", "lost", "writes"),
    [(3, (2,), False), (0, (2,), True), (3, (0, 1, 2), True)],
    ids=["rank 0 is alive", "rank 0 itself", "the last one left"],
)
def test_only_the_reporting_rank_writes_the_status_when_it_is_forced_out(
    tmp_path: Path, rank: int, lost: tuple[int, ...], writes: bool
) -> None:
    loss = PeerLost("rank 2 was lost", lost)
    hanging, keys = opened(tmp_path, rank)
    (tmp_path / "status.json").write_text("{}")
    assert hanging.forced_exit(loss, keys) == 143
    assert (status(tmp_path).get("state") == "interrupted") == writes
    assert status(tmp_path).get("failing_rank") == (lost[0] if writes else None)
    publish_first_failure(keys, 2, 4, "no weights")
    publish_first_failure(keys, 1, 6, "no space left")
    assert hanging.forced_exit(loss, keys) == 4
    written = status(tmp_path)
    assert (written.get("exit_code"), written.get("failing_rank")) == ((4, 2) if writes else (None, None))
