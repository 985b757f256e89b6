"""How much of a chunk is no plain sequence: letters other than A, C, G, T, and stretches of low complexity.

Low complexity is measured as DUST does (Morgulis et al. 2006, J. Comput. Biol. 13:1028): of a window of 64 bases with
l triplets, of which c_t are the triplet t, the score is sum c_t (c_t - 1) / 2 / (l - 1). Dustmasker's default masks
what scores more than 2 (its level 20, which is ten times the score). DUST looks at windows from every base on; here a
window stands for 128 bases, and a chunk's windows are spread evenly over it: all that is asked is whether most of a
chunk is of low complexity.
"""

from __future__ import annotations

import numpy as np

from vpdist.ragged import Ragged, offsets_of

WINDOW, PER_WINDOW = 64, 128
"""Bases of a window, as in DUST, and bases that it stands for."""
LEVEL = 2.0
"""Scores above this are of low complexity."""
TRIPLETS, STRIDE = 64, 65
"""Different ones, and counts of a window: the last is of those with another letter, or none."""
_SLAB_WINDOWS = 1 << 11
"""Windows are counted in slabs of this many, so that the working arrays stay in the processor's cache."""
_A, _C, _G, _T = b"ACGT"


def other_bases(bases: Ragged) -> np.ndarray:
    """(c,) int32: letters of each chunk (upper-case ASCII) that are not A, C, G or T."""
    other = np.flatnonzero(_are_other(bases.flat))
    return np.diff(np.searchsorted(other, bases.offsets)).astype(np.int32)


def _are_other(letters: np.ndarray) -> np.ndarray:
    return ~((letters == _A) | (letters == _C) | (letters == _G) | (letters == _T))


def low_complexity_bases(bases: Ragged) -> np.ndarray:
    """(c,) int32: the share of each chunk's windows (upper-case ASCII) that are of low complexity, in bases of it."""
    lengths = bases.lengths
    n_windows = -(-lengths // PER_WINDOW)
    chunk = np.repeat(np.arange(len(lengths)), n_windows)
    number = np.arange(len(chunk)) - offsets_of(n_windows)[chunk]
    room, gaps = np.maximum(0, lengths - WINDOW)[chunk], np.maximum(1, n_windows - 1)[chunk]
    start = np.where(n_windows[chunk] > 1, number * room // gaps, room // 2) + bases.offsets[chunk]
    low = np.zeros(len(chunk), bool)
    for first in range(0, len(chunk), _SLAB_WINDOWS):
        which = slice(first, first + _SLAB_WINDOWS)
        low[which] = _are_low(bases.flat, start[which], bases.offsets[1:][chunk[which]])
    n_low = np.bincount(chunk[low], minlength=len(lengths))
    return (n_low * lengths // np.maximum(1, n_windows)).astype(np.int32)


def _are_low(flat: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(w,) bool: whether windows that begin at `start`, of chunks that end at `end`, are of low complexity."""
    position_WB = start[:, None] + np.arange(WINDOW)
    outside = position_WB >= end[:, None] if (end - start < WINDOW).any() else None
    letters_WB = flat[position_WB if outside is None else np.minimum(position_WB, len(flat) - 1)]
    digit_WB = letters_WB >> 1 & 3  # two bits in which A, C, G and T differ
    triplet_WT = (digit_WB[:, :-2] << 4) | (digit_WB[:, 1:-1] << 2) | digit_WB[:, 2:]
    other_WB = _are_other(letters_WB)
    if outside is not None:
        other_WB = other_WB | outside
    if other_WB.any():
        triplet_WT[other_WB[:, :-2] | other_WB[:, 1:-1] | other_WB[:, 2:]] = TRIPLETS
    cell_WT = triplet_WT + np.arange(0, len(start) * STRIDE, STRIDE)[:, None]
    count = np.bincount(cell_WT.ravel(), minlength=len(start) * STRIDE).reshape(-1, STRIDE)[:, :TRIPLETS]
    n_triplets = count.sum(axis=1)
    pairs = (np.einsum("ij,ij->i", count, count) - n_triplets) / 2
    return np.asarray(pairs > LEVEL * np.maximum(1, n_triplets - 1))
