"""From parts to tables: sequences.tsv, chunks.tsv, fragments.tsv, in input order, whole or absent.

Rows depend on the input and the scores only. Every input record is in sequences.tsv, every chunk in chunks.tsv; chunks
without an open frame carry NA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vpdist.blocks import STATUS_NAMES, BlockTable
from vpdist.errors import StorageError
from vpdist.files import replacing
from vpdist.fragments import FRAMES, fragment_span

SEQUENCE_COLUMNS = (
    "seq_name source length n_chunks n_scored_chunks n_fragments n_virus_chunks virus_score nonvirus_score prediction "
    "status description"
).split()
CHUNK_COLUMNS = "seq_name chunk start end n_fragments virus_score nonvirus_score prediction".split()
FRAGMENT_COLUMNS = "fragment_id seq_name chunk start end strand frame virus_score nonvirus_score prediction".split()
NA = "NA"


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of all n fragments in input order."""

    virus: np.ndarray
    """(n,) float32, NaN where there is none."""
    nonvirus: np.ndarray
    """(n,) float32."""
    failed: np.ndarray
    """(n,) bool: no usable embedding."""

    @classmethod
    def empty(cls, n: int) -> Scores:
        nan = np.full(n, np.nan, dtype=np.float32)
        return cls(nan, nan.copy(), np.zeros(n, dtype=bool))

    def set_unit(self, fragment: np.ndarray, row: np.ndarray, failed: np.ndarray, logits: np.ndarray | None) -> None:
        """Enter a unit: its fragments, the row each one shares, rows' failures and logits (m, 2)."""
        self.failed[fragment] = failed[row].astype(bool)
        if logits is not None:
            nonvirus, virus = softmax(logits)
            good = failed[row] == 0
            self.virus[fragment[good]] = virus[row[good]]
            self.nonvirus[fragment[good]] = nonvirus[row[good]]


def softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores for class 0 (others) and class 1 (virus), each (m,) float32, from logits (m, 2)."""
    wide = logits.astype(np.float64)
    exponential = np.exp(wide - wide.max(axis=1, keepdims=True))
    scores = (exponential / exponential.sum(axis=1, keepdims=True)).astype(np.float32)
    return scores[:, 0], scores[:, 1]


@dataclass(slots=True)
class Totals:
    """What the tables hold."""

    records: int = 0
    chunks: int = 0
    open_chunks: int = 0
    fragments: int = 0
    failed_fragments: int = 0
    virus_sequences: int = 0
    statuses: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Sequence:
    """A sequence whose chunks are being summed; it may span blocks."""

    name: str
    description: str
    source: str
    length: int
    n_chunks: int
    status: str
    chunks_seen: int = 0
    n_fragments: int = 0
    n_failed: int = 0
    virus: list[float] = field(default_factory=list)
    nonvirus: list[float] = field(default_factory=list)

    def row(self, consensus: str, totals: Totals) -> str:
        """The row of sequences.tsv; counts it in `totals`."""
        n_virus = sum(v >= n for v, n in zip(self.virus, self.nonvirus, strict=True))
        scores: tuple[float, float] | None = None
        if self.virus:
            scores = consensus_scores(consensus, self.virus, self.nonvirus)
        status = self.status
        if status == "ok":
            status = "failed" if self.n_failed else "ok" if self.n_fragments else "no_open_frame"
        totals.records += 1
        totals.statuses[status] += 1
        totals.virus_sequences += bool(scores and scores[0] >= scores[1])
        head = f"{self.name}\t{self.source}\t{self.length}\t{self.n_chunks}\t{len(self.virus)}\t{self.n_fragments}"
        return f"{head}\t{n_virus}\t{_scores(scores)}\t{status}\t{self.description}\n"


def consensus_scores(consensus: str, virus: Sequence[float], nonvirus: Sequence[float]) -> tuple[float, float]:
    """A sequence's virus and non-virus score from its scored chunks': their mean, their maximum, or the fraction of
    chunks called virus and its complement."""
    if consensus == "max":
        return max(virus), max(nonvirus)
    if consensus == "fraction":
        share = sum(v >= n for v, n in zip(virus, nonvirus, strict=True)) / len(virus)
        return share, 1.0 - share
    return sum(virus) / len(virus), sum(nonvirus) / len(nonvirus)


def _scores(scores: tuple[float, float] | None) -> str:
    """The columns virus_score, nonvirus_score, prediction."""
    if scores is None:
        return f"{NA}\t{NA}\t{NA}"
    virus, nonvirus = scores
    return f"{virus:.6g}\t{nonvirus:.6g}\t{'virus' if virus >= nonvirus else 'non-virus'}"


class TableWriter:
    """Writes blocks of the token store, in input order, with their fragments' scores."""

    def __init__(
        self, files: dict[str, BinaryIO], sources: Sequence[str], new_names: dict[int, str], consensus: str
    ) -> None:
        self.files, self.sources, self.new_names, self.consensus = files, sources, new_names, consensus
        self.totals = Totals()
        self._open: _Sequence | None = None
        self._next_record = 0

    def block(self, table: BlockTable, scores: Scores, first_fragment: int) -> None:
        """Append one block's fragments, chunks and the sequences that end in it."""
        n = len(table.fragment_chunk)
        virus = scores.virus[first_fragment : first_fragment + n]
        nonvirus = scores.nonvirus[first_fragment : first_fragment + n]
        failed = scores.failed[first_fragment : first_fragment + n]
        first_record, open_before = self._next_record, self._open
        sequences = self._sequences(table)
        self._next_record += len(sequences)
        records, least = table.chunk_record, first_record - (open_before is not None)
        outside = len(records) and not least <= int(records[0]) <= int(records[-1]) < self._next_record
        if outside or (records[1:] < records[:-1]).any() or first_fragment + n > len(scores.virus):
            raise StorageError("token store: a block's chunks or fragments are not those of its records")
        names = {first_record + i: sequence.name for i, sequence in enumerate(sequences)}
        if open_before is not None:
            names[first_record - 1] = open_before.name
        chunk_names = [names[record] for record in table.chunk_record.tolist()]
        self._fragments(table, chunk_names, virus, nonvirus)
        chunk_virus, chunk_nonvirus, counts, chunk_failed = self._chunks(table, chunk_names, virus, nonvirus, failed)
        waiting = iter(sequences)
        sequence = open_before
        lines: list[str] = []
        for c, record in enumerate(table.chunk_record.tolist()):
            while sequence is None or sequence.chunks_seen == sequence.n_chunks:
                if sequence is not None:
                    lines.append(sequence.row(self.consensus, self.totals))
                sequence = next(waiting, None)
                if sequence is None:
                    raise StorageError(f"token store: chunk {c} belongs to no sequence")
            if sequence.name != names[record]:
                raise StorageError(f"token store: chunk {c} belongs to {names[record]}, expected {sequence.name}")
            sequence.chunks_seen += 1
            sequence.n_fragments += counts[c]
            sequence.n_failed += chunk_failed[c]
            if chunk_virus[c] == chunk_virus[c]:
                sequence.virus.append(chunk_virus[c])
                sequence.nonvirus.append(chunk_nonvirus[c])
        for following in waiting:
            if sequence is not None:
                lines.append(self._complete(sequence))
            sequence = following
        if sequence is not None and sequence.chunks_seen == sequence.n_chunks:
            lines.append(sequence.row(self.consensus, self.totals))
            sequence = None
        self._open = sequence
        self.files["sequences"].write("".join(lines).encode())

    def _complete(self, sequence: _Sequence) -> str:
        """The row of a sequence that must have been seen whole. Raises StorageError."""
        if sequence.chunks_seen != sequence.n_chunks:
            raise StorageError(
                f"token store: {sequence.name} has {sequence.n_chunks} chunks, {sequence.chunks_seen} were found"
            )
        return sequence.row(self.consensus, self.totals)

    def _sequences(self, table: BlockTable) -> list[_Sequence]:
        """The records that begin in a block. Raises StorageError."""
        if len(table.sources) and int(table.sources.max()) >= len(self.sources):
            raise StorageError("token store: a record comes from a file that the run did not read")
        return [
            _Sequence(
                name=self.new_names.get(self._next_record + i, name),
                description=description,
                source=self.sources[source],
                length=length,
                n_chunks=n_chunks,
                status=STATUS_NAMES[status],
            )
            for i, (name, description, source, length, n_chunks, status) in enumerate(
                zip(
                    table.names,
                    table.descriptions,
                    table.sources.tolist(),
                    table.lengths.tolist(),
                    table.n_chunks.tolist(),
                    table.statuses.tolist(),
                    strict=True,
                )
            )
        ]

    def _fragments(self, table: BlockTable, chunk_names: list[str], virus: np.ndarray, nonvirus: np.ndarray) -> None:
        chunk = table.fragment_chunk
        start, end = fragment_span(
            table.chunk_start[chunk], table.chunk_end[chunk], table.fragment_frame, table.fragment_residues
        )
        lines = []
        for c, k, s, e, frame, v, n in zip(
            chunk.tolist(),
            (table.chunk_number[chunk] + 1).tolist(),
            start.tolist(),
            end.tolist(),
            table.fragment_frame.tolist(),
            virus.tolist(),
            nonvirus.tolist(),
            strict=True,
        ):
            name, frame_name = chunk_names[c], FRAMES[frame]
            columns = _scores((v, n) if v == v else None)
            lines.append(
                f"{name}_chunk_{k}{frame_name}\t{name}\t{k}\t{s}\t{e}\t{'+-'[frame // 3]}\t{frame % 3 + 1}\t{columns}\n"
            )
        self.totals.fragments += len(lines)
        self.files["fragments"].write("".join(lines).encode())

    def _chunks(
        self, table: BlockTable, chunk_names: list[str], virus: np.ndarray, nonvirus: np.ndarray, failed: np.ndarray
    ) -> tuple[list[float], list[float], list[int], list[int]]:
        """Write the block's chunks; returns their virus and non-virus scores (NaN where there are none), numbers of
        fragments and of failed fragments."""
        n_chunks = len(table.chunk_record)
        chunk = table.fragment_chunk
        best_virus, best_nonvirus = (_largest(scores, chunk, n_chunks) for scores in (virus, nonvirus))
        counts = np.bincount(chunk, minlength=n_chunks).tolist()
        n_failed = np.bincount(chunk, weights=failed, minlength=n_chunks).astype(np.int64).tolist()
        chunk_virus, chunk_nonvirus = best_virus.tolist(), best_nonvirus.tolist()
        lines = []
        for name, k, start, end, count, v, n in zip(
            chunk_names,
            (table.chunk_number + 1).tolist(),
            (table.chunk_start + 1).tolist(),
            table.chunk_end.tolist(),
            counts,
            chunk_virus,
            chunk_nonvirus,
            strict=True,
        ):
            scored = v == v
            self.totals.open_chunks += count > 0
            lines.append(f"{name}\t{k}\t{start}\t{end}\t{count}\t{_scores((v, n) if scored else None)}\n")
        self.totals.chunks += n_chunks
        self.totals.failed_fragments += sum(n_failed)
        self.files["chunks"].write("".join(lines).encode())
        return chunk_virus, chunk_nonvirus, counts, n_failed

    def finish(self, n_records: int) -> Totals:
        """Check that every record read has its row. Raises StorageError."""
        if self._open is not None or self.totals.records != n_records:
            raise StorageError(f"token store: {n_records} records were read, {self.totals.records} have a row")
        return self.totals


