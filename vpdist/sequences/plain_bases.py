"""How much of a chunk is no plain sequence: letters other than A, C, G, T, and stretches of low complexity.

Low complexity is measured as DUST does (Morgulis et al. 2006, J. Comput. Biol. 13:1028): of a window of 64 bases with
l triplets, of which c_t are the triplet t, the score is sum c_t (c_t - 1) / 2 / (l - 1). Dustmasker's default masks
what scores more than 2 (its level 20, which is ten times the score). Here windows lie end to end instead of beginning
at every base; the last one of a chunk has up to 127 bases.
"""

from __future__ import annotations

import numpy as np

from vpdist.ragged import Ragged, offsets_of

WINDOW = 64
"""Bases of a window, as in DUST."""
LEVEL = 2.0
"""Scores above this are of low complexity."""
TRIPLETS = 64
_SLAB_BASES = 1 << 18
"""Chunks are looked at in slabs of about this many bases, so that the working arrays stay in the processor's cache."""
_OTHER = 64
"""Digit of every letter but A, C, G, T: no triplet with it is below TRIPLETS."""
_DIGITS = np.full(256, _OTHER, np.int16)
_DIGITS[np.frombuffer(b"ACGT", np.uint8)] = range(4)


def other_bases(bases: Ragged) -> np.ndarray:
    """(c,) int32: letters of each chunk (upper-case ASCII) that are not A, C, G or T."""
    other = np.flatnonzero(_DIGITS[bases.flat] == _OTHER)
    return np.diff(np.searchsorted(other, bases.offsets)).astype(np.int32)


def low_complexity_bases(bases: Ragged) -> np.ndarray:
    """(c,) int32: bases of each chunk (upper-case ASCII) in windows of low complexity."""
    found = np.zeros(len(bases), np.int32)
    longest = int(bases.lengths.max(initial=1))
    slab = max(1, _SLAB_BASES // max(1, longest))
    for first in range(0, len(bases), slab):
        part = bases.between(first, min(first + slab, len(bases)))
        found[first : first + len(part)] = _of_slab(part)
    return found


def _of_slab(bases: Ragged) -> np.ndarray:
    lengths = bases.lengths
    n_windows = np.maximum(1, lengths // WINDOW)
    first_window = offsets_of(n_windows)
    sizes = np.full(first_window[-1], WINDOW, np.int64)
    sizes[first_window[1:] - 1] += lengths - WINDOW * n_windows
    begins = offsets_of(sizes)
    digits = _DIGITS[bases.flat]
    triplet = np.full(len(digits), TRIPLETS, np.int16)
    triplet[:-2] = (digits[:-2] << 4) + (digits[1:-1] << 2) + digits[2:]
    for back in (1, 2):  # triplets that lead into the next chunk
        ends = bases.offsets[1:] - back
        triplet[ends[ends >= 0]] = TRIPLETS
    np.minimum(triplet, TRIPLETS, out=triplet)
    cell = np.repeat(np.arange(len(sizes), dtype=np.int64) * (TRIPLETS + 1), sizes)
    cell += triplet
    count = np.bincount(cell, minlength=len(sizes) * (TRIPLETS + 1)).reshape(-1, TRIPLETS + 1)[:, :TRIPLETS]
    n_triplets = count.sum(axis=1)
    pairs = (np.einsum("ij,ij->i", count, count) - n_triplets) / 2
    low = pairs > LEVEL * np.maximum(1, n_triplets - 1)
    return np.add.reduceat(np.where(low, np.diff(begins), 0), first_window[:-1]).astype(np.int32)
