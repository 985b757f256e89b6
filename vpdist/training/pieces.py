"""Pieces of the labelled sequences, as they are embedded beside these: stretches of them, one each or several joined.

Which they are, `drawn_pieces` says; here is what they are made of, and their bases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vpdist.errors import InputError
from vpdist.sequences.records import read_records
from vpdist.training.fragments import Fragments

Span = tuple[int, int, int]
"""Record, start and end (0-based, exclusive)."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """n pieces of sequences, of s stretches in all."""

    record: np.ndarray
    """(s,) int64, the sequence of each stretch; ascending within a piece."""
    start: np.ndarray
    """(s,) int64, its first base there, from 0."""
    end: np.ndarray
    """(s,) int64, exclusive."""
    first: np.ndarray
    """(n,) int64, the first stretch of each piece: the only one, or of several where sequences were joined."""

    @classmethod
    def of(cls, spans: Sequence[Sequence[Span]]) -> Pieces:
        """The pieces that consist of these, at least one each."""
        record, start, end = np.array([span for piece in spans for span in piece], np.int64).reshape(-1, 3).T
        return cls(record, start, end, np.cumsum([0, *map(len, spans)], dtype=np.int64)[:-1])

    def __len__(self) -> int:
        return len(self.first)

    def __add__(self, others: Pieces) -> Pieces:
        """These pieces and then others."""
        pairs = ((self.record, others.record), (self.start, others.start), (self.end, others.end))
        joined = (np.concatenate(pair) for pair in (*pairs, (self.first, others.first + len(self.record))))
        return Pieces(*joined)

    @property
    def first_record(self) -> np.ndarray:
        """(n,) int64, the first sequence of each."""
        return self.record[self.first]

    @property
    def bases(self) -> np.ndarray:
        """(n,) int64, length."""
        return np.add.reduceat(self.end - self.start, self.first)

    def of_sequences(self, fragments: Fragments) -> Fragments:
        """Fragments of a run on pieces of one stretch each, as fragments of the sequences that these are from."""
        stretch = self.first[fragments.record]
        start = self.start[stretch]
        return replace(fragments, record=self.record[stretch], start=fragments.start + start, end=fragments.end + start)


def texts(
    pieces: Pieces,
    paths: Sequence[Path],
    raise_if_ending: Callable[[], None] = lambda: None,
    *,
    replace_unknown: bool = False,
) -> Iterator[bytes]:
    """The bases of each piece, in their order. The labelled files are read once, as far as is needed; what is in memory
    waits for an earlier piece, or for the rest of its own. Raises InputError."""
    stretches = np.diff(pieces.first, append=len(pieces.record))
    piece_of = np.repeat(np.arange(len(pieces)), stretches).tolist()
    order = np.argsort(pieces.record, kind="stable")
    ends = np.searchsorted(pieces.record[order], np.arange(int(pieces.record.max(initial=-1)) + 1), "right").tolist()
    waiting: dict[int, bytes] = {}
    missing, given = stretches.tolist(), 0
    for begin, end, read in zip([0, *ends], ends, read_records(paths, replace_unknown=replace_unknown), strict=False):
        raise_if_ending()
        for stretch in order[begin:end].tolist():
            piece = piece_of[stretch]
            waiting[piece] = waiting.get(piece, b"") + read.sequence[pieces.start[stretch] : pieces.end[stretch]]
            missing[piece] -= 1
        while given < len(missing) and not missing[given]:
            yield waiting.pop(given)
            given += 1
    if given < len(missing):
        raise InputError("has fewer sequences than when it was read before", path=str(paths[-1]))
