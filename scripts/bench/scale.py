"""`python -m scripts.bench.scale [--large] [--only NAME] [--work DIR]`: all stages of a run but the encoders.

Measures reading, planning, balance, tables, memory and start of work. Inputs are synthetic (`large_inputs.py`),
encoders random. The short form takes about two minutes on two cores, with some sizes reduced as the rows say; --large
adds plan, balance, tables and memory at full size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from scripts.bench import balance, large_inputs
from scripts.bench.goals import Row, conditions, table
from scripts.bench.memory import peak_of_ranks
from scripts.demo import make_models
from vpdist.distributed.runtime import start
from vpdist.environment import LaunchContext
from vpdist.planning import fragment_keys, plan_file
from vpdist.planning.plan import build
from vpdist.results import parts, write_results
from vpdist.results.parts import PartHeader
from vpdist.sequences import ingest, store_summary, token_store
from vpdist.sequences.six_frames import six_frames
from vpdist.sequences.tokenizers import load_tokenizer
from vpdist.session.coordination import Control
from vpdist.session.signals import StopRequest
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.table_switch import TablesOrigin

WORKER = ("-m", "scripts.bench.scale_worker")
MB = 1e6


def rows(large: bool, work: Path = Path("bench/scale"), only: str = "") -> list[Row]:
    """The rows of the short form or the long one, of functions whose name contains `only`."""
    work.mkdir(parents=True, exist_ok=True)
    all_rows: list[Row] = []
    for measure in [*SHORT, *LARGE] if large else SHORT:
        if only in measure.__name__:
            with _folder(work / measure.__name__) as folder:
                measured = measure(folder)
            print(table(measured), file=sys.stderr, flush=True)
            all_rows += measured
    return all_rows


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """An empty folder, removed at the end."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    yield path
    shutil.rmtree(path)


def small_models(folder: Path) -> Path:
    """Tiny encoders, with a tokenizer like DNABERT-S's, and a classifier for them."""
    make_models.make_dnabert_s(folder / "dnabert-s", 1, 12, 1, safetensors=False)
    make_models.make_esm2(folder / "esm-2", 1, 32, 2)
    make_models.make_classifier(folder / "classifier.safetensors", folder, hidden=64)
    return folder


def torchrun(ranks: int, *command: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *command]


def worker(folder: Path, ranks: int, job: str, *arguments: str | Path) -> list[dict[str, float]]:
    """Run a job of `scale_worker.py`; returns the result of each rank."""
    command = torchrun(ranks, *WORKER, job, str(folder / "result"), *map(str, arguments))
    subprocess.run(command, check=True, capture_output=True)
    return [json.loads((folder / f"result.{rank}.json").read_text()) for rank in range(ranks)]


def fragments_without_tokens(folder: Path) -> list[Row]:
    source = large_inputs.write_contigs(folder / "contigs.fa", 100_000)
    started = time.perf_counter()
    n_chunks = n_fragments = 0
    for raw in token_store.read_blocks([source], large_inputs.CHUNK_LENGTH):
        n_chunks += len(raw.chunk_record)
        n_fragments += len(six_frames(raw.bases.flat, raw.bases.offsets[:-1], raw.bases.offsets[1:]))
    rate = n_chunks / (time.perf_counter() - started)
    note = f"{n_chunks:,} chunks of 500 bp, {n_fragments:,} fragments"
    return [
        Row("sequences to fragments, without tokenisation, one core", rate, "chunks/s", at_least=100_000, note=note)
    ]


def fragments_with_tokens(folder: Path) -> list[Row]:
    source = large_inputs.write_contigs(folder / "contigs.fa", 400_000)
    os.sync()  # otherwise the input is still being written
    results = worker(folder, 2, "ingest", source, small_models(folder), folder / "run")
    rate = results[0]["fragments"] / max(rank["seconds"] for rank in results)
    note = f"{results[0]['fragments']:,} fragments; torchrun, token store written"
    what = "sequences to fragments, with tokenisation, 2 ranks on 2 cores"
    return [Row(what, rate, "fragments/s", at_least=18_000, note=note)]


