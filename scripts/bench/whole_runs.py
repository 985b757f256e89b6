"""The whole `predict` on the CPU: against a plain loop, 2 ranks against 1, its own overhead, and `vpdist plan`'s guess.

    python -m scripts.bench.whole_runs virus.fa.gz host.fa.gz --models MODELS [--fragments N] [--plain-fragments N]
        [--work DIR] [--dtypes bfloat16 float32] [--pairs N]

Models are DIR/dnabert-s and DIR/esm-2, for example full-size ones with random weights, made by `python -m
scripts.demo.make_models MODELS --nucleotide 12x768 --protein 12x480`; a classifier with random weights is made for
them. Contigs are taken from the files in turn until they have so many fragments: speed on one and two ranks (one
thread each) is measured on the larger set, the plain loop (plain_loop.py: float32, one process with torch's default
threads) and float32 on the smaller one, which is the beginning of it. "Run" is what the run itself counts, from its
first stage to its tables; "launch to end" adds the launcher, the imports and torch's process group. One rank and two
run in turn, `--pairs` times.
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
from vpdist.encoders.shape import encoder_shape
from vpdist.results.classifier import Classifier, save_classifier
from vpdist.sequences.six_frames import chunk_bounds, six_frames

CHUNK_LENGTH = 500
FRAGMENTS, PLAIN_FRAGMENTS = 200, 60
SPEED_UP = {"bfloat16": 4.5, "float32": 1.3}
"""Goals against the plain loop."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of `predict`. Seconds are wall time."""

    fragments: int
    tokens: int
    launch_to_end_s: float
    run_s: float
    embed_s: float
    beside_share: float
    """Share of the ranks' time that went into progress, logs and part writing, as the run counted it."""
    expected_s: float
    """What `vpdist plan` had said of launch to end."""


def n_fragments(sequence: str) -> int:
    starts, ends = chunk_bounds(len(sequence), CHUNK_LENGTH)
    return len(six_frames(np.frombuffer(sequence.upper().encode(), np.uint8), starts, ends))


def in_turn(sources: Sequence[Path]) -> Iterator[dnaio.SequenceRecord]:
    """Records of all files, one of each file after the other."""
    with ExitStack() as stack:
        readers = [iter(stack.enter_context(dnaio.open(source))) for source in sources]
        while readers:
            for reader in list(readers):
                record = next(reader, None)
                if record is None:
                    readers.remove(reader)
                else:
                    yield record


def some_contigs(sources: Sequence[Path], target: Path, fragments: int) -> Path:
    """The first contigs of the files, in turn, that have so many fragments, as plain FASTA."""
    found = 0
    with open(target, "w", encoding="utf-8") as file:
        for record in in_turn(sources):
            if found >= fragments:
                break
            found += n_fragments(record.sequence)
            file.write(f">{record.name}\n{record.sequence}\n")
    return target


def predict(
    contigs: Path, models: Path, classifier: Path, dtype: str, ranks: int, work: Path, threads: int = 1
) -> Measured:
    """What `vpdist plan` says of a run, then the run."""
    folder = work / f"{dtype}-{ranks}"
    options = [
        *(str(contigs), "-o", str(folder), "--threads", str(threads), "--dtype", dtype, "--device", "cpu"),
        *("--nucleotide-model", str(models / "dnabert-s"), "--protein-model", str(models / "esm-2")),
        *("--classifier", str(classifier)),
    ]
    vpdist = [sys.executable, "-m", "vpdist"]
    plan = [*vpdist, "plan", *options, "--ranks", str(ranks), "--json", "--progress", "none"]
    planned = json.loads(subprocess.run(plan, check=True, stdout=subprocess.PIPE).stdout)
    run = [*vpdist, "predict", *options, "--nproc", str(ranks), "--restart", "--progress", "log"]
    started = time.monotonic()
    subprocess.run(run, check=True, stderr=subprocess.DEVNULL)
    launch_to_end_s = time.monotonic() - started
    told = json.loads((folder / "run.json").read_text())
    totals = json.loads((folder / "progress.jsonl").read_text().splitlines()[-1])["totals"]
    return Measured(
        fragments=totals["fragments"],
        tokens=totals["nucleotide_tokens"] + totals["protein_tokens"],
        launch_to_end_s=launch_to_end_s,
        run_s=told["seconds"],
        embed_s=told["stage_seconds"]["embed"],
        beside_share=(totals["progress_us"] + totals["write_us"]) / 1e6 / ranks / told["seconds"],
        expected_s=planned["time"]["total"],
    )


