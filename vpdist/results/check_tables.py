"""What is wrong with a run's tables: what they must hold, made again from parts and token store, compared row by row.

Enters: a run folder whose store, plan and parts are whole, and the scores of all fragments. Leaves: the problems found,
a line each, with file and row. Nothing is written.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vpdist.calibration.judging import Judging
from vpdist.errors import StorageError
from vpdist.results import tables, virnucpro_files, write_results
from vpdist.results.flags import NA
from vpdist.results.scores import Scores
from vpdist.results.table_files import DAMAGED_GZIP, opened_text, table_path
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.run_folder import LEGACY, RunFolder
from vpdist.text import shortened

SCORE_COLUMNS = ("virus_score", "nonvirus_score", "prediction")
FREE = {
    "sequences": ("n_virus_chunks", *SCORE_COLUMNS, "margin", "probability", "q_value", "p_value", "call", "flags"),
    "chunks": (*SCORE_COLUMNS, "margin", "flags"),
    "fragments": SCORE_COLUMNS,
}
"""The columns that depend on a classifier: what they hold is not compared where it is not known which one it was."""
FREE_LEGACY = (("Prediction", "score1", "score2"), ("Is_Virus",))
LONGER = 1 << 12
"""Bytes by which a row of a file may exceed the row that is expected, before its end is looked for no more."""
SHOWN = 60
"""Letters of a value in a message."""


class Compared:
    """Takes what a file must hold, as it would be written, and finds the first row that differs."""

    def __init__(self, path: Path, file: BinaryIO | None, free: Sequence[str], problem: str | None = None) -> None:
        self.path, self.file, self.problem = path, file, problem
        self.n_columns: int | None = None
        """The first columns of what the file must hold that it does hold; None for all."""
        self._free = frozenset(name.encode() for name in free)
        self._columns: list[bytes] = []
        self._row = 0
        """Rows that agree, the header included."""

    def write(self, content: bytes) -> None:
        """Compare the next rows."""
        if self.problem is not None or self.file is None:
            return
        if self.n_columns is not None:
            rows = content.splitlines()
            content = b"".join(b"\t".join(row.split(b"\t")[: self.n_columns]) + b"\n" for row in rows)
        try:
            self._compare_next(content, self.file)
        except DAMAGED_GZIP as error:
            self.problem = f"{self.path}: is damaged: {error}"

    def _compare_next(self, content: bytes, file: BinaryIO) -> None:
        if self._free and self._columns:
            self._compare(content, file.readline)
            return
        found = file.read(len(content))
        if not self._columns:
            self._columns = content.split(b"\n", 1)[0].split(b"\t")
        if found == content:
            self._row += content.count(b"\n")
        else:
            self._compare(content, io.BytesIO(found + file.read(LONGER)).readline)

    def _compare(self, content: bytes, next_row: Callable[[int], bytes]) -> None:
        for expected in content.splitlines(keepends=True):
            found = next_row(len(expected) + LONGER)
            if found != expected and (reason := self._difference(found, expected)):
                self.problem = f"{self.path}: {self._name_of_row(expected)}: {reason}"
                return
            self._row += 1

    def _name_of_row(self, expected: bytes) -> str:
        if self._row == 0:
            return "its header"
        identifier = expected.split(b"\t", 1)[0]
        return f"row {self._row:,} ({_shown(identifier)})"

    def _difference(self, found: bytes, expected: bytes) -> str:
        """Why a row is not the one that is expected; '' where it differs in free columns only."""
        if not found:
            return "is missing"
        are, must = found.rstrip(b"\n").split(b"\t"), expected.rstrip(b"\n").split(b"\t")
        if len(are) != len(must) or not found.endswith(b"\n"):
            return f"is {_shown(found)}, must be {_shown(expected)}"
        for name, value, right in zip(self._columns, are, must, strict=True):
            if value == right or (name in self._free and _may_be(value, right)):
                continue
            rule = "must not be NA" if name in self._free and value == b"NA" else f"must be {_shown(right)}"
            return f"{name.decode()} is {_shown(value)}, {rule}"
        return "" if _is_called_by_its_scores(self._columns, are) else "is not called by its scores"

    def finish(self) -> Iterator[str]:
        """The problem, if there is one."""
        try:
            if self.problem is None and self.file is not None and self.file.read(1):
                self.problem = f"{self.path}: has more rows than the {self._row - 1:,} of the run"
        except DAMAGED_GZIP as error:
            self.problem = f"{self.path}: is damaged: {error}"
        if self.problem is not None:
            yield self.problem


def _shown(value: bytes) -> str:
    return repr(shortened(value.decode(errors="replace").rstrip("\n"), SHOWN))


def _may_be(value: bytes, right: bytes) -> bool:
    """Whether a value that depends on an unknown classifier is one where `right` is, and absent where that is."""
    return (value == NA.encode()) == (right == NA.encode())


def _is_called_by_its_scores(columns: Sequence[bytes], values: Sequence[bytes]) -> bool:
    """Whether the call is that of the larger score; equal texts may stand for scores that differ."""
    row = dict(zip(columns, values, strict=True))
    call = row.get(b"prediction")
    if call is None or call == NA.encode():
        return True
    try:
        virus, nonvirus = float(row[b"virus_score"]), float(row[b"nonvirus_score"])
    except ValueError:
        return False
    return call in (b"virus", b"non-virus") and (virus == nonvirus or (virus > nonvirus) == (call == b"virus"))


def unknown_scores(scores: Scores) -> Scores:
    """Any score for every fragment that has not failed."""
    any_score = np.where(scores.failed, np.nan, 0.5).astype(np.float32)
    return Scores(any_score, any_score, scores.failed)


def problems(
    folder: RunFolder,
    summary: StoreSummary,
    scores: Scores,
    sources: Sequence[str],
    consensus: str,
    *,
    known: bool,
    legacy: bool,
    judging: Judging | None = None,
    shortest_chunk: int = 0,
) -> Iterator[str]:
    """The first problem of each table, with `legacy` also of the original's two files.

    `known`: whether `scores` are those of the classifier that the tables come from; else any, see `unknown_scores`.
    `judging`: by what they were judged. `shortest_chunk`: bases of the shortest chunk that was judged, 0 for every one.
    """
    scores = write_results.withheld(folder, summary, scores, shortest_chunk)
    with ExitStack() as stack:
        files = {name: _table(name, table_path(folder.path, name), known, stack) for name in tables.COLUMNS}
        try:
            write_results.fill_tables(
                files, folder, summary, scores, sources, consensus, judging=judging, shortest_chunk=shortest_chunk
            )
        except StorageError as error:
            yield str(error)
            return
        for each in files.values():
            yield from each.finish()
        if not legacy or files["fragments"].problem is not None:
            return
        fragments, chunks = (
            _opened(folder.path / name, () if known else free, stack)
            for name, free in zip(LEGACY, FREE_LEGACY, strict=True)
        )
        virnucpro_files.fill_virnucpro_files(fragments, chunks, table_path(folder.path, "fragments"), scores)
        yield from fragments.finish()
        yield from chunks.finish()


def _table(name: str, path: Path, known: bool, stack: ExitStack) -> Compared:
    """One of the three tables; an earlier version wrote the first columns only."""
    free = () if known else FREE[name]
    opened = _opened(path, free, stack)
    if opened.file is None:
        return opened
    try:
        first = tables.COLUMNS[name][: tables.FIRST_COLUMNS[name]]
        if opened.file.readline(LONGER) == ("\t".join(first) + "\n").encode():
            opened.n_columns = len(first)
        opened.file.seek(0)
    except DAMAGED_GZIP as error:
        return Compared(path, None, free, f"{path}: is damaged: {error}")
    return opened


def _opened(path: Path, free: Sequence[str], stack: ExitStack) -> Compared:
    try:
        return Compared(path, stack.enter_context(opened_text(path)), free)
    except StorageError as error:
        return Compared(path, None, free, str(error))