def _largest(scores: np.ndarray, chunk: np.ndarray, n_chunks: int) -> np.ndarray:
    """(n_chunks,) float32: the largest score of each chunk's fragments that have one, NaN where none has."""
    largest = np.full(n_chunks, np.nan, dtype=np.float32)
    np.fmax.at(largest, chunk, scores)
    return largest


def write(
    folder: Path,
    blocks: Iterable[BlockTable],
    scores: Scores,
    *,
    sources: Sequence[str],
    new_names: dict[int, str],
    n_records: int,
    consensus: str,
) -> Totals:
    """Write the three tables into `folder`. Raises StorageError."""
    columns = {"sequences": SEQUENCE_COLUMNS, "chunks": CHUNK_COLUMNS, "fragments": FRAGMENT_COLUMNS}
    with ExitStack() as stack:
        files = {name: stack.enter_context(replacing(folder / f"{name}.tsv")) for name in columns}
        for name, header in columns.items():
            files[name].write(("\t".join(header) + "\n").encode())
        writer = TableWriter(files, sources, new_names, consensus)
        first_fragment = 0
        for table in blocks:
            writer.block(table, scores, first_fragment)
            first_fragment += len(table.fragment_chunk)
        return writer.finish(n_records)


def write_legacy(folder: Path, scores: Scores) -> None:
    """Write the original method's two files from fragments.tsv and the scores. Raises StorageError.

    prediction_results.txt has a row per fragment in input order, prediction_results_highestscore.csv (separated by
    tabs in spite of its name) a row per scored chunk, sorted by its id.
    """
    called: dict[str, tuple[float, float]] = {}
    with replacing(folder / "prediction_results.txt") as file:
        file.write(b"Sequence_ID\tPrediction\tscore1\tscore2\n")
        for identifier, score1, score2 in _scored_fragments(folder / "fragments.tsv", scores):
            label = "virus" if score2 > score1 else "others"
            file.write(f"{identifier}\t{label}\t{score1!s}\t{score2!s}\n".encode())
            chunk = identifier[:-2]
            best = called.get(chunk, (-1.0, -1.0))
            called[chunk] = (max(best[0], float(score1)), max(best[1], float(score2)))
    with replacing(folder / "prediction_results_highestscore.csv") as file:
        file.write(b"Modified_ID\tIs_Virus\n")
        for chunk in sorted(called):
            nonvirus, virus = called[chunk]
            file.write(f"{chunk}\t{virus >= nonvirus}\n".encode())


def _scored_fragments(path: Path, scores: Scores) -> Iterator[tuple[str, np.float32, np.float32]]:
    with open(path, encoding="utf-8", newline="\n") as file:
        next(file)
        for line, nonvirus, virus in zip(file, scores.nonvirus, scores.virus, strict=True):
            if not np.isnan(virus):
                yield line.split("\t", 1)[0], nonvirus, virus
