"""From parts to tables: sequences.tsv, chunks.tsv, fragments.tsv, in input order, whole or absent.

Rows depend on the input and the scores only. Every input record is in sequences.tsv, every chunk in chunks.tsv; the
scores of chunks without an open frame are NA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np

from vpdist.errors import StorageError
from vpdist.results.scores import Scores
from vpdist.sequences.blocks import STATUS_NAMES, BlockTable
from vpdist.sequences.six_frames import FRAMES, fragment_span
from vpdist.text import NAME_LETTERS, shortened

SEQUENCE_COLUMNS = (
    "seq_name source length n_chunks n_scored_chunks n_fragments n_virus_chunks virus_score nonvirus_score prediction "
    "status description"
).split()
CHUNK_COLUMNS = "seq_name chunk start end n_fragments virus_score nonvirus_score prediction".split()
FRAGMENT_COLUMNS = "fragment_id seq_name chunk start end strand frame virus_score nonvirus_score prediction".split()
COLUMNS = {"sequences": SEQUENCE_COLUMNS, "chunks": CHUNK_COLUMNS, "fragments": FRAGMENT_COLUMNS}
NA = "NA"


class Output(Protocol):
    """What a table is written to: a file, or what compares one with what it must hold."""

    def write(self, content: bytes, /) -> object: ...


@dataclass(slots=True)
class Totals:
    """Counts of what the tables hold."""

    records: int = 0
    chunks: int = 0
    open_chunks: int = 0
    fragments: int = 0
    failed_fragments: int = 0
    virus_sequences: int = 0
    statuses: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Sums:
    """Sums over the chunks read so far of each of n sequences: arrays (n,)."""

    chunks: np.ndarray
    scored: np.ndarray
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

    def rows(self, which: slice) -> _Sums:
        """The sums of some of the sequences."""
        return _Sums(*(getattr(self, field.name)[which] for field in fields(self)))

    def consensus(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Each sequence's virus and non-virus score from its scored chunks': their mean, their maximum, or the
        fraction of chunks called virus and its complement; NaN where no chunk is scored."""
        scored = np.where(self.scored > 0, self.scored, np.nan)
        if name == "max":
            return self.most_virus + 0 * scored, self.most_nonvirus + 0 * scored
        if name == "fraction":
            return self.called_virus / scored, 1.0 - self.called_virus / scored
        return self.virus / scored, self.nonvirus / scored


@dataclass(frozen=True, slots=True)
class _Carried:
    """The sequence whose chunks continue in the next block: columns of one row, or of none."""

    columns: list[list[Any]]
    """name, source, length, n_chunks, status, description."""
    sums: _Sums


@dataclass(frozen=True, slots=True)
class _Chunks:
    """Scores and counts of the n chunks of a block."""

    virus: np.ndarray
    """(n,) float64, the largest of the fragments' scores; NaN where there is none."""
    nonvirus: np.ndarray
    n_fragments: np.ndarray
    n_failed: np.ndarray

    def per_sequence(self, owner: np.ndarray, n: int, carried: _Sums) -> _Sums:
        """Sums over the chunks of each of n sequences; `carried` has those of the first one from earlier blocks."""
        scored = ~np.isnan(self.virus)
        of, virus, nonvirus = owner[scored], self.virus[scored], self.nonvirus[scored]
        sums = _Sums(
            chunks=np.bincount(owner, minlength=n),
            scored=np.bincount(of, minlength=n),
            fragments=np.bincount(owner, self.n_fragments, n).astype(np.int64),
            failed=np.bincount(owner, self.n_failed, n).astype(np.int64),
            called_virus=np.bincount(of, virus >= nonvirus, n).astype(np.int64),
            virus=_running_sums(of, virus, n, carried.virus),
            nonvirus=_running_sums(of, nonvirus, n, carried.nonvirus),
            most_virus=_largest(of, virus, n, -np.inf),
            most_nonvirus=_largest(of, nonvirus, n, -np.inf),
        )
        for name in ("chunks", "scored", "fragments", "failed", "called_virus", "most_virus", "most_nonvirus"):
            combine = np.maximum if name.startswith("most") else np.add
            before = getattr(carried, name)
            first = getattr(sums, name)[: len(before)]
            combine(first, before, out=first)
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


