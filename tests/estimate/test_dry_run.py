"""`vpdist plan`: what it counts is what a run does; nothing stays behind; errors and exit codes are a run's."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from scripts.faults import bad_records
from scripts.faults.gate import Gate
from tests.launched import PATIENCE_S, environment, wait_until
from tests.sample import write_contigs
from tests.tiny_models import NUCLEOTIDE_WIDTH, PROTEIN_WIDTH, TinyModels, write_classifier
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.encoders.encoder import Encoder
from vpdist.environment import LaunchContext
from vpdist.errors import InputError, StorageError, UsageError, VpdistError, WeightsError
from vpdist.estimate import dry_run, timing_process
from vpdist.estimate.dry_run import forecast, ranks_here
from vpdist.estimate.forecast import Forecast
from vpdist.estimate.timing_process import Timing, TimingRequest
from vpdist.planning import plan, token_shards
from vpdist.ragged import Ragged
from vpdist.storage.run_folder import CALL_FILES, TABLES, RunFolder

pytestmark = pytest.mark.launcher
VPDIST = [sys.executable, "-m", "vpdist"]


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_contigs(tmp_path_factory.mktemp("input") / "contigs.fa", n=60)
    path.write_text(path.read_text() + ">short\nAC\n>empty\n")
    return path


@pytest.fixture(scope="module")
def settings(models: TinyModels, contigs: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return models.settings(contigs, tmp_path_factory.mktemp("done") / "run", min_length=150, token_budget=300)


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where dry runs of this module work."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(autouse=True)
def _works_there(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))


@pytest.fixture(scope="module")
def done(settings: Settings) -> Path:
    assert predict(settings) == 0
    return settings.output


@pytest.fixture(scope="module")
def planned(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    where = tmp_path_factory.mktemp("nothing") / "run"
    found = forecast(replace(settings, dry_run=True), 2, where)
    assert not where.exists()
    return found


def rows(path: Path) -> int:
    return len(path.read_text().splitlines()) - 1


def size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def test_counts_are_those_of_a_real_run(planned: Forecast, done: Path) -> None:
    totals = json.loads((done / "progress.jsonl").read_text().splitlines()[-1])["totals"]
    recorded = json.loads((done / "run.json").read_text())
    columns = [line.split("\t") for line in (done / "chunks.tsv").read_text().splitlines()[1:]]
    counts, work = planned.counts, planned.work
    assert work is not None
    assert counts.statuses == recorded["statuses"]
    assert set(counts.statuses) == {"ok", "no_open_frame", "too_short", "filtered"}
    assert counts.sequences == rows(done / "sequences.tsv") == sum(counts.statuses.values())
    assert counts.chunks == len(columns)
    assert counts.open_chunks == sum(int(row[4]) > 0 for row in columns)
    assert counts.fragments == totals["fragments"] == rows(done / "fragments.tsv")
    assert counts.different_fragments < counts.fragments
    assert work.tokens == {kind: totals[f"{kind}_tokens"] for kind in ("nucleotide", "protein")}
    assert work.units == totals["units"] == len(list((done / "parts").iterdir()))
    for name in ("dtype", "threads", "token_budget", "device"):
        assert getattr(work, name) == recorded["decisions"][name]


def test_the_size_of_the_run_folder_is_told_to_a_few_percent(planned: Forecast, done: Path) -> None:
    assert planned.disk is not None
    assert planned.disk.parts == pytest.approx(size(done, "parts/*"), rel=0.02)
    assert planned.disk.tokens == pytest.approx(size(done, "tokens/*"), rel=0.02)
    tables = sum(size(done, name) for name in TABLES)
    assert planned.disk.tables == pytest.approx(tables, rel=0.1)  # all scores alike
    assert planned.disk.free is not None
    assert planned.disk.free > planned.disk.total
    assert 0 < sum(size(done, name) for name in CALL_FILES) < planned.disk.virus_files


def test_every_unit_is_dealt_once_and_time_and_memory_are_told(planned: Forecast) -> None:
    work, time_, memory = planned.work, planned.time, planned.memory
    assert work is not None
    assert time_ is not None
    assert memory is not None
    assert len(work.ranks) == 2
    assert sum(rank.units for rank in work.ranks) == work.units
    assert sum(rank.tokens for rank in work.ranks) == sum(work.tokens.values())
    assert 1.0 <= work.busiest < 1.2
    assert time_.embed == max(rank.embed_s for rank in work.ranks) > 0
    assert time_.timed_at_once == min(2, len(os.sched_getaffinity(0)))
    assert time_.timed_batches >= 8 * time_.timed_at_once
    assert time_.total == pytest.approx(
        time_.launch + time_.start + time_.load + time_.ingest + time_.plan + time_.embed + time_.tables
    )
    assert memory.program > 100 << 20
    assert memory.encoders > 0


def test_people_read_aligned_lines_and_programs_one_object(planned: Forecast) -> None:
    lines = list(planned.lines())
    assert planned.work is not None
    for number in (planned.counts.fragments, planned.work.units, planned.work.tokens["protein"]):
        assert any(f"{number:,} " in f"{line} " for line in lines)
    assert not re.search(r"[^\x20-\x7e]", "".join(lines))
    found = json.loads(planned.to_json())
    assert found["counts"]["fragments"] == planned.counts.fragments
    assert found["time"]["total"] > found["time"]["overhead"] > 0
    assert found["disk"]["total"] == sum(found["disk"][name] for name in ("parts", "tokens", "tables", "virus_files"))
    assert any(line.strip().startswith("and at most ") for line in lines)


def test_nothing_stays_in_the_temporary_folder(planned: Forecast, temporary: Path) -> None:
    assert planned
    assert list(temporary.glob("vpdist-plan-*")) == []


def test_without_models_it_counts_and_says_what_it_cannot_tell(
    settings: Settings, planned: Forecast, tmp_path: Path
) -> None:
    bare = replace(settings, dry_run=True, nucleotide_model=None, protein_model=None, classifier=None)
    found = forecast(bare, 1, None)
    assert found == Forecast(counts=planned.counts, warnings=planned.warnings)
    assert ["name of an earlier one" in warning for warning in planned.warnings] == [True]
    assert "depend on the models" in "\n".join(found.lines())


def test_the_objects_of_a_manifest_are_planned_with_models(
    settings: Settings, contigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[TimingRequest] = []

    def measure(request: TimingRequest, *_: object) -> list[Timing]:
        sent.append(ForkingPickler.loads(ForkingPickler.dumps(request)))  # as another process gets it
        raise UsageError("sent")

    monkeypatch.setattr(timing_process, "measure", measure)
    (tmp_path / "m.tsv").write_text(f"path\n{contigs}\n")
    with pytest.raises(UsageError, match="sent"):
        forecast(replace(settings, dry_run=True, inputs=(), manifest=tmp_path / "m.tsv"), 1, None)
    assert sent[0].inputs.by_object
    assert sent[0].inputs.paths == [contigs]


def test_one_encoder_is_planned_as_embed_would_run_it(settings: Settings, planned: Forecast) -> None:
    found = forecast(replace(settings, dry_run=True, nucleotide_model=None, classifier=None), 3, None)
    assert found.work is not None
    assert found.disk is not None
    assert planned.work is not None
    assert planned.disk is not None
    assert found.work.tokens == {"protein": planned.work.tokens["protein"]}
    assert found.disk.parts < planned.disk.parts
    assert found.disk.free is None


def test_no_embeddings_need_less_disk_and_no_classifier_is_needed_to_say_so(
    settings: Settings, planned: Forecast
) -> None:
    found = forecast(replace(settings, dry_run=True, embeddings=False, classifier=None), 1, None)
    assert found.disk is not None
    assert planned.disk is not None
    numbers = planned.counts.different_fragments * (NUCLEOTIDE_WIDTH + PROTEIN_WIDTH)
    assert planned.disk.parts - found.disk.parts >= 4 * numbers
    assert found.disk.tables == planned.disk.tables


def test_an_input_without_open_frames_needs_no_time(settings: Settings, tmp_path: Path) -> None:
    closed = tmp_path / "closed.fa"
    closed.write_text(">x\n" + "TTAATTAATTAG" * 20 + "\n")
    empty = tmp_path / "empty.fa"
    empty.touch()
    for path, sequences in ((closed, 1), (empty, 0)):
        found = forecast(replace(settings, dry_run=True, inputs=(str(path),)), 2, None)
        assert (found.counts.sequences, found.counts.fragments) == (sequences, 0)
        assert found.time is None
        assert "nothing to embed" in "\n".join(found.lines())


def test_errors_are_those_of_a_run(settings: Settings, tmp_path: Path, temporary: Path) -> None:
    dry = replace(settings, dry_run=True)
    protein = tmp_path / "protein.fa"
    protein.write_text(">good\nACGT\n>bad\nMKVLAAG\n")
    with pytest.raises(InputError, match=r"protein.fa, record bad, letter 4"):
        forecast(replace(dry, inputs=(str(protein),)), 1, None)
    with pytest.raises(WeightsError, match="neither a folder nor"):
        forecast(replace(dry, protein_model=str(tmp_path / "absent"), offline=True), 1, None)
    wide = write_classifier(tmp_path / "wide.safetensors", protein_width=99)
    with pytest.raises(WeightsError, match="takes"):
        forecast(replace(dry, classifier=wide), 1, None)
    with pytest.raises(UsageError, match="is named twice"):
        replace(dry, inputs=("a.fa", "./a.fa"))
    assert list(temporary.glob("vpdist-plan-*")) == []


def test_weights_that_do_not_fit_are_refused_by_the_processes_that_load_them(
    settings: Settings, models: TinyModels, tmp_path: Path, temporary: Path
) -> None:
    changed = tmp_path / "esm2"
    changed.mkdir()
    for path in models.protein.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(WeightsError, match="do not fit"):
        forecast(replace(settings, dry_run=True, protein_model=str(changed)), 1, None)
    assert list(temporary.glob("vpdist-plan-*")) == []


def test_a_plan_of_many_shards_is_timed_though_few_are_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    real = token_shards.write_shard

    def write_shard(folder: Path, shard: int, *others: Any) -> None:
        written.append(shard)
        real(folder, shard, *others)

    monkeypatch.setattr(plan, "SHARD_TOKEN_BYTES", 1)
    monkeypatch.setattr(token_shards, "write_shard", write_shard)
    monkeypatch.setattr(dry_run, "STRETCHES", 4)
    found = forecast(replace(settings, dry_run=True), 1, None)
    assert found.work is not None
    assert found.time is not None
    assert len(written) < found.work.units


def test_a_process_that_ends_while_it_is_timed_is_told_with_its_code(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    real = timing_process.measure

    def measure(request: TimingRequest, ranks: int, check: Callable[[], None]) -> list[Timing]:
        (request.folder.path / "loaded-by-another").touch()  # each waits until all have loaded, so none ends by itself

        def kill() -> None:
            for process in multiprocessing.active_children():
                process.kill()

        return real(request, ranks, kill)

    monkeypatch.setattr(timing_process, "measure", measure)
    with pytest.raises(VpdistError, match=r"a process ended with code -9"):
        forecast(replace(settings, dry_run=True), 2, None)
    assert multiprocessing.active_children() == []
    assert list(temporary.glob("vpdist-plan-*")) == []


def test_ranks_share_this_machine_up_to_its_cores_or_as_the_launcher_says() -> None:
    cpu, cores = torch.device("cpu"), len(os.sched_getaffinity(0))
    assert ranks_here(1, LaunchContext(), cpu) == 1
    assert ranks_here(1000, LaunchContext(), cpu) == cores
    assert ranks_here(8, LaunchContext(world_size=8, local_world_size=3, launched=True), cpu) == 3


def arguments(models: TinyModels, source: Path | str) -> list[str]:
    return [
        *("plan", str(source), "--nucleotide-model", str(models.nucleotide), "--protein-model", str(models.protein)),
        *("--dtype", "float32", "--threads", "1"),
    ]


def test_the_command_under_torchrun_speaks_once_and_reads_standard_input(
    models: TinyModels, contigs: Path, temporary: Path
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vpdist"]
    with open(contigs, "rb") as source:
        ended = subprocess.run(
            [*torchrun, *arguments(models, "-"), "--json"],
            stdin=source,
            env=environment() | {"TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
    found = json.loads(ended.stdout)
    assert len(found["work"]["ranks"]) == 2
    assert found["counts"]["sequences"] == 63


def test_a_piped_command_prints_no_control_characters_and_exit_codes_are_a_runs(
    models: TinyModels, contigs: Path, tmp_path: Path
) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*VPDIST, *options], env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    ended = run(*arguments(models, contigs), "--ranks", "2")
    assert ended.returncode == 0, ended.stderr
    assert "balance    busiest rank" in ended.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", ended.stdout + ended.stderr)
    absent = run("plan", str(tmp_path / "absent.fa"))
    assert (absent.returncode, absent.stdout) == (3, "")
    assert "absent.fa: cannot be read" in absent.stderr
    assert run("plan", str(contigs), "--ranks", "0").returncode == 2
    assert run(*arguments(models, contigs)[:-4], "--nucleotide-model", str(tmp_path / "none")).returncode == 4


def timed_here(request: TimingRequest, ranks: int, raise_if_ending: Callable[[], None]) -> list[Timing]:
    """In this process, where the test decides what fits the memory."""
    return [timing_process._timing(request, LaunchContext(), 0.0)]


def test_a_batch_that_does_not_fit_the_memory_is_halved_as_in_a_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, refused, taken = Encoder.embed, list[int](), list[int]()

    def with_little_memory(encoder: Encoder, tokens: Ragged) -> torch.Tensor:
        (refused if len(tokens) > 1 else taken).append(len(tokens))
        if len(tokens) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return embed(encoder, tokens)

    monkeypatch.setattr(Encoder, "embed", with_little_memory)
    monkeypatch.setattr(timing_process, "measure", timed_here)
    monkeypatch.setattr(timing_process, "parent_process", multiprocessing.current_process)
    monkeypatch.setattr(type(multiprocessing.current_process()), "is_alive", lambda process: True)
    found = forecast(replace(settings, dry_run=True), 1, None)
    assert refused
    assert taken
    assert found.time is not None
    assert found.time.timed_batches > 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 11 GiB. Of the allocated memory 1 GiB is used"
            ),
            r"^CUDA out of memory\. Tried to allocate 11 GiB; free memory of the GPU",
        ),
        (MemoryError("no"), r"^out of memory \(no\)"),
    ],
)
def test_encoders_that_do_not_fit_the_memory_are_no_bug(
    error: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(timing_process, "_timing", refuse)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    request, folder = TimingRequest.__new__(TimingRequest), RunFolder(tmp_path)
    object.__setattr__(request, "folder", folder)
    folder.prepare(restart=False)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        with pytest.raises(SystemExit) as ended:
            timing_process._run(0, request, [sender], 0.0)
        sent = receiver.recv()
    assert ended.value.code == 6
    assert isinstance(sent, StorageError)
    assert re.match(told, str(sent))


HOLD_WHAT_IS_TIMED = f"""
import importlib.util, os, sys

