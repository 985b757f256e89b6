"""`python -m scripts.mini.judge --virus FA... --other [NAME=]FA... --model M [M...]`: models on labelled sequences.

For each model a table by source and length class: AUROC per fragment and per sequence with 95 % intervals over groups,
calls, and how many chunks get no score. A group is an accession, as `vpdist train` tells it from a name. The sequences
should be none that a model has seen. The last letters of a fragment's id are its frame; scores are those in the tables.
`--windows 150 300` judges windows of these lengths instead, up to four of each sequence; `--alone` also judges them by
the model's own classifier without those that it has for shorter chunks.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import dnaio
import numpy as np

from scripts.bench.goals import conditions
from vpdist.models.find import find_model
from vpdist.training.groups import accession
from vpdist.training.judge import length_class
from vpdist.training.metrics import Judged, with_intervals

ALL = "all"
RESAMPLES = 200
WINDOWS = 4


@dataclass(frozen=True, slots=True)
class Source:
    """One file of labelled sequences."""

    name: str
    path: str
    virus: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """Fragments and sequences of a source under a model: (n,) arrays; NaN where a sequence has no score."""

    fragment: np.ndarray
    fragment_length: np.ndarray
    """Bases of its sequence."""
    fragment_group: np.ndarray
    sequence: np.ndarray
    sequence_length: np.ndarray
    sequence_group: np.ndarray
    chunks: int
    scored_chunks: int


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def share(row: dict[str, str]) -> float:
    """virus / (virus + other)."""
    if row["virus_score"] == "NA":
        return float("nan")
    virus = float(row["virus_score"])
    return virus / (virus + float(row["nonvirus_score"]))


def windows(source: Source, length: int, path: Path) -> Source:
    """Up to WINDOWS windows of each sequence, as far apart as it allows, in a file of their own."""
    with dnaio.open(source.path) as reader, path.open("w", encoding="ascii") as file:
        for record in reader:
            n = min(WINDOWS, len(record.sequence) // length)
            for number in range(n):
                start = number * (len(record.sequence) - length) // max(1, n - 1)
                file.write(f">{record.name} window {number}\n{record.sequence[start : start + length]}\n")
    return replace(source, path=str(path))


def scores(source: Source, model: str, run: Path, options: Sequence[str] = ()) -> Scores:
    """Predict a source and read the tables. Raises CalledProcessError."""
    command = [sys.executable, "-m", "vpdist", "predict", source.path, "-o", str(run), "--model", model]
    command += ["--no-embeddings", "--replace-unknown", "--progress", "none", "--restart", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sequences = list(rows_of(run / "sequences.tsv"))
    length = {row["seq_name"]: int(row["length"]) for row in sequences}
    fragments = [(row["seq_name"], share(row)) for row in rows_of(run / "fragments.tsv")]
    return Scores(
        fragment=np.array([score for _, score in fragments]),
        fragment_length=np.array([length[name] for name, _ in fragments]),
        fragment_group=np.array([accession(name) for name, _ in fragments]),
        sequence=np.array([share(row) for row in sequences]),
        sequence_length=np.array([int(row["length"]) for row in sequences]),
        sequence_group=np.array([accession(row["seq_name"]) for row in sequences]),
        chunks=sum(int(row["n_chunks"]) for row in sequences),
        scored_chunks=sum(int(row["n_scored_chunks"]) for row in sequences),
    )


def figure(virus: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> str:
    """AUROC with its interval. Each side: scores and groups."""
    score = np.concatenate([virus[0], other[0]])
    groups = np.unique(np.concatenate([virus[1], other[1]]), return_inverse=True)[1]
    label = np.arange(len(score)) < len(virus[0])
    known = ~np.isnan(score)
    found = with_intervals(Judged.of(label[known], score[known], groups[known]), RESAMPLES, 0)["auroc"]
    if found["value"] is None:
        return "-"
    interval = "" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})"
    return f"{found['value']:.3f}{interval}"


def table(model: str, sources: Sequence[Source], found: Sequence[Scores]) -> Iterator[str]:
    """A line per other source against all viruses, in all and by length class, then calls by source."""
    yield f"### {model}\n"
    yield "| others | bases of a sequence | AUROC per fragment | AUROC per sequence |"
    yield "| --- | --- | --- | --- |"
    viruses = [scored for source, scored in zip(sources, found, strict=True) if source.virus]
    for source, other in zip(sources, found, strict=True):
        if source.virus:
            continue
        for name in (ALL, *dict.fromkeys(length_class(np.sort(other.sequence_length)).tolist())):
            sides: dict[str, list[np.ndarray]] = {}
            for level in ("fragment", "sequence"):
                for side, several in (("virus", viruses), ("other", [other])):
                    chosen = [_chosen(scored, level, name) for scored in several]
                    sides[f"{level} {side}"] = [np.concatenate(each) for each in zip(*chosen, strict=True)]
            columns = [figure(sides[f"{level} virus"], sides[f"{level} other"]) for level in ("fragment", "sequence")]
            yield f"| {source.name} | {name if name == ALL else f'from {name}'} | {' | '.join(columns)} |"
    yield "\n| source | sequences | called virus | no score | chunks without a score |"
    yield "| --- | --- | --- | --- | --- |"
    for source, scored in zip(sources, found, strict=True):
        n = len(scored.sequence)
        called, missing = int((scored.sequence >= 0.5).sum()), int(np.isnan(scored.sequence).sum())
        unscored = 1 - scored.scored_chunks / max(1, scored.chunks)
        yield f"| {source.name} | {n:,} | {called / n:.1%} | {missing / n:.1%} | {unscored:.1%} |"
    yield ""


def _chosen(scored: Scores, level: str, length: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and groups of one level and length class."""
    mine = np.ones(len(getattr(scored, level)), bool)
    if length != ALL:
        mine = length_class(getattr(scored, f"{level}_length")) == length
    return getattr(scored, level)[mine], getattr(scored, f"{level}_group")[mine]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--virus", nargs="+", required=True)
    parser.add_argument("--other", nargs="+", required=True, help="[NAME=]FILE")
    parser.add_argument("--model", nargs="+", required=True, help="names or folders")
    parser.add_argument("--windows", nargs="*", type=int, default=[], help="lengths of windows, instead of sequences")
    parser.add_argument("--alone", action="store_true", help="also each model's classifier without its others")
    arguments = parser.parse_args()
    sources = []
    for virus, files in ((True, arguments.virus), (False, arguments.other)):
        for text in files:
            name, _, path = text.rpartition("=")
            sources.append(Source(name or Path(path).name.split(".")[0], path, virus))
    print(conditions() + "\n")
    with tempfile.TemporaryDirectory() as work:
        for number, (model, length) in enumerate(product(arguments.model, arguments.windows or [0])):
            judged = sources
            if length:
                judged = [windows(each, length, Path(work, f"{number}-{i}.fa")) for i, each in enumerate(sources)]
            ways: dict[str, list[str]] = {model: []}
            if arguments.alone:
                copy = Path(work, f"{number}.safetensors")
                shutil.copyfile(find_model(model, offline=True).classifier, copy)
                ways[f"{model}, its classifier alone"] = ["--classifier", str(copy)]
            for way, (name, options) in enumerate(ways.items()):
                runs = [Path(work, f"{number}-{way}-{i}") for i in range(len(judged))]
                found = [scores(each, model, run, options) for each, run in zip(judged, runs, strict=True)]
                title = f"{name}, windows of {length} bases" if length else name
                print("\n".join(table(title, sources, found)), flush=True)


if __name__ == "__main__":
    main()
