"""How much of a chunk is no plain sequence: letters other than A, C, G, T, and stretches of low complexity.

Low complexity is measured as DUST does (Morgulis et al. 2006, J. Comput. Biol. 13:1028): of a window of 64 bases with
l triplets, of which c_t are the triplet t, the score is sum c_t (c_t - 1) / 2 / (l - 1). Dustmasker's default masks
what scores more than 2 (its level 20, which is ten times the score). DUST looks at windows from every base on; here a
window is the middle of up to 256 bases, as all that is asked is whether most of a chunk is of low complexity. That
takes 2 % of the time to read and tokenise sequences for the published encoders (`python -m scripts.bench.plain_bases`).
"""

from __future__ import annotations

import numpy as np

from vpdist.ragged import Ragged, offsets_of

WINDOW, PER_WINDOW = 64, 256
"""Bases of a window, as in DUST, and bases that it stands for."""
LEVEL = 2.0
"""Scores above this are of low complexity."""
TRIPLETS, STRIDE = 64, 65
"""Different ones, and counts of a window: the last is of those with another letter, or none."""
_SLAB_WINDOWS, _SLAB_BASES = 1 << 9, 1 << 17
"""So many are looked at together that the working arrays stay in the processor's cache; with twice as many
windows, new pages of memory take more time than all else."""
_A, _C, _G, _T = b"ACGT"


def other_bases(bases: Ragged) -> np.ndarray:
    """(c,) int32: letters of each chunk (upper-case ASCII) that are not A, C, G or T."""
    slabs = range(0, len(bases.flat), _SLAB_BASES)
    found = [np.flatnonzero(_are_other(bases.flat[first : first + _SLAB_BASES])) + first for first in slabs]
    other = np.concatenate([np.zeros(0, np.int64), *found])
    return np.diff(np.searchsorted(other, bases.offsets)).astype(np.int32)


def _are_other(letters: np.ndarray) -> np.ndarray:
    return ~((letters == _A) | (letters == _C) | (letters == _G) | (letters == _T))


def low_complexity_bases(bases: Ragged) -> np.ndarray:
    """(c,) int32: the share of each chunk's windows (upper-case ASCII) that are of low complexity, in bases of it."""
    lengths = bases.lengths
    n_windows = -(-lengths // PER_WINDOW)
    chunk = np.repeat(np.arange(len(lengths)), n_windows)
    number = np.arange(len(chunk)) - offsets_of(n_windows)[chunk]
    middle = (2 * number + 1) * lengths[chunk] // (2 * n_windows[chunk])
    start = np.maximum(0, middle - WINDOW // 2) + bases.offsets[chunk]
    low = np.zeros(len(chunk), bool)
    for first in range(0, len(chunk), _SLAB_WINDOWS):
        which = slice(first, first + _SLAB_WINDOWS)
        low[which] = _are_low(bases.flat, start[which], bases.offsets[1:][chunk[which]])
    n_low = np.bincount(chunk[low], minlength=len(lengths))
    return (n_low * lengths // np.maximum(1, n_windows)).astype(np.int32)


def _are_low(flat: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(w,) bool: whether windows that begin at `start`, of chunks that end at `end`, are of low complexity."""
    if (end - start >= WINDOW).all():
        rows = np.ndarray(len(flat) - WINDOW + 1, f"V{WINDOW}", np.ascontiguousarray(flat), strides=(1,))
        letters_WB = rows[start].view(np.uint8).reshape(-1, WINDOW)  # a copy of 64 bytes each
        other_WB = _are_other(letters_WB)
    else:
        position_WB = start[:, None] + np.arange(WINDOW)
        letters_WB = flat[np.minimum(position_WB, len(flat) - 1)]
        other_WB = _are_other(letters_WB) | (position_WB >= end[:, None])
    digits = letters_WB.ravel() >> 1 & 3  # two bits in which A, C, G and T differ
    triplet = np.full(len(digits), TRIPLETS, np.uint8)
    triplet[:-2] = digits[:-2] << 4 | digits[1:-1] << 2 | digits[2:]
    triplet_WB = triplet.reshape(-1, WINDOW)
    triplet_WB[:, -2:] = TRIPLETS  # these lead into the next window
    if other_WB.any():
        triplet_WB[:, :-2][other_WB[:, :-2] | other_WB[:, 1:-1] | other_WB[:, 2:]] = TRIPLETS
    cell_WB = triplet_WB + np.arange(0, len(start) * STRIDE, STRIDE)[:, None]
    count_WS = np.bincount(cell_WB.ravel(), minlength=len(start) * STRIDE).reshape(-1, STRIDE)
    count_WT = count_WS[:, :TRIPLETS].astype(np.float32)
    n_triplets = WINDOW - count_WS[:, TRIPLETS]
    pairs = (np.einsum("ij,ij->i", count_WT, count_WT) - n_triplets) / 2
    return np.asarray(pairs > LEVEL * np.maximum(1, n_triplets - 1))
