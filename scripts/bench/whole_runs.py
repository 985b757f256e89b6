"""`python -m scripts.bench.whole_runs CONTIGS... --models MODELS`: the whole `predict` on the CPU.

Compares it with a plain loop and two ranks with one; measures its overhead and the error of `vpdist plan`. Models are
MODELS/dnabert-s and MODELS/esm-2, for example full-size ones made by `python -m scripts.demo.make_models MODELS
--nucleotide 12x768 --protein 12x480`; a random classifier is made for them. Contigs are taken from the files in turn up
to a number of fragments: one and two ranks (one thread each) are measured on the larger set, the plain loop
(plain_loop.py: float32, one process with torch's default threads) and float32 on the smaller one, which is its
beginning. "Run" is the time that the run records, from its first stage to its tables; "launch to end" adds the
launcher, the imports and torch's process group. One rank and two run alternately, `--pairs` times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import dnaio
import numpy as np
import torch

from scripts.bench.goals import Row, conditions, table
from scripts.demo.make_models import make_classifier, model_options
from vpdist.sequences.six_frames import chunk_bounds, six_frames

CHUNK_LENGTH = 500
FRAGMENTS, PLAIN_FRAGMENTS = 200, 60
SPEED_UP = {"bfloat16": 5.0, "float32": 1.3}
"""Goals against the plain loop."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of `predict`. Seconds are wall time."""

    fragments: int
    tokens: int
    launch_to_end_s: float
    run_s: float
    embed_s: float
    overhead_share: float
    """Share of the ranks' time for progress, logs and part writing, as the run counted it."""
    expected_s: float
    """Estimate of launch to end by `vpdist plan`."""


def n_fragments(sequence: str) -> int:
    starts, ends = chunk_bounds(len(sequence), CHUNK_LENGTH)
    return len(six_frames(np.frombuffer(sequence.upper().encode(), np.uint8), starts, ends))


def interleaved(sources: Sequence[Path]) -> Iterator[dnaio.SequenceRecord]:
    """Records of all files, alternating between them."""
    with ExitStack() as stack:
        readers = [iter(stack.enter_context(dnaio.open(source))) for source in sources]
        while readers:
            for reader in list(readers):
                record = next(reader, None)
                if record is None:
                    readers.remove(reader)
                else:
                    yield record


def take_contigs(sources: Sequence[Path], target: Path, fragments: int) -> Path:
    """Write the first contigs of the files, alternating, that have so many fragments, as plain FASTA."""
    n = 0
    with open(target, "w", encoding="utf-8") as file:
        for record in interleaved(sources):
            if n >= fragments:
                break
            n += n_fragments(record.sequence)
            file.write(f">{record.name}\n{record.sequence}\n")
    return target


def predict(
    contigs: Path, models: Path, classifier: Path, dtype: str, ranks: int, work: Path, threads: int = 1
) -> Measured:
    """Estimate a run by `vpdist plan`, then run and measure it."""
    folder = work / f"{dtype}-{ranks}"
    options = [
        *(str(contigs), "-o", str(folder), "--threads", str(threads), "--dtype", dtype, "--device", "cpu"),
        *model_options(models, classifier),
    ]
    vpdist = [sys.executable, "-m", "vpdist"]
    plan = [*vpdist, "plan", *options, "--ranks", str(ranks), "--json", "--progress", "none"]
    planned = json.loads(subprocess.run(plan, check=True, stdout=subprocess.PIPE).stdout)
    run = [*vpdist, "predict", *options, "--nproc", str(ranks), "--restart", "--progress", "log"]
    started = time.monotonic()
    subprocess.run(run, check=True, stderr=subprocess.DEVNULL)
    launch_to_end_s = time.monotonic() - started
    record = json.loads((folder / "run.json").read_text())
    totals = json.loads((folder / "progress.jsonl").read_text().splitlines()[-1])["totals"]
    return Measured(
        fragments=totals["fragments"],
        tokens=totals["nucleotide_tokens"] + totals["protein_tokens"],
        launch_to_end_s=launch_to_end_s,
        run_s=record["seconds"],
        embed_s=record["stage_seconds"]["embed"],
        overhead_share=(totals["progress_us"] + totals["write_us"]) / 1e6 / ranks / record["seconds"],
        expected_s=planned["time"]["total"],
    )


def plain_loop(contigs: Path, models: Path, classifier: Path, work: Path) -> dict[str, float]:
    """Run plain_loop.py in its own process; returns its seconds and counts."""
    command = [
        *(sys.executable, "-m", "scripts.bench.plain_loop", str(contigs), "--models", str(models)),
        *("--classifier", str(classifier), "-o", str(work / "plain.tsv")),
    ]
    outcome: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return outcome


