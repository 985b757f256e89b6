"""From fragments' scores to chunks' and sequences', block by block: a sequence may begin in one and end in another.

Enters: blocks of the token store in input order, and the scores of all fragments. Leaves: each block's chunks, and the
sequences that end in it, the same whatever the blocks are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from vpdist.calibration.judgement import Evidence
from vpdist.errors import StorageError
from vpdist.results.flags import Flags
from vpdist.results.scores import Scores
from vpdist.sequences.blocks import BlockTable
from vpdist.text import NAME_LETTERS, shortened


@dataclass(slots=True)
class Sums:
    """Sums over the chunks read so far of each of n sequences: arrays (n,)."""

    chunks: np.ndarray
    scored: np.ndarray
    bases: np.ndarray
    """Bases of the scored chunks, overlaps counted again."""
    fragments: np.ndarray
    failed: np.ndarray
    called_virus: np.ndarray
    """Scored chunks whose virus score is at least the other."""
    virus: np.ndarray
    """(n,) float64 sum over the scored chunks, in their order."""
    nonvirus: np.ndarray
    most_virus: np.ndarray
    """(n,) the largest score of a scored chunk; -inf where there is none."""
    most_nonvirus: np.ndarray

    def rows(self, which: slice) -> Sums:
        """The sums of some of the sequences."""
        return Sums(*(getattr(self, field.name)[which] for field in fields(self)))

    def consensus(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Each sequence's virus and non-virus score from its scored chunks': their mean, their maximum, or the
        fraction of chunks called virus and its complement; NaN where no chunk is scored."""
        scored = np.where(self.scored > 0, self.scored, np.nan)
        if name == "max":
            return self.most_virus + 0 * scored, self.most_nonvirus + 0 * scored
        if name == "fraction":
            return self.called_virus / scored, 1.0 - self.called_virus / scored
        return self.virus / scored, self.nonvirus / scored


COMBINE = {"most_virus": np.maximum, "most_nonvirus": np.maximum}
"""How sums of a sequence's chunks in several blocks are put together; else they are added."""


@dataclass(frozen=True, slots=True)
class ChunkScores:
    """Scores and counts of the n chunks of a block."""

    virus: np.ndarray
    """(n,) float64, the largest of the fragments' scores; NaN where there is none."""
    nonvirus: np.ndarray
    bases: np.ndarray
    """(n,) int64."""
    n_fragments: np.ndarray
    n_failed: np.ndarray
    flags: np.ndarray
    """(n,) uint32."""

    def per_sequence(self, owner: np.ndarray, n: int, carried: Sums) -> Sums:
        """Sums over the chunks of each of n sequences; `carried` has those of the first one from earlier blocks."""
        scored = ~np.isnan(self.virus)
        of, virus, nonvirus = owner[scored], self.virus[scored], self.nonvirus[scored]
        sums = Sums(
            chunks=np.bincount(owner, minlength=n),
            scored=np.bincount(of, minlength=n),
            bases=np.bincount(of, self.bases[scored], n).astype(np.int64),
            fragments=np.bincount(owner, self.n_fragments, n).astype(np.int64),
            failed=np.bincount(owner, self.n_failed, n).astype(np.int64),
            called_virus=np.bincount(of, virus >= nonvirus, n).astype(np.int64),
            virus=_running_sums(of, virus, n, carried.virus),
            nonvirus=_running_sums(of, nonvirus, n, carried.nonvirus),
            most_virus=_largest(of, virus, n, -np.inf),
            most_nonvirus=_largest(of, nonvirus, n, -np.inf),
        )
        for name in (each.name for each in fields(Sums) if each.name not in ("virus", "nonvirus")):
            before = getattr(carried, name)
            first = getattr(sums, name)[: len(before)]
            COMBINE.get(name, np.add)(first, before, out=first)
        return sums


def _running_sums(of: np.ndarray, values: np.ndarray, n: int, carried: np.ndarray) -> np.ndarray:
    """(n,) sums of the values of each sequence, added one after the other to what the first one carries: where blocks
    end must not change a bit."""
    return np.bincount(np.concatenate((np.arange(len(carried)), of)), np.concatenate((carried, values)), n)


def _largest(of: np.ndarray, values: np.ndarray, n: int, none: float) -> np.ndarray:
    """(n,) the largest of each group's values that are not NaN, `none` where it has none; `of` (groups) ascends."""
    largest = np.full(n, none, dtype=values.dtype)
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    if len(starts):
        largest[of[starts]] = np.fmax.reduceat(values, starts)
    return largest


@dataclass(frozen=True, slots=True)
class Sequences:
    """Consecutive sequences of the input, of which all chunks are known."""

    first: int
    """Number of the first one in the input."""
    columns: list[list[Any]]
    """name, source, length, n_chunks, status, description: a list each."""
    sums: Sums
    flags: np.ndarray
    """(n,) uint32 of the sequences."""

    def evidence(self, consensus: str) -> Evidence:
        virus, nonvirus = self.sums.consensus(consensus)
        return Evidence(virus, nonvirus, np.minimum(self.sums.bases, np.array(self.columns[2], np.int64)))


