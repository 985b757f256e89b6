"""From parts to tables: sequences.tsv, chunks.tsv, fragments.tsv, in input order, whole or absent.

Rows depend on the input and the scores only. Every input record is in sequences.tsv, every chunk in chunks.tsv; the
scores of chunks without an open frame are NA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vpdist.calibration.judgement import CALLS, Judgement
from vpdist.errors import StorageError
from vpdist.results.flags import NA, Flags, flag_cells
from vpdist.results.scores import Scores
from vpdist.results.sequence_sums import BlockReader, ScoredBlock, Sequences
from vpdist.sequences.blocks import STATUS_NAMES, BlockTable
from vpdist.sequences.six_frames import FRAMES, fragment_span

SEQUENCE_COLUMNS = (
    "seq_name source length n_chunks n_scored_chunks n_fragments n_virus_chunks virus_score nonvirus_score prediction "
    "status description margin probability q_value p_value call flags"
).split()
CHUNK_COLUMNS = "seq_name chunk start end n_fragments virus_score nonvirus_score prediction margin flags".split()
FRAGMENT_COLUMNS = "fragment_id seq_name chunk start end strand frame virus_score nonvirus_score prediction".split()
COLUMNS = {"sequences": SEQUENCE_COLUMNS, "chunks": CHUNK_COLUMNS, "fragments": FRAGMENT_COLUMNS}
FIRST_COLUMNS = {"sequences": 12, "chunks": 8, "fragments": 10}
"""Columns of the tables of vpdist 0.1, which were the first ones of each."""


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
    failed_objects: int = 0
    """Of a manifest."""
    virus_sequences: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    judgement: dict[str, Any] | None = None
    """What run.json says of the judgement of all sequences; None where nothing is known."""

    @property
    def failures(self) -> int:
        """Fragments and objects that failed."""
        return self.failed_fragments + self.failed_objects


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


def _numbers(values: np.ndarray) -> list[str]:
    """The cell of each; NA for NaN."""
    return [NA if value != value else f"{value:.6g}" for value in values.tolist()]


class TableWriter:
    """Writes blocks of the token store, in input order, with their fragments' scores."""

    def __init__(
        self,
        files: Mapping[str, Output],
        sources: Sequence[str],
        consensus: str,
        judgement: Judgement | None = None,
        flag_words: Sequence[str] | None = None,
    ) -> None:
        """`judgement`: of all sequences, None where nothing is known of any; `flag_words` by bit, None where flags
        were not looked for."""
        self.files, self.sources, self.consensus = files, sources, consensus
        self.judgement, self.flag_words = judgement, flag_words
        self.totals = Totals()

    def block(self, table: BlockTable, block: ScoredBlock) -> None:
        """Append one block's fragments, chunks and the sequences that end in it."""
        self._write_fragments_and_chunks(table, block)
        self._write_sequences(block.ended)

    def _write_fragments_and_chunks(self, table: BlockTable, block: ScoredBlock) -> None:
        """The rows of fragments.tsv and chunks.tsv."""
        names, chunks = block.names, block.chunks
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
                _score_columns(block.virus, block.nonvirus),
                strict=True,
            )
        ]
        self.files["fragments"].write("".join(rows).encode())
        rows = [
            f"{name}\t{k}\t{s}\t{e}\t{count}{columns}\t{margin}\t{flags}\n"
            for name, k, s, e, count, columns, margin, flags in zip(
                names,
                numbers,
                (table.chunk_start + 1).tolist(),
                table.chunk_end.tolist(),
                chunks.n_fragments.tolist(),
                _score_columns(chunks.virus, chunks.nonvirus),
                _numbers(chunks.virus - chunks.nonvirus),
                flag_cells(self.flag_words, chunks.flags),
                strict=True,
            )
        ]
        self.files["chunks"].write("".join(rows).encode())
        self.totals.fragments += len(chunk)
        self.totals.failed_fragments += int(chunks.n_failed.sum())
        self.totals.chunks += len(names)
        self.totals.open_chunks += int((chunks.n_fragments > 0).sum())

    def _write_sequences(self, ended: Sequences) -> None:
        """Rows of sequences.tsv."""
        sums, (*read, statuses, descriptions) = ended.sums, ended.columns
        status = np.array(statuses, np.int64)
        virus, nonvirus = sums.consensus(self.consensus)
        ok = status == STATUS_NAMES.index("ok")
        texts = np.array(STATUS_NAMES, dtype=object)[status]
        texts[ok & (sums.fragments == 0)] = "no_open_frame"
        texts[ok & (sums.failed > 0)] = "failed"
        rows = [
            f"{name}\t{self.sources[s]}\t{bases}\t{n}\t{scored}\t{n_fragments}\t{n_virus}{scores}\t{state}\t{text}\t"
            f"{margin}{judged}\t{flags}\n"
            for name, s, bases, n, scored, n_fragments, n_virus, scores, state, text, margin, judged, flags in zip(
                *read,
                *(column.tolist() for column in (sums.scored, sums.fragments, sums.called_virus)),
                _score_columns(virus, nonvirus),
                texts,
                descriptions,
                _numbers(virus - nonvirus),
                self._judged(slice(ended.first, ended.first + len(texts))),
                flag_cells(self.flag_words, ended.flags),
                strict=True,
            )
        ]
        self.files["sequences"].write("".join(rows).encode())
        self.totals.records += len(texts)
        self.totals.statuses.update(texts.tolist())
        self.totals.virus_sequences += int((virus >= nonvirus).sum())

    def _judged(self, which: slice) -> list[str]:
        """The columns probability, q_value, p_value, call of some sequences, a tab before each."""
        if self.judgement is None:
            return [f"\t{NA}" * 4] * (which.stop - which.start)
        known = self.judgement
        numbers = (_numbers(column[which]) for column in (known.probability, known.q_value, known.p_value))
        return [
            f"\t{probability}\t{q}\t{p}\t{CALLS[call]}"
            for probability, q, p, call in zip(*numbers, known.call[which].tolist(), strict=True)
        ]


def fill(
    files: Mapping[str, Output],
    blocks: Iterable[BlockTable],
    scores: Scores,
    *,
    sources: Sequence[str],
    new_names: dict[int, str],
    n_records: int,
    consensus: str,
    judgement: Judgement | None = None,
    flags: Flags | None = None,
) -> Totals:
    """Write the three tables with their headers to `files`, by name. `judgement`: of all n_records sequences. Raises
    StorageError."""
    for name, header in COLUMNS.items():
        files[name].write(("\t".join(header) + "\n").encode())
    writer = TableWriter(files, sources, consensus, judgement, None if flags is None else flags.words)
    reader = BlockReader(scores, new_names, len(sources), flags)
    first_fragment = 0
    for table in blocks:
        writer.block(table, reader.read(table, first_fragment))
        first_fragment += len(table.fragment_chunk)
    if reader.is_amid_a_sequence or writer.totals.records != n_records:
        raise StorageError(f"token store: {n_records} records were read, {writer.totals.records} have a row")
    return writer.totals