def start_of_work(folder: Path) -> list[Row]:
    models = folder / "models"
    make_models.make_dnabert_s(models / "dnabert-s", 12, 768, 1, safetensors=False)
    make_models.make_esm2(models / "esm-2", 12, 480, 2)
    classifier = make_models.make_classifier(models / "classifier.safetensors", models, hidden=64)
    source = large_inputs.write_contigs(folder / "contigs.fa", 30)
    seconds = []
    for attempt in range(3):  # the first brings the models into the page cache
        run = folder / f"run-{attempt}"
        results = worker(folder, 2, "start", source, models, classifier, run)
        seconds.append(max(rank["seconds"] for rank in results))
    stages = json.loads((run / "run.json").read_text())["stage_seconds"]
    note = "to the slower rank's first batch, better of two; 12x768 + 12x480; stages of the last: " + ", ".join(
        f"{name} {stages[name]:.2f}" for name in ("start", "ingest", "plan", "layout", "load")
    )
    what = "start of work after launch, models in the page cache, beyond imports, 2 ranks"
    return [Row(what, min(seconds[1:]), "s", at_most=2, note=note)]


def tables_of_100_thousand(folder: Path) -> list[Row]:
    return _tables(folder, 150_000, Row("tables for 100 thousand fragments (reduced)", None, "s"))


def tables_of_1_million(folder: Path) -> list[Row]:
    return _tables(folder, 1_860_000, Row("tables for 1 million fragments", None, "s", at_most=10))


def _tables(path: Path, n_chunks: int, row: Row) -> list[Row]:
    """Time the tables of a run whose parts have random logits; the plan is one for GPUs (DNABERT-S, ESM-2 3B)."""
    folder = RunFolder(path / "run")
    folder.prepare(restart=False)
    make_models.make_esm2(path / "esm-2", 1, 32, 2)
    source = large_inputs.write_contigs(path / "contigs.fa", n_chunks)
    summary = ingest.ingest(
        Control(start(LaunchContext()), StopRequest(on_second_signal=lambda stopped: stopped.exit_code)),
        folder,
        [source],
        "benchmark",
        chunk_length=large_inputs.CHUNK_LENGTH,
        min_length=0,
        tokenizers={"protein": load_tokenizer("protein", path / "esm-2")},
    )
    costs = {"protein": balance.COSTS["protein"]}
    plan = build(fragment_keys.fragment_keys(folder, summary), balance.GPU_LIMITS, costs)
    plan_file.write_plan(folder.plan, plan, "benchmark")
    plan, plan_id = plan_file.map_plan(folder.plan)
    header = PartHeader(
        plan=plan_id,
        dtype="float16",
        embedding_dtype="float16",
        threads=1,
        models={"protein": "protein"},
        classifier="classifier",
        embeddings=False,
    )
    rng = np.random.default_rng(3)
    for unit in range(plan.n_units):
        m = len(plan.rows(unit))
        logits = rng.normal(0, 2, (m, 2)).astype(np.float32)
        parts.write(folder.parts, unit, plan, header, np.zeros(m, bool), {"logits": logits})
    started = time.perf_counter()
    scores = write_results.part_scores(folder, plan, header, summary.n_fragments, lambda: None)
    read = time.perf_counter()
    scores = write_results.checked_scores(scores)
    origin = TablesOrigin(command="predict", classifier="classifier", consensus="mean", plan=plan_id)
    write_results.write_tables(folder, summary, scores, [str(source)], origin, lambda: None, legacy=False)
    ended = time.perf_counter()
    note = (
        f"{summary.n_records:,} sequences, {summary.n_chunks:,} chunks, {summary.n_fragments:,} fragments; "
        f"{plan.n_units:,} parts read in {read - started:.1f} s"
    )
    return [Row(row.what, ended - started, row.unit, at_most=row.at_most, note=note)]


