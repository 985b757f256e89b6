"""Sequences scored by `vpdist predict`, as what the calibration takes: read from the tables of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.mini.judge import rows_of
from scripts.trust.mixtures import Pool
from vpdist.calibration.judgement import Evidence

NA = "NA"
COLUMNS = ("virus_score", "nonvirus_score")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sequence, the group that it is of, and its source and label."""

    sequence: str
    group: str
    source: str
    virus: bool


def scored(labelled: Sequence[Labelled], model: str, work: Path, name: str) -> Pool:
    """The scores of sequences under a model. Raises ChildProcessError."""
    fasta, run = work / f"{name}.fa", work / name
    with fasta.open("w", encoding="ascii") as file:
        file.writelines(f">{number}\n{each.sequence}\n" for number, each in enumerate(labelled))
    command = [sys.executable, "-m", "vpdist", "predict", str(fasta), "-o", str(run), "--model", model, "--restart"]
    command += ["--no-embeddings", "--replace-unknown", "--progress", "none", "--allow-short"]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode:
        raise ChildProcessError(f"vpdist predict ended with {ended.returncode}: {ended.stderr}")
    bases = np.zeros(len(labelled), np.int64)
    for row in rows_of(run / "chunks.tsv"):
        if row["virus_score"] != NA:
            bases[int(row["seq_name"])] += int(row["end"]) - int(row["start"]) + 1
    scores = np.array([[_number(row[column]) for column in COLUMNS] for row in rows_of(run / "sequences.tsv")])
    length = np.array([len(each.sequence) for each in labelled], np.int64)
    evidence = Evidence(scores[:, 0], scores[:, 1], np.minimum(bases, length))
    genome = np.unique([f"{each.source}\t{each.group}" for each in labelled], return_inverse=True)[1]
    virus = np.array([each.virus for each in labelled])
    return Pool(evidence, virus, genome, np.array([each.source for each in labelled]))


def _number(text: str) -> float:
    return float("nan") if text == NA else float(text)
