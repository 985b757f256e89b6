"""The sequences of a report, as columns: all of them, or those with the highest virus scores.

Enters: sequences.tsv. Leaves: columns of the sequences that are shown, and counts over all. Promises: memory for 8
bytes a sequence of the run, and for the rows that are shown.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpdist.report.packed import Column, scores
from vpdist.results.call_files import CallOf, SourceCounts, are_calibrated
from vpdist.results.flags import NO_FLAG
from vpdist.results.table_files import NA, Table, opened_table
from vpdist.storage.atomic_files import DamagedFile
from vpdist.text import shortened

MOST_SEQUENCES = 100_000
MOST_WITH_DESCRIPTIONS = 20_000
"""Descriptions take more room than all else: with more sequences they are left out."""
NAME_LETTERS, DESCRIPTION_LETTERS = 200, 120
BINS = 20
CLASSES = (0, 300, 500, 1_000, 3_000, 10_000)
"""Least bases of each class of lengths."""
CALLS = {NA: 0, "non-virus": 1, "virus": 2, "uncertain": 3}
NO_FLAGS = (NA, NO_FLAG, "")
FURTHER = ("probability", "q_value", "p_value")
"""Columns of calibrated models."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The m sequences of a report."""

    columns: dict[str, Column]
    record: np.ndarray
    """(m,) int64 number of each in sequences.tsv, ascending."""
    score: np.ndarray
    """(m,) float64 virus score, NaN where there is none."""
    names: list[str]
    """As in the tables."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What holds for all sequences of the run."""

    n: int
    sources: dict[str, SourceCounts]
    classes: list[dict[str, Any]]
    """Of each class of lengths: name, total, counts of virus scores in BINS bins."""
    wanted: np.ndarray
    """(n,) bool: is shown."""


def count_sequences(folder: Path, sources: list[str], most: int = MOST_SEQUENCES) -> Counted:
    """Read sequences.tsv once: counts, and which sequences are shown. Raises DamagedFile, StorageError."""
    by_score = array("d")
    counts = defaultdict(SourceCounts, {source: SourceCounts() for source in sources})
    histogram = np.zeros((len(CLASSES), BINS), np.int64)
    totals = np.zeros(len(CLASSES), np.int64)
    calibrated = are_calibrated(folder)
    with opened_table(folder, "sequences") as table:
        call = CallOf(table, calibrated=calibrated)
        source, length, score, status = table.positions("source", "length", "virus_score", "status")
        for row in table:
            bases, value = number(table, row[length], int), number(table, row[score])
            by_score.append(value)
            counts[row[source]].add(bases, row[status], scored=value == value, is_virus=call.is_virus(row))
            kind = int(np.searchsorted(CLASSES, bases, side="right")) - 1
            totals[kind] += 1
            if value == value:
                histogram[kind, min(BINS - 1, int(value * BINS))] += 1
    values = np.frombuffer(by_score, np.float64)
    wanted = np.ones(len(values), bool)
    if len(values) > most:
        wanted[:] = False
        wanted[np.argsort(np.where(np.isnan(values), 1, -values), kind="stable")[:most]] = True
    named = zip(_class_names(), totals.tolist(), histogram.tolist(), strict=True)
    classes = [{"name": name, "total": total, "counts": bins} for name, total, bins in named if total]
    return Counted(len(values), counts, classes, wanted)


def _class_names() -> list[str]:
    ends = [*CLASSES[1:], None]
    return [
        f"{least:,} bases and more" if end is None else f"{least:,} to {end - 1:,} bases" if least else f"under {end:,}"
        for least, end in zip(CLASSES, ends, strict=True)
    ]


def number(table: Table, cell: str, kind: type = float) -> Any:
    """A cell as a number; NaN for NA. Raises DamagedFile."""
    if cell == NA and kind is float:
        return float("nan")
    try:
        return kind(cell)
    except ValueError as error:
        raise DamagedFile(f"{table.path}: {shortened(cell, 60)!r} is not a number") from error


def read_shown(folder: Path, counted: Counted, statuses: list[str], flags: list[str]) -> Shown:
    """The columns of the sequences that are shown; `statuses` and `flags` are filled with the texts that columns name.

    Raises DamagedFile, StorageError."""
    source_number = {source: k for k, source in enumerate(counted.sources)}
    with_descriptions = int(counted.wanted.sum()) <= MOST_WITH_DESCRIPTIONS
    rows: list[tuple[Any, ...]] = []
    names, descriptions, records = [], [], array("q")
    calibrated = are_calibrated(folder)
    with opened_table(folder, "sequences") as table:
        call = CallOf(table, calibrated=calibrated)
        name, source, status, description = table.positions("seq_name", "source", "status", "description")
        numbers = table.positions("length", "n_chunks", "n_scored_chunks", "n_virus_chunks", "n_fragments")
        further = [column for column in FURTHER if column in table.columns]
        values = table.positions("virus_score", "nonvirus_score", *further)
        flag = table.columns.index("flags") if "flags" in table.columns else None
        for record, row in enumerate(table):
            if record >= len(counted.wanted) or not counted.wanted[record]:
                continue
            records.append(record)
            names.append(row[name])
            if with_descriptions:
                descriptions.append(shortened(row[description], DESCRIPTION_LETTERS))
            code = (
                _code(statuses, row[status]),
                0 if flag is None else _code(flags, "" if row[flag] in NO_FLAGS else row[flag]),
            )
            integers = (number(table, row[position], int) for position in numbers)
            floats = (number(table, row[position]) for position in values)
            rows.append((source_number[row[source]], CALLS.get(call.text(row), 0), *code, *integers, *floats))
    matrix = np.array(rows, np.float64).reshape(len(rows), 9 + len(values))
    kinds = {
        "source": "u4",
        "call": "u1",
        "status": "u1",
        "flags": "u2",
        "length": "u4",
        "chunks": "u4",
        "scored": "u4",
    }
    kinds |= {"nvirus": "u4", "fragments": "u4"}
    columns: dict[str, Column] = {
        "name": [shortened(each, NAME_LETTERS) for each in names],
        "description": descriptions,
    }
    columns |= {column: matrix[:, k].astype(kind) for k, (column, kind) in enumerate(kinds.items())}
    columns |= {"virus": scores(matrix[:, 9]), "nonvirus": scores(matrix[:, 10])}
    judged = {column: matrix[:, 11 + k].astype(np.float32) for k, column in enumerate(further)}
    columns |= {column: numbers for column, numbers in judged.items() if not np.isnan(numbers).all()}
    if len(flags) == 1:  # there are none
        del columns["flags"]
    return Shown(columns, np.frombuffer(records, np.int64), matrix[:, 9], names)


def _code(texts: list[str], text: str) -> int:
    """The number of a text in a list to which it is added where it is new."""
    if text not in texts:
        texts.append(text)
    return texts.index(text)
