"""How long the chunk of a row is, from the length of its nucleotide string.

A row's fragments have the same nucleotide string. That of an open frame is at most two bases shorter than its chunk
(and shorter still where letters other than A, C, G, T give no residues): so much is added before lengths are compared.
"""

from __future__ import annotations

import numpy as np

SHIFT = 2
"""Bases by which a frame's string may be shorter than its chunk."""


def class_of_bases(begins: np.ndarray, bases: np.ndarray) -> np.ndarray:
    """(m,) index of the class of each row: the last one of `begins` (c,), ascending, that its chunk reaches, the first
    one for shorter rows. `bases`: (m,) of the rows' nucleotide strings."""
    return np.maximum(np.searchsorted(begins, np.asarray(bases) + SHIFT, side="right") - 1, 0)
