"""Large inputs for benchmarks: contigs cut from synthetic genomes, random reads, the keys of fragments, a token store.

The genomes are those of `make_sample.py`, with genes on both strands, so chunks have about as many open frames as those
of real contigs. The same arguments give the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from scripts.demo.make_sample import contig_lengths, grow_organisms
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.ragged import offsets_of
from vpdist.sequences import token_store
from vpdist.sequences.six_frames import chunk_bounds
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage import hdf5_files
from vpdist.storage.atomic_files import write_json
from vpdist.storage.run_folder import RunFolder

CHUNK_LENGTH = 500
LINE = 80
CHANGED = 0.005
"""Share of a contig's bases that differ from the genome it is cut from, so that few fragments are equal."""
CONTIGS_AT_ONCE = 2000


def fragment_keys(n: int, rng: np.random.Generator) -> FragmentKeys:
    """Random keys of n fragments of 500-base chunks, nine in ten of 166 residues as on real contigs."""
    residues = np.where(rng.random(n) < 0.9, 166, rng.integers(30, 167, n)).astype(np.int32)
    return FragmentKeys(
        residues=residues,
        tokens={
            "nucleotide": (rng.normal(105, 6, n) * residues / 166).astype(np.int32) + 2,
            "protein": residues + np.int32(2),
        },
        nucleotide_hash=rng.integers(0, 2**63, n, dtype=np.uint64),
        protein_hash=rng.integers(0, 2**63, n, dtype=np.uint64),
    )


def write_store(run: RunFolder, n_fragments: int, n_blocks: int) -> StoreSummary:
    """A token store with those datasets that a plan needs."""
    rng = np.random.default_rng(1)
    n = n_fragments // n_blocks
    for index in range(n_blocks):
        keys = fragment_keys(n, rng)
        datasets: dict[str, np.ndarray] = {
            "fragment_residues": keys.residues,
            "nucleotide_hash": keys.nucleotide_hash,
            "protein_hash": keys.protein_hash,
        }
        datasets |= {f"{kind}_token_offsets": offsets_of(tokens) for kind, tokens in keys.tokens.items()}
        hdf5_files.write_atomic(token_store.block_path(run.tokens, index), datasets, {})
    summary = StoreSummary(
        basis="benchmark",
        digest="",
        n_records=0,
        n_chunks=0,
        n_bases=0,
        fragments_per_block=(n,) * n_blocks,
        n_renamed=0,
        example_renamed="",
    )
    write_json(run.store, asdict(summary))
    return summary


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
    changed = rng.integers(0, length, int(CHANGED * length))
    bases[changed] = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, len(changed))]
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
