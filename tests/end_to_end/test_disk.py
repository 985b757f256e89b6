"""Failing disks, under the real launchers: refused at once, or exit code 6 with path and reason, and resumable.

These tests mount small file systems, which needs root, and skip elsewhere.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from scripts.faults import bad_records
from scripts.faults.gate import Gate
from scripts.faults.launched_runs import TABLES, Job, status, tables
from scripts.faults.two_nodes import free_port
from tests.launched import PATIENCE_S, wait_until
from tests.sample import write_contigs
from tests.tiny_models import NUCLEOTIDE_WIDTH, PROTEIN_WIDTH, TinyModels
from vpdist.errors import UsageError
from vpdist.planning import plan_file
from vpdist.session.run_session import SHARED_MARK_BYTES
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import Lock

pytestmark = pytest.mark.launcher

STANDALONE = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
Mount = Callable[..., None]


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_contigs(tmp_path_factory.mktemp("input") / "contigs.fa", n=100)


@pytest.fixture(scope="module")
def plain(models: TinyModels, contigs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("plain") / "run"
    code, stderr = ended(start((), models, contigs, run))
    assert code == 0, stderr
    return run


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts that are undone after the test. Skips where mounting is not allowed."""
    mounted: list[Path] = []

    def make(target: Path, *arguments: str) -> None:
        done = subprocess.run(["mount", *arguments, str(target)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        if not any("remount" in argument for argument in arguments):
            mounted.append(target)

    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    yield make
    for target in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(target)], check=True)


@pytest.fixture
def small(tmp_path: Path, mount: Mount) -> Path:
    """A tmpfs of 4 MiB."""
    target = tmp_path / "small"
    target.mkdir()
    mount(target, "-t", "tmpfs", "-o", "size=4m", "tmpfs")
    return target


