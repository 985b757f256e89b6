"""What makes a chunk's or a sequence's call doubtful, found in one pass over the token store; and short chunks' scores.

Enters: blocks of the token store in input order, the scores of all fragments, and the length below which chunks are
short. Leaves: a mask for each chunk and each sequence. The thresholds, each with its reason, are in docs/flags.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vpdist.errors import StorageError
from vpdist.results.flags import Flags
from vpdist.results.scores import Scores
from vpdist.sequences.blocks import OK, BlockTable

WORDS = (
    "short",
    "few_chunks",
    "ambiguous_bases",
    "low_complexity",
    "no_open_frame",
    "out_of_distribution",
    "disagreement",
)
"""By bit, the lowest one first."""
SHORT, FEW_CHUNKS, AMBIGUOUS, LOW_COMPLEXITY, NO_OPEN_FRAME, UNLIKE, DISAGREEMENT = (
    np.uint32(1 << bit) for bit in range(len(WORDS))
)
SHORT_SHARE = 0.6
"""Of the chunk length: shorter chunks are short where the model does not say from which length on it judges."""
FEW = 3
"""Scored chunks: fewer are few."""
AMBIGUOUS_SHARE = 0.05
"""Of a chunk's letters, not A, C, G or T."""
LOW_SHARE = 0.5
"""Of a chunk's bases, in windows of low complexity."""
FARTHEST = 1.0
"""Distance from the training side, in thresholds of the row's length."""
SURE = 0.9
"""Score from which a frame is sure."""
MINORITY = 1 / 3
"""Share of a sequence's scored chunks that are called the other way."""
MOST = 0.5
"""A sequence has a flag of its chunks where more than this share of them has it."""


def short_below(chunk_length: int, shortest_chunk: int) -> int:
    """Bases below which chunks are short. `shortest_chunk`: what the model says; 0 where it judges every chunk."""
    return shortest_chunk or int(SHORT_SHARE * chunk_length)


def withhold_short(blocks: Iterable[BlockTable], scores: Scores, shortest_chunk: int) -> Scores:
    """The scores without those of fragments in chunks that are shorter than the model judges."""
    if not shortest_chunk:
        return scores
    short, first = np.zeros(len(scores.virus), bool), 0
    for table in blocks:
        n = len(table.fragment_chunk)
        _refuse_other_block(table, first + n, len(short))
        short[first : first + n] = (table.chunk_end - table.chunk_start < shortest_chunk)[table.fragment_chunk]
        first += n
    virus, nonvirus = (np.where(short, np.float32(np.nan), score) for score in (scores.virus, scores.nonvirus))
    return Scores(virus, nonvirus, scores.failed, scores.distance)


def find_doubts(blocks: Iterable[BlockTable], scores: Scores, n_records: int, shortest_chunk: int) -> Flags:
    """The flags of all chunks and of the n_records sequences; `scores` without those that are withheld. Raises
    StorageError for blocks of another run."""
    of_chunks, tallies = [np.zeros(0, np.uint32)], _Tallies(n_records)
    first = 0
    for table in blocks:
        fragments = slice(first, first + len(table.fragment_chunk))
        _refuse_other_block(table, fragments.stop, len(scores.virus), tallies.n_begun + len(table.lengths))
        masks, virus, nonvirus = _of_chunks(table, scores, fragments, short_below(table.chunk_length, shortest_chunk))
        tallies.add(table, masks, virus, nonvirus)
        of_chunks.append(masks)
        first = fragments.stop
    return Flags(WORDS, np.concatenate(of_chunks), tallies.masks())


def _refuse_other_block(table: BlockTable, last_fragment: int, n_fragments: int, last_record: int = 0) -> None:
    """Raises StorageError for a block of an untrusted file that is not of this run: fragments beyond its number, or
    chunks of records that do not begin up to its end, `last_record`."""
    chunk, owner = table.fragment_chunk, table.chunk_record
    in_order = not ((chunk[1:] < chunk[:-1]).any() or (owner[1:] < owner[:-1]).any())
    if not in_order or last_fragment > n_fragments or (last_record and int(owner.max(initial=0)) >= last_record):
        raise StorageError("token store: a block's chunks or fragments are not those of its records")


