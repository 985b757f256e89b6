"""What makes a chunk or a sequence doubtful, as bits; tables have them in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NA = "NA"
NO_FLAG = "none"


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags of all chunks and records of a run, in input order."""

    words: Sequence[str]
    """By bit, the lowest one first."""
    chunks: np.ndarray
    """(c,) uint32."""
    records: np.ndarray
    """(r,) uint32: what its row has."""


def flag_cells(words: Sequence[str] | None, masks: np.ndarray) -> list[str]:
    """The cell of each mask: its words separated by commas, `none` without any; NA where flags were not looked for
    (`words` is None)."""
    if words is None:
        return [NA] * len(masks)
    different, of = np.unique(masks, return_inverse=True)
    texts = [
        ",".join(word for bit, word in enumerate(words) if mask >> bit & 1) or NO_FLAG for mask in different.tolist()
    ]
    return [texts[i] for i in of.tolist()]
