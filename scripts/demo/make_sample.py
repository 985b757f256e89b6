"""`python -m scripts.demo.make_sample demo/sample`: make a synthetic sample of two kinds of organisms, and the truth.

The organisms are invented. Each has genes on both strands, written with its own codon usage, and spacers between them;
organisms of a kind differ from one another less than from those of the other kind. Training and sample come from
different organisms. Leaves virus.fa and other.fa (labelled), sample.fa.gz (mixed contigs and reads) and truth.tsv.
The same seed gives the same bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

KINDS = ("virus", "other")
SENSE_CODONS = np.array(
    [codon for codon in map("".join, product("TCAG", repeat=3)) if codon not in ("TAA", "TAG", "TGA")]
)
STOP_CODONS = np.array(["TAA", "TAG", "TGA"])
COMPLEMENT = str.maketrans("ACGT", "TGCA")

KIND_SPREAD = 0.26
"""Between the kinds' codon usages: standard deviation of log frequency."""
ORGANISM_SPREAD = 0.30
"""Between organisms of one kind, likewise."""
GENE_CODONS = 260
"""Median gene length; lengths are log-normal with sigma 0.6."""
GENOME_BASES = 40_000
READ_BASES = 250
READ_ERRORS = 0.003
"""Share of a read's bases that are substituted."""
TRAINING_ORGANISMS, SAMPLE_ORGANISMS = 12, 8


@dataclass(frozen=True, slots=True)
class Organism:
    """A genome of one kind."""

    kind: str
    name: str
    genome: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a genome: 1-based inclusive positions on the forward strand, read from `strand`."""

    name: str
    organism: Organism
    start: int
    end: int
    strand: str
    sequence: str


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def reverse_complement(sequence: str) -> str:
    return sequence.translate(COMPLEMENT)[::-1]


def grow_genome(rng: np.random.Generator, codon_usage: np.ndarray, spacer_bases: np.ndarray) -> str:
    """Genes in random orientation between spacers, until GENOME_BASES are reached."""
    parts: list[str] = []
    length = 0
    while length < GENOME_BASES:
        codons = rng.choice(SENSE_CODONS, size=max(30, int(rng.lognormal(np.log(GENE_CODONS), 0.6))), p=codon_usage)
        gene = "ATG" + "".join(codons) + str(rng.choice(STOP_CODONS))
        spacer = "".join(rng.choice(list("ACGT"), size=rng.geometric(1 / 80), p=spacer_bases))
        parts += [spacer, gene if rng.random() < 0.5 else reverse_complement(gene)]
        length += len(spacer) + len(gene)
    return "".join(parts)


def grow_organisms(rng: np.random.Generator, per_kind: int) -> list[Organism]:
    """`per_kind` organisms of each kind; the kinds themselves are drawn first and shared by all."""
    codons = len(SENSE_CODONS)
    common = rng.normal(0, 0.5, codons)
    organisms = []
    for kind in KINDS:
        kind_usage = common + rng.normal(0, KIND_SPREAD, codons)
        for number in range(1, per_kind + 1):
            codon_usage = softmax(kind_usage + rng.normal(0, ORGANISM_SPREAD, codons))
            spacer_bases = softmax(rng.normal(0, 0.2, 4))
            organisms.append(Organism(kind, f"{kind}_{number:02d}", grow_genome(rng, codon_usage, spacer_bases)))
    return organisms


def cut(rng: np.random.Generator, organism: Organism, name: str, length: int) -> Piece:
    """A random stretch of `length` bases (the whole genome if it is shorter), from a random strand."""
    length = min(length, len(organism.genome))
    start = int(rng.integers(0, len(organism.genome) - length + 1))
    sequence = organism.genome[start : start + length]
    strand = "+" if rng.random() < 0.5 else "-"
    return Piece(
        name, organism, start + 1, start + length, strand, sequence if strand == "+" else reverse_complement(sequence)
    )


def with_read_errors(rng: np.random.Generator, sequence: str) -> str:
    """`sequence` with random substitutions."""
    bases = np.array(list(sequence))
    wrong = rng.random(len(bases)) < READ_ERRORS
    bases[wrong] = rng.choice(list("ACGT"), size=int(wrong.sum()))
    return "".join(bases)


def contig_lengths(rng: np.random.Generator, count: int) -> np.ndarray:
    """Log-normal: median 1,500 bases, sigma 0.9, from 200 to 20,000."""
    return rng.lognormal(np.log(1500), 0.9, count).astype(int).clip(200, 20_000)


def cut_contigs(rng: np.random.Generator, organisms: list[Organism], count: int, prefix: str) -> Iterator[Piece]:
    chosen = rng.integers(0, len(organisms), count)
    for number, (index, length) in enumerate(zip(chosen, contig_lengths(rng, count), strict=True), start=1):
        yield cut(rng, organisms[index], f"{prefix}_{number:05d}", int(length))


def cut_reads(rng: np.random.Generator, organisms: list[Organism], count: int) -> Iterator[Piece]:
    for number, index in enumerate(rng.integers(0, len(organisms), count), start=1):
        piece = cut(rng, organisms[index], f"read_{number:06d}", READ_BASES)
        yield Piece(
            piece.name, *(piece.organism, piece.start, piece.end, piece.strand), with_read_errors(rng, piece.sequence)
        )


def fasta(pieces: list[Piece]) -> str:
    return "".join(f">{piece.name} synthetic\n{piece.sequence}\n" for piece in pieces)


def truth_table(pieces: list[Piece]) -> str:
    rows = ["seq_name\ttruth\torganism\tstart\tend\tstrand"]
    for piece in pieces:
        truth = "virus" if piece.organism.kind == "virus" else "non-virus"
        rows.append(f"{piece.name}\t{truth}\t{piece.organism.name}\t{piece.start}\t{piece.end}\t{piece.strand}")
    return "\n".join(rows) + "\n"


def main(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 2026,
    training: Annotated[int, typer.Option(help="Labelled contigs of each kind.")] = 500,
    contigs: Annotated[int, typer.Option(help="Contigs in the mixed sample.")] = 1000,
    reads: Annotated[int, typer.Option(help="Reads in the mixed sample.")] = 2500,
) -> None:
    """Make a synthetic sample of two kinds of organisms, and a table of the truth."""
    rng = np.random.default_rng(seed)
    organisms = grow_organisms(rng, TRAINING_ORGANISMS + SAMPLE_ORGANISMS)
    folder.mkdir(parents=True, exist_ok=True)
    known, unseen = [], []
    for kind in KINDS:
        of_kind = [organism for organism in organisms if organism.kind == kind]
        known.append(of_kind[:TRAINING_ORGANISMS])
        unseen += of_kind[TRAINING_ORGANISMS:]
    for kind, of_kind in zip(KINDS, known, strict=True):
        (folder / f"{kind}.fa").write_text(fasta(list(cut_contigs(rng, of_kind, training, kind))))

    sample = [*cut_contigs(rng, unseen, contigs, "contig"), *cut_reads(rng, unseen, reads)]
    (folder / "sample.fa.gz").write_bytes(gzip.compress(fasta(sample).encode(), mtime=0))
    (folder / "truth.tsv").write_text(truth_table(sample))
    bases = sum(len(piece.sequence) for piece in sample)
    print(
        f"{folder}: {2 * training} labelled contigs; {contigs} contigs and {reads} reads ({bases:,} bases) to predict"
    )


if __name__ == "__main__":
    typer.run(main)
