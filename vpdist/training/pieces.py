"""Pieces of the calibration side's sequences, of several lengths: what scores are calibrated on.

Enters: the side, group and source of each labelled sequence. Leaves: a bounded number of pieces per length and label,
evenly by source, from as many groups as there are, none of which overlap at the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpdist.sequences.records import read_records
from vpdist.training.sides import CALIBRATION, Sides

PIECE_BASES = (150, 300, 500, 1000, 3000, 10_000, 30_000)
"""Where the length classes begin, and once more: half of a long piece's chunks may have no open frame, and its class is
that of the scored bases."""
MOST_PIECES = 5000
"""Of one length and label."""
MOST_BASES = 8_000_000
"""Of all pieces of one length and label."""
MOST_OF_GROUP = 8
"""Pieces of one length from one group: relatives add little."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """n pieces, by record and start."""

    record: np.ndarray
    """(n,) int64, number of the record."""
    start: np.ndarray
    """(n,) int64, 0-based."""
    bases: np.ndarray
    """(n,) int64, length."""

    def __len__(self) -> int:
        return len(self.record)


def choose_pieces(sides: Sides, lengths: np.ndarray, virus: np.ndarray, seed: int) -> Pieces:
    """Pieces of the calibration side. `lengths` and `virus` (r,): bases and label of each record."""
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, int, int]] = []
    for bases in PIECE_BASES:
        most = min(MOST_PIECES, MOST_BASES // bases)
        for label in (True, False):
            mine = (sides.side == CALIBRATION) & (virus == label) & (lengths >= bases)
            windows = [
                _windows(np.flatnonzero(mine & (sides.source == source)), sides.group, lengths, bases, rng)
                for source in np.unique(sides.source[mine]).tolist()
            ]
            for of_source, n in zip(windows, _evenly([len(each) for each in windows], most), strict=True):
                chosen += [(record, start, bases) for record, start in of_source[:n]]
    table = np.array(sorted(chosen), np.int64).reshape(-1, 3)
    return Pieces(table[:, 0], table[:, 1], table[:, 2])


def _windows(
    records: np.ndarray, group: np.ndarray, lengths: np.ndarray, bases: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Record and start of disjoint windows, one of each group, then a second one of each group, and so on."""
    of_group: dict[int, list[tuple[int, int]]] = {}
    for record in records[rng.permutation(len(records))].tolist():
        kept = of_group.setdefault(int(group[record]), [])
        n, rest = divmod(int(lengths[record]), bases)
        first = int(rng.integers(0, rest + 1))
        places = rng.permutation(n)[: MOST_OF_GROUP - len(kept)].tolist()
        kept += [(record, first + place * bases) for place in places]
    groups = [of_group[root] for root in sorted(of_group)]
    order = rng.permutation(len(groups)).tolist()
    return [groups[i][turn] for turn in range(MOST_OF_GROUP) for i in order if turn < len(groups[i])]


def _evenly(available: Sequence[int], most: int) -> list[int]:
    """How many each source gives, so that the smallest give all and the others the same."""
    given = [0] * len(available)
    left = most
    for turn, i in enumerate(sorted(range(len(available)), key=lambda i: available[i])):
        given[i] = min(available[i], left // (len(available) - turn))
        left -= given[i]
    return given


def fasta(
    pieces: Pieces, paths: Sequence[Path], raise_if_ending: Callable[[], None], *, replace_unknown: bool
) -> Iterator[bytes]:
    """The pieces as FASTA records, in their order, from the labelled files. Raises InputError."""
    at = 0
    for number, record in enumerate(read_records(paths, replace_unknown=replace_unknown)):
        raise_if_ending()
        while at < len(pieces) and pieces.record[at] == number:
            start, end = int(pieces.start[at]), int(pieces.start[at] + pieces.bases[at])
            yield b">piece%d\n%b\n" % (at + 1, record.sequence[start:end])
            at += 1
