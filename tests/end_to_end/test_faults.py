"""Nothing is lost: the real program under the real launchers, killed, signalled, with bad records, out of memory.

The long form, `make test-faults`, repeats all of this, with real contigs if they are beside the checkout.
"""

import random
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from scripts.faults import bad_records, campaign, report, two_nodes
from scripts.faults.gate import Gate
from scripts.faults.kills_and_signals import CAUSES, KILLS, RESUMES, SIGNALS, DisturbedRuns
from scripts.faults.launched_runs import Job, Launch, part_paths, standalone, status, tables
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.session.signals import SECOND_SIGNAL_AFTER_S

pytestmark = pytest.mark.launcher

SEED = 4
NAMES = {each.name: each for each in (*KILLS, *SIGNALS)}


@pytest.fixture(scope="module")
def job(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    source = bad_records.write_marked(write_contigs(folder / "contigs.fa", n=100), folder / "marked.fa", "WMH")
    return Job(source, models.nucleotide, models.protein, models.classifier)


@pytest.fixture(scope="module")
def undisturbed(job: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of an undisturbed run, and the seconds it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, campaign.run_undisturbed(job, folder)


def test_nothing_is_lost_or_done_twice_whenever_a_run_is_killed_or_stopped(
    job: Job, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    disturbances = [*KILLS, *(NAMES[name] for name in ("SIGTERM to the agent", "SIGUSR1 to a rank"))]
    reference, seconds = undisturbed
    disturbed = DisturbedRuns(job, tmp_path, reference, 2 * seconds, random.Random(SEED), sys.stderr)
    disturbed.disturb_all(disturbances)
    assert disturbed.faults() == []
    assert len(disturbed.stopped) == len(disturbances)
    assert sum(run.repeated for run in disturbed.finished) > 0  # at least one was stopped within a unit


def test_torchrun_finishes_by_itself_though_a_rank_is_killed_twice(
    job: Job, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    row = campaign.elastic(job, tmp_path / "run", tables(undisturbed[0]), random.Random(SEED))
    assert row.problems == ()
    assert row.lost == 0


def test_of_two_nodes_one_may_be_killed_and_come_back(
    job: Job, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    row = two_nodes.node_lost(job, tmp_path / "run", tables(undisturbed[0]))
    assert row.problems == ()
    assert row.lost == 0


def test_a_node_that_falls_silent_is_noticed(job: Job, undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    with two_nodes.nodes() as two:
        if not two.namespaces:
            pytest.skip("needs network namespaces, which only root may make")
    row = two_nodes.node_silent(job, tmp_path / "run", tables(undisturbed[0]))
    assert row.problems == ()
    assert row.lost == 0


def test_what_crashes_or_yields_nan_is_listed_and_all_else_keeps_its_bits(
    job: Job, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    row = bad_records.crash_and_nan(job, tmp_path / "run", undisturbed[0])
    assert row.problems == ()
    assert row.lost == 0
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "logs").iterdir())
    assert "tokens cannot be computed: its row fails" in logs


def test_short_of_memory_batches_are_halved_and_only_what_fits_nowhere_fails(
    job: Job, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    row = bad_records.out_of_memory(job, tmp_path / "run", undisturbed[0])
    assert row.problems == ()
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "logs").iterdir())
    assert "out of memory" in logs


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Holds ranks. A process that ends while it is closed does not wait for its batch."""
    return Gate(tmp_path / "gate")


def wait_for_batches(launch: Launch, gate: Gate, ranks: int) -> None:
    """Wait until all ranks are in the middle of a batch."""
    assert launch.wait_until(lambda: gate.holds(launch, ranks), "all ranks in the middle of a batch"), (
        launch.console_text()
    )


def wait_for_signal(launch: Launch, gate: Gate, processes: Iterable[int]) -> None:
    """Wait until each process has received a signal, and one more would count as another request."""
    for pid in processes:
        assert launch.wait_until(partial(_reached, launch, gate, pid), f"a signal in process {pid}"), (
            launch.console_text()
        )
    time.sleep(SECOND_SIGNAL_AFTER_S)


def _reached(launch: Launch, gate: Gate, pid: int) -> bool:
    return gate.signals(pid) >= 1 or pid not in launch.processes()


def test_a_second_signal_stops_a_rank_at_once_that_is_in_the_middle_of_a_batch(
    job: Job, gate: Gate, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with Launch(bad_records.with_faults(job, hold=gate.rule("batch")), folder, standalone(1)) as launch:
        wait_for_batches(launch, gate, 1)
        launch.signal(launch.agent.pid, signal.SIGTERM)
        wait_for_signal(launch, gate, [launch.agent.pid])
        assert launch.agent.poll() is None
        launch.signal(launch.agent.pid, signal.SIGTERM)
        launch.end()
        assert launch.agent.returncode == 143
        assert (
            launch.console_text().count("stopped by a second signal, SIGTERM; run the same command again to resume")
            == 1
        )
    assert part_paths(folder) == []
    assert (status(folder)["state"], status(folder)["exit_code"]) == ("interrupted", 143)


def test_a_second_signal_to_all_ends_ranks_under_torchrun_in_the_middle_of_a_batch(
    job: Job, gate: Gate, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with Launch(bad_records.with_faults(job, hold=gate.rule("batch")), folder, standalone(2)) as launch:
        wait_for_batches(launch, gate, 2)
        ranks = launch.ranks().values()
        launch.signal(launch.agent.pid, signal.SIGTERM)
        wait_for_signal(launch, gate, ranks)  # the agent passes it on
        for pid in ranks:
            launch.signal(pid, signal.SIGTERM)
        launch.end()
        told = launch.console_text()
    assert (
        told.count("stopped by a second signal, SIGTERM; run the same command again to resume")
        == told.count(RESUMES)
        == 1
    )
    assert part_paths(folder) == []
    assert (status(folder)["state"], status(folder)["exit_code"]) == ("interrupted", 143)


def test_a_rank_that_gets_a_second_signal_alone_is_named_by_the_others(job: Job, gate: Gate, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Launch(bad_records.with_faults(job, hold=gate.rule("batch")), folder, standalone(2)) as launch:
        wait_for_batches(launch, gate, 2)
        rank = launch.ranks()[1]
        launch.signal(rank, signal.SIGTERM)
        wait_for_signal(launch, gate, [rank])
        launch.signal(rank, signal.SIGTERM)
        assert launch.wait_until(lambda: rank not in launch.processes(), "the end of the rank"), launch.console_text()
        gate.open()  # the other rank cannot end before the units of this one are done
        launch.end()
        told = launch.console_text()
    told = CAUSES.sub("", told)
    assert told.count("rank 1 stopped: stopped by a second signal, SIGTERM; run the same command again to resume") == 1
    assert told.count(RESUMES) == 1
    found = status(folder)
    assert (found["state"], found["exit_code"], found["failing_rank"]) == ("interrupted", 143, 1)


def test_ranks_that_are_still_importing_end_with_their_launcher(job: Job, gate: Gate, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Launch(bad_records.with_faults(job, hold=gate.rule("imports")), folder, standalone(3)) as launch:
        assert launch.wait_until(lambda: gate.holds(launch, 3), "three ranks in the middle of their imports")
        launch.signal(launch.agent.pid, signal.SIGKILL)
        launch.end()
        assert launch.console_text().count(RESUMES) == 1
    assert not folder.exists(), "the ranks continued without their launcher"


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_that_are_told_to_stop_while_they_import_say_so(job: Job, gate: Gate, tmp_path: Path, ranks: int) -> None:
    folder = tmp_path / "run"
    with Launch(bad_records.with_faults(job, hold=gate.rule("imports")), folder, standalone(ranks)) as launch:
        assert launch.wait_until(lambda: gate.holds(launch, ranks), "ranks in the middle of their imports")
        launch.signal(launch.agent.pid, signal.SIGTERM)
        launch.end()
        assert launch.console_text().count(RESUMES) == 1
    found = status(folder)
    assert (found["state"], found["exit_code"]) == ("interrupted", 143)
    assert "stopped by SIGTERM before it began" in found["message"]


@pytest.mark.faults
@pytest.mark.timeout(3 * 3600)
def test_the_whole_campaign(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    if data.is_dir():
        sources = [data / name for name in ("virus.fa.gz", "host.fa.gz")]
        long_job = campaign.small_job(sources, 40, tmp_path / "long", None)
    else:
        long_job = replace(job, source=write_contigs(tmp_path / "contigs.fa", n=200))
        (tmp_path / "long").mkdir()
    rows = campaign.campaign(long_job, tmp_path / "long", kills=50, tries=3, seed=SEED, log=sys.stderr)
    with capsys.disabled():
        print("\n".join(["", report.as_markdown(rows), *(f"{row.fault}: {each}" for row in rows for each in row.late)]))
    assert [problem for row in rows for problem in row.problems] == []
    assert sum(row.lost for row in rows) == 0
    assert rows[0].tries == 50
