"""`python -m scripts.archive.check_cost [--work DIR] [--objects 30]`: the estimate of `plan --manifest` beside a run.

Makes a manifest of small objects of mixed kinds (contigs and reads, plain and compressed), asks `vpdist plan` for
device hours from a sample, before and after it runs the whole manifest with small models, and compares. The machine
should be idle: what others do between changes the rate. Ends with 1 where the estimate is
more than 25 % off.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scripts.bench import large_inputs
from scripts.bench.goals import Row, conditions, table
from scripts.demo import make_models

GOAL = 25.0
PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def make_objects(folder: Path, n: int) -> Path:
    """n objects and their manifest: sizes log-normal, one in five of reads."""
    rng = np.random.default_rng(7)
    lines = ["path\tsample\n"]
    for number in range(n):
        n_chunks = int(rng.lognormal(4.6, 0.7))
        if number % 5 == 4:
            path = large_inputs.write_reads(folder / f"{number}.fq", 4 * n_chunks, seed=number)
        else:
            path = large_inputs.write_contigs(folder / f"{number}.fa", n_chunks, seed=number)
        suffix = list(PACKED)[number % len(PACKED)]
        content = path.read_bytes()
        path.unlink()
        (folder / f"{path.name}{suffix}").write_bytes(PACKED[suffix](content))
        lines.append(f"{path.name}{suffix}\tsample{number % 3}\n")
    manifest = folder / "manifest.tsv"
    manifest.write_text("".join(lines))
    return manifest


def vpdist(*arguments: str) -> str:
    command = [sys.executable, "-m", "vpdist", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check(folder: Path, n: int) -> list[Row]:
    """The figures. Raises CalledProcessError."""
    models = folder / "models"
    make_models.make_dnabert_s(models / "dnabert-s", 4, 192, 1, safetensors=False)
    make_models.make_esm2(models / "esm-2", 4, 160, 2)
    classifier = make_models.make_classifier(models / "classifier.safetensors", models, hidden=64)
    manifest = make_objects(folder, n)
    options = [
        *make_models.model_options(models, classifier),
        "--threads",
        "1",
        "--device",
        "cpu",
        "--progress",
        "none",
    ]
    asked = ["plan", "--manifest", str(manifest), *options, "--ranks", "1", "--price", "2", "--json"]
    before = json.loads(vpdist(*asked))
    inputs = folder / "inputs.txt"
    inputs.write_text("".join(f"{folder / line.split()[0]}\n" for line in manifest.read_text().splitlines()[1:]))
    started = time.monotonic()
    vpdist("predict", "--files-from", str(inputs), "-o", str(folder / "run"), *options, "--nproc", "1")
    took = (time.monotonic() - started) / 3600
    after = json.loads(vpdist(*asked))  # other programs come and go: the rate is that of the moment
    expected = (before["hours"]["expected"] + after["hours"]["expected"]) / 2
    off = 100 * abs(expected / took - 1)
    both = " and ".join(f"{each['hours']['expected']:.4f}" for each in (before, after))
    note = f"expected {both} hours before and after, took {took:.4f}; "
    counted = f"{before['sampled_objects']} of {before['objects']} objects counted"
    note += f"{counted}, {before['fragments']['expected']:,.0f} fragments"
    return [Row("estimate of vpdist plan --manifest, 1 rank", off, "% off", at_most=GOAL, note=note)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("bench/cost"), help="emptied first")
    parser.add_argument("--objects", type=int, default=30)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    print(conditions(), flush=True)
    rows = check(arguments.work.resolve(), arguments.objects)
    print(table(rows))
    sys.exit(any(row.verdict == "missed" for row in rows))


if __name__ == "__main__":
    main()