def plan_of_10_million(folder: Path) -> list[Row]:
    run = RunFolder(folder / "run")
    run.prepare(restart=False)
    summary = large_inputs.write_store(run, 10_000_000, n_blocks=2000)
    result = worker(folder, 1, "plan", run.path, small_models(folder))[0]
    note = f"{result['units']:,} units; from {summary.n_blocks:,} blocks to the plan on disk, in a process of its own"
    what = "plan for 10 million fragments"
    return [
        Row(f"{what}, time", result["seconds"], "s", at_most=15, note=note),
        Row(f"{what}, anonymous memory beyond imports", result["bytes"] / MB, "MB", at_most=1000),
    ]


def balance_of_10_million(folder: Path) -> list[Row]:
    return balance.rows()


def memory_of_a_rank(folder: Path) -> list[Row]:
    """Anonymous memory over whole runs of `predict` on 2 ranks, from 10 thousand to 1 million fragments."""
    models = small_models(folder)
    peaks, notes = [], []
    for n_chunks in (18_600, 1_860_000):
        source = large_inputs.write_contigs(folder / "contigs.fa", n_chunks)
        run = folder / f"run-{n_chunks}"
        started = time.perf_counter()
        peak = peak_of_ranks(
            torchrun(
                *(2, "-m", "vpdist", "predict", str(source), "-o", str(run), "--threads", "1", "--device", "cpu"),
                *make_models.model_options(models, models / "classifier.safetensors"),
                *("--token-budget", "16384", "--progress", "log"),
            )
        )
        summary = store_summary.load_summary(RunFolder(run))
        assert summary is not None
        peaks.append(peak)
        notes.append(f"{summary.n_fragments:,} fragments: {peak / MB:.0f} MB ({time.perf_counter() - started:.0f} s)")
        shutil.rmtree(run)
    what = "anonymous memory of a rank, 1 million fragments over 10 thousand"
    return [Row(what, (peaks[1] - peaks[0]) / MB, "MB", at_most=200, note=", ".join(notes))]


def memory_of_a_chromosome(folder: Path) -> list[Row]:
    source = large_inputs.write_chromosome(folder / "chromosome.fa", 250_000_000)
    results = worker(folder, 2, "ingest", source, small_models(folder), folder / "run")
    note = f"{results[0]['fragments']:,} fragments; 2 ranks, {max(rank['seconds'] for rank in results):.0f} s"
    peak = max(rank["bytes"] for rank in results)
    return [Row("memory for one contig of 250 Mbp, ingest and plan", peak / MB, "MB", at_most=1000, note=note)]


def memory_of_short_reads(folder: Path) -> list[Row]:
    source = large_inputs.write_reads(folder / "reads.fq", 10_000_000)
    results = worker(folder, 2, "ingest", source, small_models(folder), folder / "run")
    peak = max(rank["bytes"] for rank in results)
    note = (
        f"{results[0]['fragments']:,} fragments; 2 ranks, {max(rank['seconds'] for rank in results):.0f} s; "
        f"ingest alone {max(rank['ingest_bytes'] for rank in results) / MB:.0f} MB"
    )
    what = "memory for 10 million reads of 150 bp, ingest and plan"
    return [Row(what, peak / MB, "MB", at_most=1000, note=note)]


Measure = Callable[[Path], list[Row]]
SHORT: list[Measure] = [fragments_without_tokens, fragments_with_tokens, tables_of_100_thousand, start_of_work]
LARGE: list[Measure] = [
    plan_of_10_million,
    balance_of_10_million,
    tables_of_1_million,
    memory_of_a_chromosome,
    memory_of_short_reads,
    memory_of_a_rank,
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also the measurements at full size")
    parser.add_argument(
        "--only", default="", help="only measurements whose function has NAME in its name", metavar="NAME"
    )
    parser.add_argument("--work", type=Path, default=Path("bench/scale"))
    arguments = parser.parse_args()
    print(conditions(), flush=True)
    print(table(rows(arguments.large, arguments.work, arguments.only)))


if __name__ == "__main__":
    main()