if any("spawn_main" in word for word in sys.orig_argv):
    os.environ["VPDIST_FAULTS"] = os.environ["HOLD"]
    spec = importlib.util.spec_from_file_location("faulty", {str(bad_records.FAULTY / "sitecustomize.py")!r})
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
"""A sitecustomize.py: the processes that are timed wait at a gate, between batches."""


def test_what_is_timed_ends_with_the_process_that_asked(models: TinyModels, contigs: Path, tmp_path: Path) -> None:
    gate, hook = Gate(tmp_path / "gate"), tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOLD_WHAT_IS_TIMED)
    variables = environment()
    process = subprocess.Popen(
        [*VPDIST, *arguments(models, contigs), "--ranks", "2", "--progress", "none"],
        env=variables
        | {
            "TMPDIR": str(tmp_path),
            "PYTHONPATH": f"{hook}{os.pathsep}{variables['PYTHONPATH']}",
            "HOLD": bad_records.fault_environment(hold=gate.rule())["VPDIST_FAULTS"],
        },
        stdout=subprocess.DEVNULL,
    )
    try:
        ranks = min(2, len(os.sched_getaffinity(0)))
        wait_until(lambda: len(gate.held()) == ranks or process.poll() is not None, "processes that are timed")
        assert process.poll() is None
        timed = [psutil.Process(pid) for pid in gate.held()]
    finally:
        process.kill()
        process.wait()
    assert psutil.wait_procs(timed, timeout=PATIENCE_S)[1] == []


def test_an_interrupted_dry_run_leaves_nothing(models: TinyModels, contigs: Path, temporary: Path) -> None:
    process = subprocess.Popen(
        [*VPDIST, *arguments(models, "-")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment() | {"TMPDIR": str(temporary)},
    )
    wait_until(lambda: any(temporary.glob("vpdist-plan-*/tokens/.*")), "a dry run that waits for standard input")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE_S) == 143
    assert process.stderr is not None
    assert "stopped by SIGTERM" in process.stderr.read().decode()
    assert list(temporary.glob("vpdist-plan-*")) == []