def plain_loop(contigs: Path, models: Path, classifier: Path, work: Path) -> dict[str, float]:
    """Seconds and counts of plain_loop.py in a process of its own."""
    command = [
        *(sys.executable, "-m", "scripts.bench.plain_loop", str(contigs), "--models", str(models)),
        *("--classifier", str(classifier), "-o", str(work / "plain.tsv")),
    ]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
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
    """The figures of the whole `predict`, each as soon as it is there; one rank and two are compared `pairs` times."""
    work.mkdir(parents=True, exist_ok=True)
    many = some_contigs(inputs, work / "contigs.fa", fragments)
    few = some_contigs(inputs, work / "few-contigs.fa", plain_fragments)
    classifier = work / "classifier.safetensors"
    torch.manual_seed(0)
    width = sum(encoder_shape(models / name).width for name in ("dnabert-s", "esm-2"))
    save_classifier(Classifier(width, 512).eval(), classifier, {"chunk_length": str(CHUNK_LENGTH)})

    plain = plain_loop(few, models, classifier, work)
    plain_s = plain["seconds"] / plain["fragments"]
    yield Row("plain loop, per fragment", 1000 * plain_s, "ms", note=_of(plain))
    native = native_bfloat16()
    for dtype in dtypes:
        what, goal = f"whole predict, {dtype}, 2 ranks, against the plain loop", SPEED_UP[dtype]
        if dtype == "bfloat16" and not native:
            yield Row(what, None, "x", at_least=goal, note="this processor has no bfloat16 products of its own")
            continue
        fastest = dtype == ("bfloat16" if native else "float32")  # what --dtype auto takes: measured on one rank too
        two = predict(many if fastest else few, models, classifier, dtype, 2, work)
        yield Row(what, plain_s * two.fragments / two.run_s, "x", at_least=goal, note=_told(two))
        yield _estimate(f"estimate of vpdist plan, {dtype}, 2 ranks", two)
        if fastest:
            one = predict(many, models, classifier, dtype, 1, work)
            compared = [(one, two)]
            for _ in range(pairs - 1):
                again = predict(many, models, classifier, dtype, 2, work)
                compared.append((predict(many, models, classifier, dtype, 1, work), again))
            yield _two_against_one(f"2 ranks against 1, {dtype}, one thread each", compared)
            yield _estimate(f"estimate of vpdist plan, {dtype}, 1 rank", one)
            yield Row("progress, logs and part writing", 100 * two.beside_share, "% of the run", at_most=0.5)


def _of(plain: dict[str, float]) -> str:
    return (
        f"{plain['fragments']:.0f} fragments, {plain['seconds']:.1f} s: DNABERT-S {plain['nucleotide_s']:.1f}, "
        f"ESM-2 {plain['protein_s']:.1f}; {plain['threads']:.0f} threads"
    )


def _told(run: Measured) -> str:
    return (
        f"{run.fragments:,} fragments, {run.tokens:,} tokens: run {run.run_s:.1f} s, embedding {run.embed_s:.1f}, "
        f"launch to end {run.launch_to_end_s:.1f}"
    )


def _two_against_one(what: str, compared: Sequence[tuple[Measured, Measured]]) -> Row:
    """How many times as fast two ranks were as one, of several comparisons the median."""
    seconds = [(one.run_s, two.run_s) for one, two in compared]
    told = "; ".join(f"{one:.1f} and {two:.1f} s, {one / two:.3f} x" for one, two in seconds)
    note = f"{compared[0][0].fragments:,} fragments: {told}"
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
    found = rows(
        arguments.inputs,
        arguments.models,
        arguments.work,
        fragments=arguments.fragments,
        plain_fragments=arguments.plain_fragments,
        dtypes=arguments.dtypes,
        pairs=arguments.pairs,
    )
    print(table(found))


if __name__ == "__main__":
    main()
