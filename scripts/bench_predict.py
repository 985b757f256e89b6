"""Wall time and tokens per second of the whole `predict`, on 1, 2, ... ranks.

    python scripts/bench_predict.py virus.fa.gz host.fa.gz --models MODELS [--ranks 1 2] [--threads 1]
        [--contigs N] [--work DIR]

Models are DIR/dnabert-s and DIR/esm-2, for example full-size ones with random weights made by
`python scripts/make_models.py MODELS --nucleotide 12x768 --protein 12x480`; a classifier with random weights is made
for them. Prints the hardware, the versions and a row per number of ranks. "whole run" counts
from the launch to the end, imports included; "embedding" is the stage that runs the encoders.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import dnaio
import torch
from verdicts import conditions

from vpdist.classifier import Classifier, save_classifier
from vpdist.weights import encoder_shape


def first_contigs(source: Path, target: Path, n: int) -> Path:
    """The first n records of `source` as plain FASTA."""
    with dnaio.open(source) as reader, open(target, "w", encoding="utf-8") as file:
        for _, record in zip(range(n), reader, strict=False):
            file.write(f">{record.name}\n{record.sequence}\n")
    return target


def measure(
    inputs: list[Path], models: Path, classifier: Path, ranks: int, threads: int, dtype: str, folder: Path
) -> dict[str, float]:
    """One run on `ranks` ranks of `threads` threads each; its times in seconds and its counts."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
        *("-m", "vpdist", "predict", *map(str, inputs), "-o", str(folder), "--restart", "--threads", str(threads)),
        *("--nucleotide-model", str(models / "dnabert-s"), "--protein-model", str(models / "esm-2")),
        *("--classifier", str(classifier), "--dtype", dtype, "--progress", "log", "--device", "cpu"),
    ]
    started = time.monotonic()
    subprocess.run(command, check=True)
    wall = time.monotonic() - started
    run = json.loads((folder / "run.json").read_text())
    totals = json.loads((folder / "progress.jsonl").read_text().splitlines()[-1])["totals"]
    tokens = totals["nucleotide_tokens"] + totals["protein_tokens"]
    return {
        "wall": wall,
        "run": run["seconds"],
        "embed": run["stage_seconds"]["embed"],
        "tokens": tokens,
        "fragments": totals["fragments"],
        "progress": totals["progress_us"] / 1e6 / ranks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1, help="per rank")
    parser.add_argument("--contigs", type=int, help="only the first N contigs of each file")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--work", type=Path, default=Path("bench"), help="folder for the runs")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    inputs = arguments.inputs
    if arguments.contigs:
        inputs = [
            first_contigs(path, arguments.work / f"{path.name.split('.')[0]}-{arguments.contigs}.fa", arguments.contigs)
            for path in inputs
        ]
    classifier = arguments.work / "classifier.safetensors"
    torch.manual_seed(0)
    width = sum(encoder_shape(arguments.models / name).width for name in ("dnabert-s", "esm-2"))
    save_classifier(Classifier(width, 512).eval(), classifier, {"chunk_length": "500"})
    print(conditions(), flush=True)
    print("ranks  whole run s  embedding s  fragments  tokens/s (whole)  tokens/s (embedding)  progress %", flush=True)
    for ranks in arguments.ranks:
        folder = arguments.work / f"ranks-{ranks}"
        found = measure(inputs, arguments.models, classifier, ranks, arguments.threads, arguments.dtype, folder)
        print(
            f"{ranks:5}  {found['wall']:11.1f}  {found['embed']:11.1f}  {found['fragments']:9,.0f}"
            f"  {found['tokens'] / found['wall']:16,.0f}  {found['tokens'] / found['embed']:20,.0f}"
            f"  {100 * found['progress'] / found['run']:10.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
