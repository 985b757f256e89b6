"""Pieces of sequences, of several lengths: what scores are calibrated on, and judged on.

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


Span = tuple[int, int, int]
"""Record, start and end (0-based, exclusive)."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """n pieces of sequences; see `choose_pieces`."""

    spans: tuple[tuple[Span, ...], ...]
    """What each piece consists of, ascending: one stretch, or several where sequences were joined."""
    record: np.ndarray
    """(n,) int64, number of the first record of each."""
    bases: np.ndarray
    """(n,) int64, length."""

    def __len__(self) -> int:
        return len(self.spans)

    def __add__(self, others: Pieces) -> Pieces:
        """These pieces and then others."""
        record, bases = (np.concatenate(pair) for pair in ((self.record, others.record), (self.bases, others.bases)))
        return Pieces(self.spans + others.spans, record, bases)


def choose_pieces(
    sides: Sides,
    lengths: np.ndarray,
    virus: np.ndarray,
    seed: int,
    *,
    side: int = CALIBRATION,
    all_bases: Sequence[int] = PIECE_BASES,
    most: int | None = None,
) -> Pieces:
    """Pieces of a side's sequences. `lengths` and `virus` (r,): bases and label of each record; `most`: in place of
    MOST_PIECES.

    Sequences that are shorter than a piece are joined, in their order, with others of their group and source: where
    these are genes, a group has those of a genome, and a contig has one after the other, too.
    """
    rng = np.random.default_rng(seed)
    chosen: list[tuple[Span, ...]] = []
    for bases in all_bases:
        wanted = min(most or MOST_PIECES, MOST_BASES // bases)
        for label in (True, False):
            mine = (sides.side == side) & (virus == label)
            windows = [
                _windows(np.flatnonzero(mine & (sides.source == source)), sides.group, lengths, bases, rng)
                for source in np.unique(sides.source[mine]).tolist()
            ]
            for of_source, n in zip(windows, _evenly([len(each) for each in windows], wanted), strict=True):
                chosen += of_source[:n]
    chosen.sort()
    bases_of = [sum(end - start for _, start, end in spans) for spans in chosen]
    record = np.array([spans[0][0] for spans in chosen], np.int64)
    return Pieces(tuple(chosen), record, np.array(bases_of, np.int64))


def _windows(
    records: np.ndarray, group: np.ndarray, lengths: np.ndarray, bases: int, rng: np.random.Generator
) -> list[tuple[Span, ...]]:
    """Disjoint windows, one of each group, then a second one of each group, and so on."""
    members: dict[int, list[int]] = {}
    for record in records.tolist():
        members.setdefault(int(group[record]), []).append(record)
    groups = [_of_group(mine, lengths, bases, rng) for _, mine in sorted(members.items())]
    order = rng.permutation(len(groups)).tolist()
    return [groups[i][turn] for turn in range(MOST_OF_GROUP) for i in order if turn < len(groups[i])]


def _of_group(records: list[int], lengths: np.ndarray, bases: int, rng: np.random.Generator) -> list[tuple[Span, ...]]:
    """At most MOST_OF_GROUP windows of a group: of its long records, and of the short ones joined."""
    short = [record for record in records if lengths[record] < bases]
    stretches = [[record] for record in records if lengths[record] >= bases] + ([short] if short else [])
    windows: list[tuple[Span, ...]] = []
    for number in rng.permutation(len(stretches)).tolist():
        ends = np.cumsum(lengths[stretches[number]])
        n, rest = divmod(int(ends[-1]), bases)
        if n == 0:
            continue
        first = int(rng.integers(0, rest + 1))
        for place in rng.permutation(n)[: MOST_OF_GROUP - len(windows)].tolist():
            windows.append(_spans(stretches[number], ends, first + place * bases, bases))
    return windows


def _spans(records: list[int], ends: np.ndarray, start: int, bases: int) -> tuple[Span, ...]:
    """The stretches of records in a row, whose ends are given, that make up the bases from `start` on."""
    found = []
    for number in range(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, start + bases)) + 1):
        begin = int(ends[number - 1]) if number else 0
        found.append((records[number], max(0, start - begin), min(int(ends[number]), start + bases) - begin))
    return tuple(found)


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
    wanted: dict[int, list[tuple[int, int, int]]] = {}
    for piece, spans in enumerate(pieces.spans):
        for record, start, end in spans:
            wanted.setdefault(record, []).append((piece, start, end))
    texts: list[list[bytes]] = [[] for _ in pieces.spans]
    for number, read in enumerate(read_records(paths, replace_unknown=replace_unknown)):
        raise_if_ending()
        for piece, start, end in wanted.get(number, ()):
            texts[piece].append(bytes(read.sequence[start:end]))
    for piece, parts in enumerate(texts):
        yield b">piece%d\n%b\n" % (piece + 1, b"".join(parts))