def native_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False))


def rows(
    inputs: Sequence[Path],
    models: Path,
    work: Path,
    *,
    fragments: int = FRAGMENTS,
    plain_fragments: int = PLAIN_FRAGMENTS,
    dtypes: Sequence[str] = ("bfloat16", "float32"),
    pairs: int = 1,
) -> Iterator[Row]:
    """The figures of the whole `predict`, each as soon as it is measured."""
    work.mkdir(parents=True, exist_ok=True)
    many = take_contigs(inputs, work / "contigs.fa", fragments)
    few = take_contigs(inputs, work / "few-contigs.fa", plain_fragments)
    classifier = make_classifier(work / "classifier.safetensors", models, hidden=512)

    plain = plain_loop(few, models, classifier, work)
    plain_s = plain["seconds"] / plain["fragments"]
    yield Row("plain loop, per fragment", 1000 * plain_s, "ms", note=_plain_note(plain))
    native = native_bfloat16()
    for dtype in dtypes:
        what, goal = f"whole predict, {dtype}, 2 ranks, against the plain loop", SPEED_UP[dtype]
        if dtype == "bfloat16" and not native:
            yield Row(what, None, "x", at_least=goal, note="this processor has no instructions for bfloat16")
            continue
        fastest = dtype == (
            "bfloat16" if native else "float32"
        )  # the one that --dtype auto takes, also measured on one rank
        two = predict(many if fastest else few, models, classifier, dtype, 2, work)
        yield Row(what, plain_s * two.fragments / two.run_s, "x", at_least=goal, note=_run_note(two))
        yield _estimate(f"estimate of vpdist plan, {dtype}, 2 ranks", two)
        if fastest:
            one = predict(many, models, classifier, dtype, 1, work)
            compared = [(one, two)]
            for _ in range(pairs - 1):
                again = predict(many, models, classifier, dtype, 2, work)
                compared.append((predict(many, models, classifier, dtype, 1, work), again))
            yield _two_against_one(f"2 ranks against 1, {dtype}, one thread each", compared)
            yield _estimate(f"estimate of vpdist plan, {dtype}, 1 rank", one)
            yield Row("progress, logs and part writing", 100 * two.overhead_share, "% of the run", at_most=0.5)


def _plain_note(plain: dict[str, float]) -> str:
    return (
        f"{plain['fragments']:.0f} fragments, {plain['seconds']:.1f} s: DNABERT-S {plain['nucleotide_s']:.1f}, "
        f"ESM-2 {plain['protein_s']:.1f}; {plain['threads']:.0f} threads"
    )


def _run_note(run: Measured) -> str:
    return (
        f"{run.fragments:,} fragments, {run.tokens:,} tokens: run {run.run_s:.1f} s, embedding {run.embed_s:.1f}, "
        f"launch to end {run.launch_to_end_s:.1f}"
    )


def _two_against_one(what: str, compared: Sequence[tuple[Measured, Measured]]) -> Row:
    """Speed of two ranks over that of one, the median of several comparisons."""
    seconds = [(one.run_s, two.run_s) for one, two in compared]
    times = "; ".join(f"{one:.1f} and {two:.1f} s, {one / two:.3f} x" for one, two in seconds)
    note = f"{compared[0][0].fragments:,} fragments: {times}"
    return Row(what, statistics.median(one / two for one, two in seconds), "x", at_least=1.93, note=note)


def _estimate(what: str, run: Measured) -> Row:
    off = 100 * abs(run.expected_s / run.launch_to_end_s - 1)
    note = f"expected {run.expected_s:.1f} s, took {run.launch_to_end_s:.1f}"
    return Row(what, off, "% off", at_most=25, note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--fragments", type=int, default=FRAGMENTS)
    parser.add_argument("--plain-fragments", type=int, default=PLAIN_FRAGMENTS)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=list(SPEED_UP))
    parser.add_argument("--pairs", type=int, default=1, help="how often two ranks are compared with one")
    parser.add_argument("--work", type=Path, default=Path("bench/runs"), help="folder for the runs")
    arguments = parser.parse_args()
    print(conditions(), flush=True)
    figures = rows(
        arguments.inputs,
        arguments.models,
        arguments.work,
        fragments=arguments.fragments,
        plain_fragments=arguments.plain_fragments,
        dtypes=arguments.dtypes,
        pairs=arguments.pairs,
    )
    print(table(figures))


if __name__ == "__main__":
    main()
