"""Synthetic contigs with open frames, for tests that run the program."""

import zlib
from pathlib import Path

import numpy as np

BASES = "TCAG"
STOPS = {"TAA", "TAG", "TGA"}
CODONS = [codon for a in BASES for b in BASES for c in BASES if (codon := a + b + c) not in STOPS]


def coding_sequence(rng: np.random.Generator, n_bases: int) -> str:
    """Random codons without stops: at least one open frame in every chunk that begins with a codon."""
    return "".join(rng.choice(CODONS, n_bases // 3 + 1))[:n_bases]


def write_contigs(path: Path, n: int = 40, seed: int = 0, longest: int = 1500) -> Path:
    """A FASTA file of n contigs, one in ten of them without any open frame, two with the same name and sequence."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(n):
        bases = coding_sequence(rng, int(rng.integers(100, longest)))
        if number % 10 == 9:
            bases = "TTAATTAATTAG" * 20
        records.append(f">contig{number} number {number}\n{bases}\n")
    records.append(records[0])
    path.write_text("".join(records))
    return path


def bgzip_block(content: bytes) -> bytes:
    """One block as bgzip writes it: a gzip member with its size in an extra field. That of b"" is the end marker."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = packer.compress(content) + packer.flush()
    size = (len(packed) + 25).to_bytes(2, "little")
    header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + size
    return header + packed + zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
