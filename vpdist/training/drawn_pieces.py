"""Which pieces of the labelled sequences are embedded beside these.

For the calibration and the figures by length: a bounded number of each length and label, evenly by source, from as many
groups as there are, none of which overlap at the same length. For a classifier of shorter chunks: all chunks of its
length, of which some are drawn where there are more than such a fit needs: embedding all would cost as much for each
length as for the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vpdist.sequences.six_frames import chunk_bounds
from vpdist.training.pieces import Pieces, Span
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

MOST_CHUNKS = 400_000
"""Of one length, of all sources and sides together. With half as many, drawn from twice as many, a classifier for 300
bases was no better than the one for 500."""


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
    return Pieces.of(sorted(chosen))


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


def cut_chunks(lengths: np.ndarray, length: int, least: int, seed: int, most: int = MOST_CHUNKS) -> Pieces:
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
    return Pieces(record, start, end, np.arange(len(record)))