def start(
    launcher: Sequence[str], models: TinyModels, source: Path, output: Path, *options: str, **environment: str
) -> subprocess.Popen[str]:
    job = Job(source, models.nucleotide, models.protein, models.classifier)
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "OMP_NUM_THREADS")}
    return subprocess.Popen(
        [sys.executable, *launcher, *job.arguments(output), *options],
        env=kept | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and standard error. A run that hangs is killed, and the test fails."""
    try:
        stderr = run.communicate(timeout=PATIENCE_S)[1]
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        raise
    return run.returncode, stderr


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a disk except `leave` bytes; returns the file that fills it."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return filler


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Holds the ranks of a run between batches."""
    return Gate(tmp_path / "gate")


def held(gate: Gate, **faults: object) -> dict[str, str]:
    """Environment variables of a run whose ranks are held after some parts."""
    return bad_records.fault_environment(hold=gate.rule(free_batches=15), **faults)


def wait_for_ranks(run: subprocess.Popen[str], gate: Gate, ranks: int) -> None:
    """Wait until all ranks are held."""
    wait_until(lambda: len(gate.held()) == ranks or run.poll() is not None, "all ranks in the middle of the run")
    assert run.poll() is None, ended(run)


def test_a_disk_that_fills_up_ends_the_run_with_code_6_and_it_resumes(
    small: Path, models: TinyModels, contigs: Path, plain: Path, gate: Gate
) -> None:
    run = start(STANDALONE, models, contigs, small / "run", **held(gate))
    wait_for_ranks(run, gate, 2)
    filler = fill(small)
    gate.open()
    _, stderr = ended(run)
    written = {path.name: path.stat().st_mtime_ns for path in (small / "run" / "parts").glob("unit-*")}
    assert "No space left on device" in stderr
    assert str(small / "run" / "parts" / "unit-") in stderr
    assert (status(small / "run")["state"], status(small / "run")["exit_code"]) == ("failed", 6)
    assert 3 <= len(written) < len(list((plain / "parts").iterdir()))
    assert not list((small / "run").rglob(".*.tmp"))
    filler.unlink()
    assert ended(start((), models, contigs, small / "run"))[0] == 0
    assert tables(small / "run") == tables(plain)
    after = {path.name: path.stat().st_mtime_ns for path in (small / "run" / "parts").glob("unit-*")}
    assert {name: after[name] for name in written} == written


def test_a_disk_too_small_for_the_tables_ends_with_code_6_and_no_table_is_half_written(
    small: Path, models: TinyModels, contigs: Path, plain: Path
) -> None:
    shutil.copytree(plain, small / "run")
    for name in TABLES:
        (small / "run" / name).unlink()
    largest = max(map(len, tables(plain)))
    fill(small, leave=SHARED_MARK_BYTES + (16 << 10) + largest // 2)
    code, stderr = ended(start((), models, contigs, small / "run"))
    assert code == 6
    assert "No space left on device" in stderr
    assert ".tsv" in stderr
    assert status(small / "run")["exit_code"] == 6
    assert not any((small / "run" / name).exists() for name in TABLES)
    assert not list((small / "run").glob(".*.tmp"))


def test_parts_that_cannot_fit_are_refused_before_a_model_is_loaded(
    small: Path, models: TinyModels, contigs: Path, plain: Path
) -> None:
    shutil.copytree(plain, small / "run")
    shutil.rmtree(small / "run" / "parts")
    (small / "run" / "logs" / "rank00000.log").unlink()
    embeddings = plan_file.map_plan(plain / "tokens" / "plan.h5")[0].n_rows * (NUCLEOTIDE_WIDTH + PROTEIN_WIDTH) * 4
    fill(small, leave=SHARED_MARK_BYTES + (16 << 10) + embeddings // 2)
    code, stderr = ended(start((), models, contigs, small / "run"))
    assert code == 6
    assert "of parts do not fit" in stderr
    assert status(small / "run")["exit_code"] == 6
    assert not list((small / "run" / "parts").iterdir())
    assert "stage load" not in (small / "run" / "logs" / "rank00000.log").read_text()


def test_logs_that_cannot_be_written_leave_the_results_alone_and_hard_links_are_not_needed(
    small: Path, mount: Mount, models: TinyModels, contigs: Path, plain: Path, tmp_path: Path, gate: Gate
) -> None:
    """Logs and progress.jsonl are on another disk, which is full; the file system refuses hard links."""
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "progress.jsonl").touch()
    (small / "logs").mkdir()
    (small / "progress.jsonl").touch()
    for name in ("rank00000.log", "rank00001.log"):
        (small / "logs" / name).touch()
    fill(small)
    mount(run / "logs", "--bind", str(small / "logs"))
    mount(run / "progress.jsonl", "--bind", str(small / "progress.jsonl"))
    first = start(STANDALONE, models, contigs, run, **held(gate, no_hard_links=True))
    wait_for_ranks(first, gate, 2)
    lock = json.loads((run / "lock").read_text())
    with pytest.raises(UsageError, match="is in use"):
        Lock(RunFolder(run)).take()
    gate.open()
    code, stderr = ended(first)
    assert code == 0, stderr
    assert lock["pid"] != os.getpid()
    assert tables(run) == tables(plain)
    assert {path.stat().st_size for path in (small / "logs").iterdir()} == {0}
    assert (small / "progress.jsonl").stat().st_size == 0
    assert status(run)["state"] == "done"


def test_a_folder_that_cannot_be_written_is_refused_by_name(
    small: Path, mount: Mount, models: TinyModels, contigs: Path, plain: Path
) -> None:
    shutil.copytree(plain, small / "run")
    mount(small, "-o", "remount,ro")
    for launcher, options in (((), ("--nproc", "2")), ((), ()), (STANDALONE, ())):
        code, stderr = ended(start(launcher, models, contigs, small / "run", *options))
        assert code == (1 if launcher else 6)  # torchrun's
        assert f"{small / 'run'}: cannot be written: Read-only file system" in stderr
        assert stderr.count("vpdist: ") == 1
    assert status(small / "run")["state"] == "done"  # of the earlier run


def test_a_folder_that_is_removed_while_it_is_worked_in_ends_the_run_with_code_6(
    models: TinyModels, contigs: Path, tmp_path: Path, gate: Gate
) -> None:
    run = start((), models, contigs, tmp_path / "run", "--nproc", "2", **held(gate))
    wait_for_ranks(run, gate, 2)
    (tmp_path / "run").rename(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    gate.open()
    code, stderr = ended(run)
    assert code == 6
    assert f"{tmp_path / 'run'}" in stderr
    assert "No such file or directory" in stderr


@pytest.mark.parametrize("options", [(), ("--nproc", "2")], ids=["one rank", "two ranks"])
def test_a_run_that_finds_its_folder_taken_over_ends_with_code_6_and_leaves_it_to_the_other(
    models: TinyModels, contigs: Path, tmp_path: Path, gate: Gate, options: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    run = start((), models, contigs, folder, *options, **held(gate))
    wait_for_ranks(run, gate, 2 if options else 1)
    rank = psutil.Process(json.loads((folder / "lock").read_text())["pid"])
    rank.suspend()
    wait_until(lambda: rank.status() == psutil.STATUS_STOPPED, "the rank is stopped")
    theirs = {
        "lock": json.dumps({"host": "elsewhere", "pid": 7, "started": 1.0}),
        "status.json": json.dumps({"state": "running", "exit_code": None, "message": "theirs"}),
    }
    for name, content in theirs.items():
        (tmp_path / name).write_text(content)
        os.replace(tmp_path / name, folder / name)
    rank.resume()
    code, stderr = ended(run)
    assert code == 6, stderr
    assert stderr.count(f"vpdist: {folder} was taken over by process 7 on elsewhere") == 1
    assert {name: (folder / name).read_text() for name in theirs} == theirs
    assert not list(folder.glob("*.tsv"))


def test_a_folder_that_another_node_cannot_see_is_refused(
    mount: Mount, models: TinyModels, contigs: Path, tmp_path: Path
) -> None:
    """The second agent has a mount namespace, in which another disk hides the folder."""
    shared, other = tmp_path / "scratch", tmp_path / "other"
    shared.mkdir()
    other.mkdir()
    mount(other, "-t", "tmpfs", "tmpfs")  # skips if that is not allowed
    port = free_port()
    agent = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d")
    agent += ("--rdzv-id=disk", f"--rdzv-endpoint=127.0.0.1:{port}")
    first = start(agent, models, contigs, shared / "run")
    hidden = f'mount --bind {other} {shared} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hidden, "sh", *map(str, first.args)]  # type: ignore[union-attr]
    second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    stderr = [ended(run)[1] for run in (first, second)]
    assert sum(text.count("vpdist: ") for text in stderr) == 1, stderr
    assert "is not visible on" in stderr[0]
    assert not (shared / "run" / "tokens" / "store.json").exists()