def _of_chunks(
    table: BlockTable, scores: Scores, fragments: slice, short: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(c,) masks of a block's chunks, and their largest scores; -1 without a score."""
    lengths, chunk = table.chunk_end - table.chunk_start, table.fragment_chunk
    n = len(lengths)
    starts = np.flatnonzero(np.diff(chunk, prepend=-1))
    n_fragments = np.bincount(chunk, minlength=n)

    def of_fragments(values: np.ndarray, none: float, combine: np.ufunc) -> np.ndarray:
        """(c,) the largest or smallest value of each chunk's fragments that is known."""
        found = np.full(n, none, np.float32)
        if len(starts):
            found[chunk[starts]] = combine.reduceat(np.where(np.isnan(values), np.float32(none), values), starts)
        return found

    virus, nonvirus = (of_fragments(score[fragments], -1.0, np.maximum) for score in (scores.virus, scores.nonvirus))
    masks = np.where(lengths < short, SHORT, np.uint32(0))
    masks |= np.where(n_fragments == 0, NO_OPEN_FRAME, np.uint32(0))
    masks |= np.where((virus >= SURE) & (nonvirus >= SURE), DISAGREEMENT, np.uint32(0))
    if scores.distance is not None:
        nearest = of_fragments(scores.distance[fragments], np.inf, np.minimum)
        masks |= np.where((nearest > FARTHEST) & np.isfinite(nearest) & (virus >= 0), UNLIKE, np.uint32(0))
    for column, share, flag in (
        (table.chunk_other_bases, AMBIGUOUS_SHARE, AMBIGUOUS),
        (table.chunk_low_complexity, LOW_SHARE, LOW_COMPLEXITY),
    ):
        if column is not None:
            masks |= np.where(column > share * lengths, flag, np.uint32(0))
    return masks, virus, nonvirus


OF_CHUNKS = (SHORT, AMBIGUOUS, LOW_COMPLEXITY)
"""Flags that a sequence has where most of its chunks have them."""
OF_SCORED = (UNLIKE, DISAGREEMENT)
"""Where most of its scored chunks have them."""


class _Tallies:
    """Counts of chunks for each of r records: arrays (r,)."""

    def __init__(self, n_records: int) -> None:
        self.chunks, self.open, self.scored, self.virus = np.zeros((4, n_records), np.int32)
        self.flagged = {flag: np.zeros(n_records, np.int32) for flag in (*OF_CHUNKS, *OF_SCORED)}
        self.ok = np.zeros(n_records, bool)
        self.n_begun = 0
        """Records of the blocks that are counted."""

    def add(self, table: BlockTable, masks: np.ndarray, virus: np.ndarray, nonvirus: np.ndarray) -> None:
        """Count the chunks of a block. Raises StorageError for more records than there are."""
        begun = slice(self.n_begun, self.n_begun + len(table.lengths))
        self.n_begun = begun.stop
        if begun.stop > len(self.ok):
            raise StorageError(f"token store: {len(self.ok)} records were read, its blocks have more")
        self.ok[begun] = table.statuses == OK
        if not len(masks):
            return
        low = int(table.chunk_record[0])
        owner, size = table.chunk_record - low, int(table.chunk_record[-1]) - low + 1
        scored = virus >= 0
        columns = [(self.chunks, np.ones(len(masks), bool)), (self.open, masks & NO_OPEN_FRAME == 0)]
        columns += [(self.scored, scored), (self.virus, scored & (virus >= nonvirus))]
        columns += [(self.flagged[flag], masks & flag != 0) for flag in (*OF_CHUNKS, *OF_SCORED)]
        for counts, which in columns:
            counts[low : low + size] += np.bincount(owner[which], minlength=size).astype(np.int32)

    def masks(self) -> np.ndarray:
        """(r,) of the records."""
        found = np.zeros(len(self.chunks), np.uint32)
        for flags, n in ((OF_CHUNKS, self.chunks), (OF_SCORED, self.scored)):
            for flag in flags:
                found |= np.where(self.flagged[flag] > MOST * n, flag, np.uint32(0))
        found |= np.where(self.ok & (self.open == 0), NO_OPEN_FRAME, np.uint32(0))
        found |= np.where((self.scored > 0) & (self.scored < FEW), FEW_CHUNKS, np.uint32(0))
        fewer = np.minimum(self.virus, self.scored - self.virus)
        divided = (self.scored >= FEW) & (fewer >= MINORITY * self.scored)
        return found | np.where(divided, DISAGREEMENT, np.uint32(0))
