"""`python -m scripts.bench.all [CONTIGS...] [--large] [--work bench]`: all figures beside their goals.

Prints one table and writes it to WORK/figures.md: the CPU figures, in under 10 minutes on two cores, or with --large
the runs with a million fragments and more. Without files, contigs are synthetic (make_sample.py); encoders are of full
size with random weights (make_models.py). Sample and models are made if they are missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.bench import against_esm_cpp, display, encoders, result_files, scale, whole_runs
from scripts.bench.goals import Row, conditions, printed, table
from scripts.demo import make_models, make_sample

NUCLEOTIDE, PROTEIN = "12x768", "12x480"
LONG, PAIRS = 600, 3
"""Fragments of the long form's `predict`, and how often it compares two ranks with one."""


def sample(work: Path) -> Path:
    """The synthetic sample, made if it is missing."""
    path = work / "sample" / "sample.fa.gz"
    if not path.exists():
        make_sample.main(path.parent)
    return path


def models(work: Path) -> Path:
    """Full-size encoders with random weights, made if they are missing."""
    folder = work / "models"
    if not (folder / "esm-2" / "config.json").exists():
        make_models.main(folder, nucleotide=NUCLEOTIDE, protein=PROTEIN)
    return folder


def cpu_rows(contigs: list[Path], work: Path, esm_cpp_python: str | None) -> Iterator[Row]:
    """The CPU figures: the whole program, its encoders, its other stages, what people look at."""
    yield from whole_runs.rows(contigs or [sample(work)], models(work), work / "runs")
    yield from encoders.rows(work / "encoders")
    yield from against_esm_cpp.rows(work / "encoders", esm_cpp_python)
    yield from scale.rows(large=False, work=work / "scale")
    yield from display.short_rows()


def large_rows(contigs: list[Path], work: Path) -> Iterator[Row]:
    """`predict` on an input so large that loading is negligible, and runs with a million fragments and more."""
    dtype = "bfloat16" if whole_runs.native_bfloat16() else "float32"
    runs = work / "long-runs"
    inputs, encoders = contigs or [sample(work)], models(work)
    yield from whole_runs.rows(inputs, encoders, runs, fragments=LONG, dtypes=(dtype,), pairs=PAIRS)
    yield from scale.rows(large=True, work=work / "scale")
    yield from result_files.rows()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contigs", type=Path, nargs="*", help="FASTA files to take contigs from")
    parser.add_argument("--large", action="store_true", help="the runs with a million fragments and more instead")
    parser.add_argument(
        "--esm-cpp", metavar="PYTHON", help="a Python that has esm-cpp, to compare with (against_esm_cpp.py)"
    )
    parser.add_argument("--work", type=Path, default=Path("bench"), help="folder for sample, models, runs and figures")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rows = (
        large_rows(arguments.contigs, arguments.work)
        if arguments.large
        else cpu_rows(arguments.contigs, arguments.work, arguments.esm_cpp)
    )
    text = f"{conditions()}\n\n{table(printed(rows))}\n\nin {time.monotonic() - started:.0f} s"
    print(text)
    name = "figures-large.md" if arguments.large else "figures.md"
    (arguments.work / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
