"""A run's tables, read row by row and by the names of their columns.

Enters: a folder that holds sequences.tsv, chunks.tsv and fragments.tsv, or the same with .gz. Leaves: rows as texts.
Promises: memory for BLOCK_BYTES and one row; columns may have been added, a row that has not as many cells as its
header is an error.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vpdist.storage.atomic_files import DamagedFile, open_regular, read_error

NA = "NA"
INTEGERS = frozenset(
    "length n_chunks n_scored_chunks n_fragments n_virus_chunks chunk start end frame n_embedded".split()
)
FLOATS = frozenset("virus_score nonvirus_score margin probability q_value p_value".split())
"""Columns of numbers; all others are texts."""
DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
LONGEST_ROW = 1 << 24
"""Bytes, its line break included; a header of the input may take 1 MiB."""
BLOCK_BYTES = 1 << 16
"""Of a table that are read at once: less than the longest row."""


@dataclass(slots=True)
class Table:
    """An open table."""

    path: Path
    columns: tuple[str, ...]
    lines: Iterator[bytes]
    """The rows that have not been read."""
    line: bytes
    """The row that was read last, the header before there is one; without its line break."""

    def __iter__(self) -> Iterator[list[str]]:
        """Its rows, once. Raises DamagedFile naming the row, StorageError where it cannot be read."""
        width = len(self.columns)
        for number, line in enumerate(self.lines, 1):
            self.line = line
            try:
                cells = line.decode().split("\t")
            except UnicodeDecodeError as error:
                raise DamagedFile(f"{self.path}: row {number:,} is not UTF-8") from error
            if len(cells) != width:
                raise DamagedFile(f"{self.path}: row {number:,} has {len(cells)} cells, its header names {width}")
            yield cells

    def position(self, name: str) -> int:
        """Of a column. Raises DamagedFile where there is none of that name."""
        if name not in self.columns:
            raise DamagedFile(f"{self.path}: has no column {name}")
        return self.columns.index(name)

    def positions(self, *names: str) -> tuple[int, ...]:
        return tuple(map(self.position, names))


def table_path(folder: Path, name: str) -> Path:
    """Where the table `name` (sequences, chunks, fragments) lies: as text, or compressed where it is not there so."""
    plain, compressed = folder / f"{name}.tsv", folder / f"{name}.tsv.gz"
    return compressed if compressed.exists() and not plain.exists() else plain


@contextmanager
def opened_table(folder: Path, name: str, before_block: Callable[[], None] = lambda: None) -> Iterator[Table]:
    """The table `name` of a folder; `before_block` is called before each of its blocks is read. Raises DamagedFile for
    one that is absent or none, StorageError."""
    path = table_path(folder, name)
    with opened_text(path) as file:
        lines = _lines(file, path, before_block)
        header = next(lines, b"")
        try:
            columns = tuple(header.decode().split("\t"))
        except UnicodeDecodeError as error:
            raise DamagedFile(f"{path}: its header is not UTF-8") from error
        if columns == ("",) or len(set(columns)) < len(columns):
            raise DamagedFile(f"{path}: has no header with a name for each column")
        yield Table(path, columns, lines, header)


@contextmanager
def opened_text(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a regular file, decompressed where its name ends with .gz. Raises DamagedFile, StorageError."""
    try:
        file = open_regular(path)
    except OSError as error:
        raise read_error(path, error) from error
    with file:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as text:
                yield text  # type: ignore[misc]  # it reads as a binary file does
        else:
            yield file


def _lines(file: BinaryIO, path: Path, before_block: Callable[[], None]) -> Iterator[bytes]:
    """Without their line breaks."""
    rest, incomplete = b"", f"{path}: its last row is not complete"
    while block := _read(file, path, before_block):
        lines = (rest + block).split(b"\n")
        if len(lines[0]) >= LONGEST_ROW:
            raise DamagedFile(incomplete)
        rest = lines.pop()
        yield from lines
    if rest:
        raise DamagedFile(incomplete)


def _read(file: BinaryIO, path: Path, before_block: Callable[[], None]) -> bytes:
    before_block()
    try:
        return file.read(BLOCK_BYTES)
    except DAMAGED_GZIP as error:
        raise DamagedFile(f"{path}: is damaged: {error}") from error
    except OSError as error:
        raise read_error(path, error) from error
