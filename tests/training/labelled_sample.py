"""Labelled sequences for tests that run `vpdist train`: viruses and others differ in the codons that they use."""

import sys
from pathlib import Path

import numpy as np

from tests.sample import CODONS
from tests.tiny_models import TinyModels

OPTIONS = [
    *("--threads", "1", "--dtype", "float32", "--optimizer", "adamw", "--learning-rate", "0.005", "--hidden", "32"),
    *("--batch-size", "128", "--epochs", "6", "--patience", "6", "--bootstraps", "50"),
]
"""Batches of two slices, so that two ranks share one."""


def write_labelled(folder: Path, n: int = 40, seed: int = 5) -> tuple[Path, Path]:
    """virus.fa and other.fa with n contigs of about 1,200 bases each, two per accession."""
    rng = np.random.default_rng(seed)
    paths = folder / "virus.fa", folder / "other.fa"
    for path, letters, first in zip(paths, ("GC", "AT"), ("NC_9", "NC_8"), strict=True):
        weight = np.array([1.0 + 2 * sum(letter in letters for letter in codon) for codon in CODONS])
        records = []
        for number in range(n):
            codons = rng.choice(CODONS, int(rng.integers(200, 600)), p=weight / weight.sum())
            records.append(f">{first}{number // 2:05d}.1:{number}-{number + 9} part\n{''.join(codons)}\n")
        path.write_text("".join(records))
    return paths


def arguments(models: TinyModels, files: tuple[Path, Path], output: Path, *options: str) -> list[str]:
    """Arguments of Python."""
    return [
        *("-m", "vpdist", "train", "--virus", str(files[0]), "--other", f"host={files[1]}", "-o", str(output)),
        *("--nucleotide-model", str(models.nucleotide), "--protein-model", str(models.protein)),
        *(*OPTIONS, *options),
    ]


def command(models: TinyModels, files: tuple[Path, Path], output: Path, *options: str) -> list[str]:
    return [sys.executable, *arguments(models, files, output, *options)]
