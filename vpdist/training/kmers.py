"""25-mers of both strands, and which records share one.

A 25-mer takes 50 bits, so it is compared itself, not a hash of it. Memory is bounded: the input is read once for every
PASS_KMERS bases of it, and each time only the 25-mers of one share of the hashes are kept and sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vpdist.sequences.records import read_records

K = 25
LONGEST_UNIT, REPEATED = 6, 14
"""A 25-mer joins no records if, moved by up to 6 bases, it equals itself at 14 places or more: poly-A and
microsatellites, also with a few bases before them, are in genomes that have nothing to do with each other, and would
join all of them. Of random 25-mers 0.1 % are left out."""
PASS_KMERS = 1 << 25
"""25-mers of a pass; sorting them takes about a gigabyte."""
BATCH_BASES = 1 << 18
"""So few that they stay in the cache: with 2**22 a 25-mer took seven times as long."""
_CODES = np.full(256, 4, np.uint8)
_CODES[list(b"ACGT")] = range(4)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio, odd: a product with it spreads neighbours (Knuth 1973, 6.4)."""


def canonical_kmers(bases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 25-mers of a sequence (n,) uint8 of upper-case letters: the smaller one of both strands (m,) uint64, and
    where each begins (m,). Left out are those with another letter than A, C, G, T, and repeats (LONGEST_UNIT)."""
    codes = _CODES[bases]
    if len(codes) < K:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    unknown = np.zeros(len(codes) + 1, np.int32)
    np.cumsum(codes == 4, out=unknown[1:])
    forward = _windows((codes & 3).astype(np.uint64), first_is_high=True)
    backward = _windows((3 - (codes & 3)).astype(np.uint64), first_is_high=False)
    kept = unknown[K:] == unknown[:-K]
    for unit in range(1, LONGEST_UNIT + 1):
        differ = forward ^ (forward >> np.uint64(2 * unit))
        places = np.uint64(0x5555555555555555 & ((1 << 2 * (K - unit)) - 1))
        kept &= np.bitwise_count((differ | (differ >> np.uint64(1))) & places) > K - unit - REPEATED
    positions = np.flatnonzero(kept)
    return np.minimum(forward, backward)[positions], positions


def _windows(codes: np.ndarray, *, first_is_high: bool) -> np.ndarray:
    """(n - K + 1,) uint64: the codes of every window of K, two bits each, the first one in the highest or lowest."""

    def join(left: np.ndarray, n_left: int, right: np.ndarray, n_right: int) -> np.ndarray:
        """Windows of n_left + n_right codes from those of n_left and those of n_right."""
        right = right[n_left:]
        left = left[: len(right)]
        if first_is_high:
            return (left << np.uint64(2 * n_right)) | right
        return left | (right << np.uint64(2 * n_left))

    of = {1: codes}
    for size in (1, 2, 4, 8):
        of[2 * size] = join(of[size], size, of[size], size)
    return join(join(of[16], 16, of[8], 8), 24, codes, 1)


def shared(
    paths: Sequence[Path],
    n_bases: int,
    raise_if_ending: Callable[[], None] = lambda: None,
    *,
    replace_unknown: bool = False,
    pass_kmers: int = PASS_KMERS,
) -> Iterator[np.ndarray]:
    """Pairs (m, 2) int64 of numbers of records that share a 25-mer; their connected components are those of all such
    pairs. `n_bases`: of all files. Raises InputError."""
    passes = max(1, -(-n_bases // pass_kmers))
    for number in range(passes):
        kmers: list[np.ndarray] = []
        records: list[np.ndarray] = []
        for bases, owner in _batches(paths, replace_unknown=replace_unknown):
            raise_if_ending()
            found, positions = canonical_kmers(bases)
            if passes > 1:
                mine = ((found * _SPREAD) >> np.uint64(32)) % np.uint64(passes) == number
                found, positions = found[mine], positions[mine]
            kmers.append(found)
            records.append(owner[positions])
        if kmers:
            yield _equal_neighbours(np.concatenate(kmers), np.concatenate(records))


def _batches(paths: Sequence[Path], *, replace_unknown: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sequences end to end, a letter between them, (n,) uint8, and the record of each base (n,) int32."""
    sequences: list[bytes] = []
    first = n_bases = number = 0
    for number, record in enumerate(read_records(paths, replace_unknown=replace_unknown), 1):
        sequences.append(record.sequence)
        n_bases += len(record.sequence)
        if n_bases >= BATCH_BASES:
            yield _joined(sequences, first)
            sequences, first, n_bases = [], number, 0
    if sequences:
        yield _joined(sequences, first)


def _joined(sequences: list[bytes], first: int) -> tuple[np.ndarray, np.ndarray]:
    bases = np.frombuffer(b"N".join([*sequences, b""]), np.uint8)
    lengths = [len(sequence) + 1 for sequence in sequences]
    return bases, np.repeat(np.arange(first, first + len(sequences), dtype=np.int32), lengths)


def _equal_neighbours(kmers: np.ndarray, records: np.ndarray) -> np.ndarray:
    """(m, 2) records that are neighbours among those with the same 25-mer."""
    order = np.argsort(kmers, kind="stable")
    kmers, records = kmers[order], records[order].astype(np.int64)
    left, right = records[:-1], records[1:]
    joined = (kmers[1:] == kmers[:-1]) & (left != right)
    pairs = np.unique((np.minimum(left, right)[joined] << 32) | np.maximum(left, right)[joined])
    return np.stack([pairs >> 32, pairs & 0xFFFFFFFF], axis=1)


def components(n: int, pairs: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """(n,) int64: of each item the smallest one that pairs (m, 2) connect it with; `start` has what earlier pairs gave.

    Every root is hung below the smallest neighbouring root, then paths are halved, until nothing changes (Shiloach
    and Vishkin 1982).
    """
    root = np.arange(n) if start is None else start.copy()
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    while len(pairs):
        ends = np.sort(root[pairs], axis=1)
        pairs = ends[ends[:, 0] != ends[:, 1]]
        np.minimum.at(root, pairs[:, 1], pairs[:, 0])
        while not np.array_equal(above := root[root], root):
            root = above
    return root
