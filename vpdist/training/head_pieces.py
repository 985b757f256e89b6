"""Labelled sequences cut into pieces of one length, in a file that is embedded for a classifier of that length.

Where there are more pieces than such a fit needs, some are drawn: embedding all would cost as much for each length as
for the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vpdist.sequences.records import read_records
from vpdist.sequences.six_frames import chunk_bounds
from vpdist.storage.atomic_files import replacing
from vpdist.training.fragments import Fragments
from vpdist.training.labelled import Labelled

MOST_PIECES = 400_000
"""Of all sources and sides together. With half as many, drawn from twice as many, a classifier for 300 bases was no
better than the one for 500."""


@dataclass(frozen=True, slots=True)
class HeadPieces:
    """n pieces of the labelled sequences, in their order."""

    record: np.ndarray
    """(n,) int64, the sequence of each."""
    start: np.ndarray
    """(n,) int64, its first base there, from 0."""
    end: np.ndarray
    """(n,) int64, exclusive."""

    def of_sequences(self, fragments: Fragments) -> Fragments:
        """Fragments of a run on the pieces, as fragments of the sequences that these are from."""
        start = self.start[fragments.record]
        return replace(
            fragments,
            record=self.record[fragments.record],
            start=fragments.start + start,
            end=fragments.end + start,
        )


def cut(lengths: np.ndarray, length: int, least: int, seed: int, most: int = MOST_PIECES) -> HeadPieces:
    """The pieces of sequences of these lengths: chunks of `length` bases, as `predict` makes them (the last one may be
    shorter, and so is all of a short sequence), from `least` bases on. Of more than `most`, that many are drawn."""
    long_enough = np.flatnonzero(lengths >= least)
    bounds = [chunk_bounds(bases, length) for bases in lengths[long_enough].tolist()]
    none = np.zeros(0, np.int64)
    record = np.repeat(long_enough, np.array([len(starts) for starts, _ in bounds], np.int64))
    start = np.concatenate([none, *(starts for starts, _ in bounds)])
    end = np.concatenate([none, *(ends for _, ends in bounds)])
    kept = end - start >= least
    record, start, end = record[kept], start[kept], end[kept]
    if len(record) > most:
        drawn = np.sort(np.random.default_rng([seed, length]).choice(len(record), most, replace=False))
        record, start, end = record[drawn], start[drawn], end[drawn]
    return HeadPieces(record, start, end)


def write_pieces(
    path: Path,
    labelled: Labelled,
    pieces: HeadPieces,
    raise_if_ending: Callable[[], None] = lambda: None,
    *,
    replace_unknown: bool = False,
) -> None:
    """Write them as FASTA, the same bytes for the same sequences. Raises InputError, StorageError."""
    ends = np.searchsorted(pieces.record, np.arange(int(pieces.record.max(initial=-1)) + 2)).tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        for number, record in enumerate(read_records(labelled.paths, replace_unknown=replace_unknown)):
            raise_if_ending()
            if number + 1 >= len(ends):
                break
            for text in _texts(pieces, record.sequence, range(ends[number], ends[number + 1])):
                file.write(text)


def _texts(pieces: HeadPieces, sequence: bytes, which: range) -> Iterator[bytes]:
    for piece in which:
        yield b">%d\n%s\n" % (piece, sequence[pieces.start[piece] : pieces.end[piece]])