@dataclass(frozen=True, slots=True)
class ScoredBlock:
    """What a block holds, scored."""

    names: list[str]
    """The sequence of each chunk."""
    virus: np.ndarray
    """(f,) scores of the block's fragments."""
    nonvirus: np.ndarray
    chunks: ChunkScores
    ended: Sequences
    """The sequences that end in this block."""


class BlockReader:
    """Reads blocks of the token store, in input order, with their fragments' scores."""

    def __init__(self, scores: Scores, new_names: dict[int, str], n_sources: int, flags: Flags | None) -> None:
        self._scores, self._new_names, self._n_sources, self._flags = scores, new_names, n_sources, flags
        self._columns: list[list[Any]] = [[] for _ in range(6)]
        """Of the sequence whose chunks continue in the next block, or of none; as in `Sequences`."""
        self._sums = Sums(*(np.zeros(0, np.int64) for _ in fields(Sums)))
        self._next_record = self._next_chunk = 0

    @property
    def is_amid_a_sequence(self) -> bool:
        return bool(self._columns[0])

    def read(self, table: BlockTable, first_fragment: int) -> ScoredBlock:
        """The next block. Raises StorageError."""
        fragments = slice(first_fragment, first_fragment + len(table.fragment_chunk))
        virus, nonvirus = self._scores.virus[fragments], self._scores.nonvirus[fragments]
        n_chunks, chunk = len(table.chunk_record), table.fragment_chunk
        names = [*self._columns[0]]
        first = self._next_record - len(names)
        names += [self._new_names.get(self._next_record + i, name) for i, name in enumerate(table.names)]
        owner = table.chunk_record - first
        outside = n_chunks and not 0 <= int(owner[0]) <= int(owner[-1]) < len(names)
        if outside or (owner[1:] < owner[:-1]).any() or fragments.stop > len(self._scores.virus):
            raise StorageError("token store: a block's chunks or fragments are not those of its records")
        if len(table.sources) and int(table.sources.max()) >= self._n_sources:
            raise StorageError("token store: a record comes from a file that the run did not read")
        chunks = ChunkScores(
            virus=_largest(chunk, virus, n_chunks, np.nan).astype(np.float64),
            nonvirus=_largest(chunk, nonvirus, n_chunks, np.nan).astype(np.float64),
            bases=table.chunk_end - table.chunk_start,
            n_fragments=np.bincount(chunk, minlength=n_chunks),
            n_failed=np.bincount(chunk, self._scores.failed[fragments], n_chunks).astype(np.int64),
            flags=np.zeros(n_chunks, np.uint32)
            if self._flags is None
            else self._flags.chunks[self._next_chunk : self._next_chunk + n_chunks],
        )
        self._next_record += len(table.names)
        self._next_chunk += n_chunks
        ended = self._ended(table, names, owner, chunks)
        return ScoredBlock([names[i] for i in owner.tolist()], virus, nonvirus, chunks, ended)

    def _ended(self, table: BlockTable, names: list[str], owner: np.ndarray, chunks: ChunkScores) -> Sequences:
        """The sequences that end in this block; the last one may be carried.

        `owner` is each chunk's index in `names`. Raises StorageError.
        """
        sums = chunks.per_sequence(owner, len(names), self._sums)
        numbers = (table.sources, table.lengths, table.n_chunks, table.statuses)
        read = (*(column.tolist() for column in numbers), table.descriptions)
        columns = [names, *([*carried, *c] for carried, c in zip(self._columns[1:], read, strict=True))]
        n_chunks = np.array(columns[3], np.int64)
        wrong = np.flatnonzero(sums.chunks != n_chunks)
        complete = len(names)
        if wrong.tolist() == [complete - 1] and sums.chunks[-1] < n_chunks[-1]:
            complete -= 1
        elif len(wrong):
            i = int(wrong[0])
            name = shortened(names[i], NAME_LETTERS)
            raise StorageError(f"token store: {name} has {n_chunks[i]} chunks, {sums.chunks[i]} were found")
        first = self._next_record - len(names)
        self._columns, self._sums = [column[complete:] for column in columns], sums.rows(slice(complete, None))
        ended = sums.rows(slice(complete))
        flags = np.zeros(complete, np.uint32)
        if self._flags is not None:
            flags = self._flags.records[first : first + complete]
        return Sequences(first, [column[:complete] for column in columns], ended, flags)


def evidence(blocks: Iterable[BlockTable], reader: BlockReader, consensus: str) -> Evidence:
    """Of all sequences. Raises StorageError."""
    found, first_fragment = [Evidence(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))], 0
    for table in blocks:
        found.append(reader.read(table, first_fragment).ended.evidence(consensus))
        first_fragment += len(table.fragment_chunk)
    return Evidence(*(np.concatenate([getattr(each, f.name) for each in found]) for f in fields(Evidence)))
