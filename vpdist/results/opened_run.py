"""A run folder as Python objects: tables as data frames, embeddings of one sequence read when they are asked for.

Enters: a run folder. Leaves: pandas data frames where pandas is installed, else numpy's structured arrays. Promises:
nothing is read before it is asked for, and of embeddings only the parts that hold the sequence.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from vpdist.encoder_kinds import KINDS
from vpdist.results import parts
from vpdist.results.embedded_run import EmbeddedRun, finished_run, fragment_records
from vpdist.results.table_files import FLOATS, INTEGERS, NA, opened_table, table_path
from vpdist.sequences.unique_names import name_hashes
from vpdist.storage.atomic_files import DamagedFile, read_json
from vpdist.storage.run_folder import RunFolder

PARTS_KEPT = 4
MISSING = (*FLOATS, "prediction", "call")
"""Columns in which NA is no text but a missing value."""


class Run:
    """A run folder, read lazily. Files that change while a Run is used are not read again."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Raises UsageError where `path` holds no run, StorageError where that cannot be known."""
        self.path = Path(path)
        self._folder = RunFolder(self.path)
        self._folder.check_holds_run()
        self._parts: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def status(self) -> dict[str, Any]:
        """status.json as it is now: state, exit_code, message. Empty where there is none. Raises StorageError."""
        return read_json(self._folder.status) or {}

    @property
    def info(self) -> dict[str, Any]:
        """run.json: settings, versions, model, warnings. Raises StorageError."""
        return read_json(self._folder.run) or {}

    @cached_property
    def sequences(self) -> Any:
        """sequences.tsv: a row per sequence. Raises DamagedFile, StorageError."""
        return read_frame(self.path, "sequences")

    @cached_property
    def chunks(self) -> Any:
        """chunks.tsv: a row per chunk. Raises DamagedFile, StorageError."""
        return read_frame(self.path, "chunks")

    @cached_property
    def fragments(self) -> Any:
        """fragments.tsv: a row per fragment. Raises DamagedFile, StorageError."""
        return read_frame(self.path, "fragments")

    def embeddings(self, seq_name: str) -> dict[str, np.ndarray]:
        """The embeddings of a sequence by kind of encoder ("nucleotide", "protein").

        (m, width) each, as stored, for its m fragments in the order of fragments.tsv; NaN where a fragment has failed.

        Raises KeyError for a name that is not in sequences.tsv, UsageError where the run has no embeddings or is not
        complete, DamagedFile, StorageError.
        """
        run, record = self._embedded, self._record(seq_name)
        first, end = np.searchsorted(self._fragment_records, [record, record + 1]).tolist()
        found = {
            kind: np.full((end - first, width), np.nan, run.dtype)
            for kind, width in zip(run.kinds, run.widths, strict=True)
        }
        fragment = run.plan.fragment
        positions = np.flatnonzero((fragment >= first) & (fragment < end))
        rows = np.searchsorted(run.plan.row_start, positions, side="right") - 1
        units = np.searchsorted(run.plan.unit_row, rows, side="right") - 1
        for unit in np.unique(units).tolist():
            part, chosen = self._part(unit), units == unit
            row = rows[chosen] - run.plan.rows(unit).start
            sound = part["failed"][row] == 0
            target = fragment[positions[chosen][sound]] - first
            for kind, array in found.items():
                array[target] = part[kind][row[sound]]
        return found

    @cached_property
    def _embedded(self) -> EmbeddedRun:
        return finished_run(self._folder, KINDS)

    @cached_property
    def _fragment_records(self) -> np.ndarray:
        return fragment_records(self._folder, self._embedded.summary)

    @cached_property
    def _names(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of all names, ascending, and the record of each."""
        with opened_table(self.path, "sequences") as table:
            position = table.position("seq_name")
            hashes = name_hashes(row[position] for row in table)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def _record(self, seq_name: str) -> int:
        hashes, order = self._names
        wanted = name_hashes([seq_name])
        position = int(np.searchsorted(hashes, wanted)[0])
        if position == len(hashes) or hashes[position] != wanted[0]:
            raise KeyError(seq_name)
        return int(order[position])

    def _part(self, unit: int) -> dict[str, np.ndarray]:
        """A part with its digests checked; the latest few stay in memory."""
        if unit not in self._parts:
            run = self._embedded
            parts.check(self._folder.parts, unit, run.plan, run.header, full=False)
            self._parts[unit] = parts.read(self._folder.parts, unit, ("failed", *run.kinds))
            while len(self._parts) > PARTS_KEPT:
                self._parts.popitem(last=False)
        return self._parts[unit]


def read_frame(folder: Path, name: str) -> Any:
    """A table of a run folder as a data frame, or as a structured array where pandas is not installed.

    Numbers are int64 and float64, missing scores NaN; names are texts, also those that look like numbers or are NA. A
    missing call is NaN in a data frame, "NA" in a structured array. Raises DamagedFile, StorageError.
    """
    try:
        import pandas
    except ImportError:
        return read_array(folder, name)
    with opened_table(folder, name) as table:
        columns = table.columns
    path = table_path(folder, name)
    types: dict[str, Any] = {column: np.int64 if column in INTEGERS else str for column in columns}
    types |= {column: np.float64 for column in columns if column in FLOATS}
    try:
        return pandas.read_csv(
            path,
            sep="\t",
            quoting=3,  # csv.QUOTE_NONE
            encoding="utf-8",
            dtype=types,
            keep_default_na=False,
            na_values={column: [NA] for column in columns if column in MISSING},
            lineterminator="\n",
        )
    except ValueError as error:
        raise DamagedFile(f"{path}: is not a table of a run: {error}") from error


def read_array(folder: Path, name: str) -> np.ndarray:
    """A table of a run folder as a structured array with a field per column."""
    with opened_table(folder, name) as table:
        rows = [tuple(row) for row in table]
        types = [
            (column, np.int64 if column in INTEGERS else np.float64 if column in FLOATS else np.object_)
            for column in table.columns
        ]
        missing = [position for position, column in enumerate(table.columns) if column in FLOATS]
        try:
            return np.array([_with_nan(row, missing) for row in rows], dtype=types)
        except ValueError as error:
            raise DamagedFile(f"{table.path}: is not a table of a run: {error}") from error


def _with_nan(row: tuple[str, ...], positions: list[int]) -> tuple[str, ...]:
    cells = list(row)
    for position in positions:
        cells[position] = "nan" if cells[position] == NA else cells[position]
    return tuple(cells)
