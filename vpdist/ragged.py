"""Sequences of different lengths, stored end to end in one array: bases of chunks, proteins, tokens, texts.

Numpy only. Only `take` and `strings` copy items: millions of short sequences cost two arrays, not millions of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np


@dataclass(frozen=True, slots=True)
class Ragged:
    """n sequences, one after the other."""

    flat: np.ndarray
    """(total,) the items of all sequences."""
    offsets: np.ndarray
    """(n + 1,) int64, from 0: where each sequence begins in `flat`, and where the last one ends."""

    @classmethod
    def from_lengths(cls, flat: np.ndarray, lengths: Sequence[int] | np.ndarray) -> Self:
        """The sequences of these lengths that fill `flat`."""
        return cls(flat, offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """One sequence, a view."""
        index = range(len(self))[index]
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64."""
        return np.diff(self.offsets)

    def between(self, first: int, end: int) -> Ragged:
        """The sequences first, ..., end - 1; a view of the items."""
        offsets = np.asarray(self.offsets[first : end + 1])
        return Ragged(np.asarray(self.flat[offsets[0] : offsets[-1]]), offsets - offsets[0])

    def take(self, positions: np.ndarray) -> Ragged:
        """The sequences at `positions` (integers from 0, in any order, also repeated)."""
        starts = self.offsets[positions]
        lengths = self.offsets[positions + 1] - starts
        offsets = offsets_of(lengths)
        index = np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], lengths)
        return Ragged(self.flat[index], offsets)

    def strings(self) -> Iterator[bytes]:
        """The bytes of each sequence; for items of one byte."""
        content = self.flat.tobytes()
        return (content[start:end] for start, end in pairwise(self.offsets.tolist()))

    def is_sound(self, *, n: int | None = None, least: int = 0) -> bool:
        """Whether arrays read from a file are n sequences (any number where it is None) of at least `least` items."""
        offsets = self.offsets
        return (
            self.flat.ndim == 1
            and offsets.dtype == np.int64
            and offsets.ndim == 1
            and len(offsets) > 0
            and n in (None, len(self))
            and int(offsets[0]) == 0
            and int(offsets[-1]) == len(self.flat)
            and bool((offsets[1:] >= offsets[:-1] + least).all())
        )


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """The offsets (n + 1,) int64 of n sequences of these lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
