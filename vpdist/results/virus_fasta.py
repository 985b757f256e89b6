"""virus.fna.gz: the sequences called virus as they stand in the input, with their headers and letters.

Enter: the input files, and which of their records are wanted. Leaves: FASTA, compressed without a time, so that the
same sequences are the same bytes. Promises: a file without a wanted record is not opened, reading ends with the last
one; memory for one record.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vpdist.errors import InputError
from vpdist.sequences.input_files import call_while_waiting
from vpdist.sequences.records import WrittenRecord, read_as_written
from vpdist.storage.atomic_files import replacing
from vpdist.urls import InputPath

LINE = 80
"""Letters of a line."""
LETTERS_AT_ONCE = 1000 * LINE
"""That are compressed in one call, which takes 2 us more than its letters do."""
LEVEL = 6
"""Of gzip's compression."""
LETTERS_BETWEEN, LETTERS_OF_A_RECORD = 1 << 22, 1 << 12
"""Letters that are read until it is looked whether the run must end; a record counts as at least so many."""

Expected = Callable[[int], tuple[str, int]]
"""Name and bases of a record, by its number in the whole input."""


@contextmanager
def compressed(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, compressed by gzip with no name and no time in its header; see `replacing`."""
    with replacing(path) as file, gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
        yield packed  # type: ignore[misc]  # it takes bytes as a binary file does


def write_virus_fasta(
    target: Path,
    paths: Sequence[InputPath],
    first_record: np.ndarray,
    wanted: np.ndarray,
    expected: Expected,
    raise_if_ending: Callable[[], None],
) -> None:
    """Write `target` from the input.

    Args:
        paths: each input file.
        first_record: (files + 1,) number of the first record of each file in the whole input.
        wanted: (n,) numbers of the records to write, ascending.
        expected: what a wanted record must be.
        raise_if_ending: called between records, and while an object's host is silent.

    Raises InputError where a file cannot be read, or does not hold what it held when the run read it; StorageError.
    """
    with compressed(target) as file:
        for number in files_with(first_record, wanted):
            first, end = int(first_record[number]), int(first_record[number + 1])
            inside = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, end)] - first
            for record, index in _chosen(paths[number], inside, raise_if_ending):
                _write(file, record, *expected(first + index), path=str(paths[number]))


def files_with(first_record: np.ndarray, wanted: np.ndarray) -> list[int]:
    """The files that hold a wanted record."""
    return np.unique(np.searchsorted(first_record, wanted, side="right") - 1).tolist()


def _chosen(
    path: InputPath, chosen: np.ndarray, raise_if_ending: Callable[[], None]
) -> Iterator[tuple[WrittenRecord, int]]:
    """The records of a file whose numbers are in `chosen` (ascending, not empty), each with its number."""
    left = iter(chosen.tolist())
    following = next(left)
    read = LETTERS_BETWEEN
    for index, record in enumerate(read_as_written(path, partial(call_while_waiting, waiting=raise_if_ending))):
        read += max(LETTERS_OF_A_RECORD, len(record.letters))
        if read >= LETTERS_BETWEEN:
            raise_if_ending()
            read = 0
        if index == following:
            yield record, index
            if (following := next(left, -1)) < 0:
                return
        del record
    raise InputError("has fewer records than when the run read it", path=str(path))


def _write(file: BinaryIO, record: WrittenRecord, name: str, length: int, *, path: str) -> None:
    letters = "".join(record.letters.split())
    if len(letters) != length or not (record.name == name or name.startswith(f"{record.name}__")):
        raise InputError("is not the record that the run read: the file has changed", path=path, record=record.name)
    file.write(b">" + record.header.encode("utf-8", "surrogateescape") + b"\n")
    for first in range(0, len(letters), LETTERS_AT_ONCE):
        piece = letters[first : first + LETTERS_AT_ONCE]
        lines = "".join(f"{piece[start : start + LINE]}\n" for start in range(0, len(piece), LINE))
        file.write(lines.encode("utf-8", "surrogateescape"))