def _score_columns(virus: np.ndarray, nonvirus: np.ndarray) -> list[str]:
    """The columns virus_score, nonvirus_score, prediction of each row, tab before and line break after; NA for NaN."""
    scored = np.flatnonzero(~np.isnan(virus))
    columns = np.full(len(virus), f"\t{NA}\t{NA}\t{NA}", dtype=object)
    ends = ("non-virus", "virus")
    columns[scored] = [
        f"\t{v:.6g}\t{n:.6g}\t{ends[v >= n]}"
        for v, n in zip(virus[scored].tolist(), nonvirus[scored].tolist(), strict=True)
    ]
    return list(columns)


class TableWriter:
    """Writes blocks of the token store, in input order, with their fragments' scores."""

    def __init__(
        self, files: Mapping[str, Output], sources: Sequence[str], new_names: dict[int, str], consensus: str
    ) -> None:
        self.files, self.sources, self.new_names, self.consensus = files, sources, new_names, consensus
        self.totals = Totals()
        self._carried = _Carried([[] for _ in range(6)], _Sums(*(np.zeros(0, np.int64) for _ in fields(_Sums))))
        self._next_record = 0

    def block(self, table: BlockTable, scores: Scores, first_fragment: int) -> None:
        """Append one block's fragments, chunks and the sequences that end in it. Raises StorageError."""
        fragments = slice(first_fragment, first_fragment + len(table.fragment_chunk))
        virus, nonvirus, failed = scores.virus[fragments], scores.nonvirus[fragments], scores.failed[fragments]
        n_chunks, chunk = len(table.chunk_record), table.fragment_chunk
        chunks = _Chunks(
            virus=_largest(chunk, virus, n_chunks, np.nan).astype(np.float64),
            nonvirus=_largest(chunk, nonvirus, n_chunks, np.nan).astype(np.float64),
            n_fragments=np.bincount(chunk, minlength=n_chunks),
            n_failed=np.bincount(chunk, failed, n_chunks).astype(np.int64),
        )
        names = [*self._carried.columns[0]]
        first = self._next_record - len(names)
        names += [self.new_names.get(self._next_record + i, name) for i, name in enumerate(table.names)]
        owner = table.chunk_record - first
        outside = n_chunks and not 0 <= int(owner[0]) <= int(owner[-1]) < len(names)
        if outside or (owner[1:] < owner[:-1]).any() or fragments.stop > len(scores.virus):
            raise StorageError("token store: a block's chunks or fragments are not those of its records")
        if len(table.sources) and int(table.sources.max()) >= len(self.sources):
            raise StorageError("token store: a record comes from a file that the run did not read")
        self._next_record += len(table.names)
        self._write_fragments_and_chunks(table, [names[i] for i in owner.tolist()], virus, nonvirus, chunks)
        self._write_sequences(*self._complete_sequences(table, names, owner, chunks))

    def _write_fragments_and_chunks(
        self, table: BlockTable, names: list[str], virus: np.ndarray, nonvirus: np.ndarray, chunks: _Chunks
    ) -> None:
        """The rows of fragments.tsv and chunks.tsv; `names` has the sequence of each chunk."""
        numbers = (table.chunk_number + 1).tolist()
        chunk, frame = table.fragment_chunk, table.fragment_frame
        start, end = fragment_span(table.chunk_start[chunk], table.chunk_end[chunk], frame, table.fragment_residues)
        identifiers = [f"{name}_chunk_{k}" for name, k in zip(names, numbers, strict=True)]
        heads = [f"\t{name}\t{k}\t" for name, k in zip(names, numbers, strict=True)]
        strands = [f"\t{'+-'[f // 3]}\t{f % 3 + 1}" for f in range(len(FRAMES))]
        rows = [
            f"{identifiers[c]}{FRAMES[f]}{heads[c]}{s}\t{e}{strands[f]}{columns}\n"
            for c, f, s, e, columns in zip(
                *(column.tolist() for column in (chunk, frame, start, end)),
                _score_columns(virus, nonvirus),
                strict=True,
            )
        ]
        self.files["fragments"].write("".join(rows).encode())
        rows = [
            f"{name}\t{k}\t{s}\t{e}\t{count}{columns}\n"
            for name, k, s, e, count, columns in zip(
                names,
                numbers,
                (table.chunk_start + 1).tolist(),
                table.chunk_end.tolist(),
                chunks.n_fragments.tolist(),
                _score_columns(chunks.virus, chunks.nonvirus),
                strict=True,
            )
        ]
        self.files["chunks"].write("".join(rows).encode())
        self.totals.fragments += len(chunk)
        self.totals.failed_fragments += int(chunks.n_failed.sum())
        self.totals.chunks += len(names)
        self.totals.open_chunks += int((chunks.n_fragments > 0).sum())

    def _complete_sequences(
        self, table: BlockTable, names: list[str], owner: np.ndarray, chunks: _Chunks
    ) -> tuple[list[list[Any]], _Sums]:
        """Columns (as in `_Carried`) and sums of the sequences that end in this block; the last one may be carried.

        `owner` is each chunk's index in `names`. Raises StorageError.
        """
        sums = chunks.per_sequence(owner, len(names), self._carried.sums)
        numbers = (table.sources, table.lengths, table.n_chunks, table.statuses)
        read = (*(column.tolist() for column in numbers), table.descriptions)
        columns = [names, *([*carried, *c] for carried, c in zip(self._carried.columns[1:], read, strict=True))]
        n_chunks = np.array(columns[3], np.int64)
        wrong = np.flatnonzero(sums.chunks != n_chunks)
        complete = len(names)
        if wrong.tolist() == [complete - 1] and sums.chunks[-1] < n_chunks[-1]:
            complete -= 1
        elif len(wrong):
            i = int(wrong[0])
            name = shortened(names[i], NAME_LETTERS)
            raise StorageError(f"token store: {name} has {n_chunks[i]} chunks, {sums.chunks[i]} were found")
        self._carried = _Carried([column[complete:] for column in columns], sums.rows(slice(complete, None)))
        return [column[:complete] for column in columns], sums.rows(slice(complete))

    def _write_sequences(self, columns: list[list[Any]], sums: _Sums) -> None:
        """Rows of sequences.tsv; `columns` as in `_Carried`."""
        *read, statuses, descriptions = columns
        status = np.array(statuses, np.int64)
        virus, nonvirus = sums.consensus(self.consensus)
        ok = status == STATUS_NAMES.index("ok")
        texts = np.array(STATUS_NAMES, dtype=object)[status]
        texts[ok & (sums.fragments == 0)] = "no_open_frame"
        texts[ok & (sums.failed > 0)] = "failed"
        rows = [
            f"{name}\t{self.sources[s]}\t{bases}\t{n}\t{scored}\t{n_fragments}\t{n_virus}{scores}\t{state}\t{text}\n"
            for name, s, bases, n, scored, n_fragments, n_virus, scores, state, text in zip(
                *read,
                *(column.tolist() for column in (sums.scored, sums.fragments, sums.called_virus)),
                _score_columns(virus, nonvirus),
                texts,
                descriptions,
                strict=True,
            )
        ]
        self.files["sequences"].write("".join(rows).encode())
        self.totals.records += len(texts)
        self.totals.statuses.update(texts.tolist())
        self.totals.virus_sequences += int((virus >= nonvirus).sum())

    def finish(self, n_records: int) -> Totals:
        """Check that every record read has its row. Raises StorageError."""
        if self._carried.columns[0] or self.totals.records != n_records:
            raise StorageError(f"token store: {n_records} records were read, {self.totals.records} have a row")
        return self.totals


def fill(
    files: Mapping[str, Output],
    blocks: Iterable[BlockTable],
    scores: Scores,
    *,
    sources: Sequence[str],
    new_names: dict[int, str],
    n_records: int,
    consensus: str,
) -> Totals:
    """Write the three tables with their headers to `files`, by name. Raises StorageError."""
    for name, header in COLUMNS.items():
        files[name].write(("\t".join(header) + "\n").encode())
    writer = TableWriter(files, sources, new_names, consensus)
    first_fragment = 0
    for table in blocks:
        writer.block(table, scores, first_fragment)
        first_fragment += len(table.fragment_chunk)
    return writer.finish(n_records)
