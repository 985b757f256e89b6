"""Large inputs for benchmarks, made quickly: contigs cut from synthetic genomes, a few bases changed, and random reads.

The genomes are those of `make_sample.py`: genes on both strands, so chunks have about as many open frames as those of
real contigs. The same arguments give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts.demo.make_sample import contig_lengths, grow_organisms
from vpdist.sequences.six_frames import chunk_bounds

CHUNK_LENGTH = 500
LINE = 80
CHANGED = 0.005
"""Share of a contig's bases that differ from the genome it is cut from, so that few fragments are equal."""
CONTIGS_AT_ONCE = 2000


def write_contigs(path: Path, n_chunks: int, seed: int = 2026) -> Path:
    """Contigs (median 1,500 bases, log-normal) of together `n_chunks` chunks of 500 bases, in lines of 80."""
    rng = np.random.default_rng(seed)
    genomes = "".join(organism.genome for organism in grow_organisms(rng, 20))
    ring = np.frombuffer((genomes + genomes[:20_000]).encode(), np.uint8)
    number = 0
    with open(path, "wb") as file:
        while n_chunks > 0:
            for length in contig_lengths(rng, CONTIGS_AT_ONCE).tolist():
                if n_chunks <= 0:
                    break
                length = min(length, n_chunks * CHUNK_LENGTH)
                n_chunks -= len(chunk_bounds(length, CHUNK_LENGTH)[0])
                number += 1
                file.write(b">contig_%d made up\n" % number)
                file.write(_lines(_changed(rng, ring, int(rng.integers(len(genomes))), length)))
    return path


def _changed(rng: np.random.Generator, ring: np.ndarray, start: int, length: int) -> bytes:
    bases = ring[start : start + length].copy()
    where = rng.integers(0, length, int(CHANGED * length))
    bases[where] = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, len(where))]
    return bases.tobytes()


def _lines(bases: bytes) -> bytes:
    return b"".join([bases[start : start + LINE] + b"\n" for start in range(0, len(bases), LINE)])


def write_reads(path: Path, n_reads: int, length: int = 150, seed: int = 2026) -> Path:
    """FASTQ reads of random bases, with names as sequencers give them."""
    rng = np.random.default_rng(seed)
    quality = b"+\n" + b"F" * length + b"\n"
    with open(path, "wb") as file:
        for first in range(0, n_reads, 10_000):
            bases = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (min(10_000, n_reads - first), length))]
            file.write(
                b"".join(
                    [
                        b"@machine:7:flowcell:%d 1:N:0\n%b\n%b" % (first + i, row.tobytes(), quality)
                        for i, row in enumerate(bases)
                    ]
                )
            )
    return path


def write_chromosome(path: Path, n_bases: int, seed: int = 2026) -> Path:
    """One record of random bases in lines of 80."""
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.write(b">chromosome\n")
        for first in range(0, n_bases, 800_000):
            n = min(800_000, n_bases - first)
            file.write(_lines(np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, n)].tobytes()))
    return path
