"""FASTQ to headers and letters: dnaio reads records of four lines, this module also those that are wrapped.

A wrapped record has its letters and its qualities on several lines each. As htslib does, letters are read up to the
line that begins with '+', then qualities until there are as many as letters; a line of qualities may begin with '@'.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import chain, islice
from typing import BinaryIO

from dnaio import FastqReader
from dnaio.exceptions import FastqFormatError, FileFormatError

from vpdist.sequences import decompression

LONGEST_LINE = 1 << 28
"""Bytes of a FASTQ line, and of the letters of a wrapped record."""
_LARGE_PIECE = 1 << 24

Entry = tuple[str, str]
"""Header, without the '@', and letters."""


def read_fastq(content: io.BufferedReader, reopen: Callable[[], AbstractContextManager[BinaryIO]]) -> Iterator[Entry]:
    """All entries of a FASTQ file. `reopen` gives its content from the beginning, for files with wrapped records.

    Raises FileFormatError with the line's number.
    """
    lines, count = _CountedLines(content), 0
    try:
        for entry in FastqReader(lines):  # type: ignore[arg-type]
            count += 1
            yield entry.name, entry.sequence
        return
    except _RefusedBytesError:
        raise
    except FileFormatError as error:
        if lines.blank_from(4 * count):
            return
        refused = error
    with reopen() as again:
        entries = _wrapped_entries(again, 4 * count)
        try:
            first = next(entries, None)
        except FileFormatError:
            first = None
        if first is None:  # it is not a wrapped record either
            raise refused
        yield first
        yield from entries


class _RefusedBytesError(FastqFormatError):
    """Bytes that no FASTQ file may have."""


class _CountedLines:
    """A file for dnaio's FASTQ reader; `last_line` is its last line so far that is not blank (from 0)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._lines, self.last_line, self._open = file, 0, -1, 0

    def read(self, size: int) -> bytes:
        """Raises _RefusedBytesError for a byte that is not ASCII, or a line of more than LONGEST_LINE."""
        block = self._file.read(min(size, _LARGE_PIECE))
        lines = self._lines
        end = block.rfind(b"\n")
        self._open = len(block) - 1 - end + (self._open if end < 0 else 0)
        if self._open > LONGEST_LINE:
            raise _too_long(lines + block.count(b"\n"))
        text = block.rstrip(b"\r\n")
        if text:
            self.last_line = lines + text.count(b"\n")
        self._lines = lines + block.count(b"\n")
        if not block.isascii():  # dnaio would refuse it without the position
            first = next(position for position, byte in enumerate(block) if byte > 127)
            raise _not_ascii(block[first], lines + block.count(b"\n", 0, first))
        return block

    def blank_from(self, line: int) -> bool:
        """Whether no text follows from `line` on; reads on until that is known."""
        while self.last_line < line and self.read(decompression.BUFFER_BYTES):
            pass
        return self.last_line < line


def _wrapped_entries(content: BinaryIO, first_line: int) -> Iterator[Entry]:
    """The entries from line `first_line` (from 0) on, each on any number of lines. Raises FastqFormatError."""
    lines = islice(_numbered_lines(content), first_line, None)
    for number, header in lines:
        if not header.startswith(b"@"):
            if any(chain([header], (line for _, line in lines))):
                raise FastqFormatError("Line expected to start with '@'", number)
            return
        letters = _letters(lines, header[1:], number)
        _skip_qualities(lines, len(letters), number)
        yield header[1:].decode("ascii"), letters.decode("ascii")


def _numbered_lines(content: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line's number (from 0) and its bytes, without the line break. Raises _RefusedBytesError."""
    number = 0
    while line := content.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise _too_long(number)
        if not line.isascii():
            raise _not_ascii(next(byte for byte in line if byte > 127), number)
        yield number, line.rstrip(b"\r\n")
        number += 1


def _letters(lines: Iterator[tuple[int, bytes]], header: bytes, number: int) -> bytearray:
    """Letters up to the line that begins with '+', which is read as well."""
    letters = bytearray()
    for number, line in lines:
        if line.startswith(b"+"):
            if line[1:] not in (b"", header):
                raise FastqFormatError("Sequence descriptions don't match", number)
            return letters
        if line.startswith(b"@"):
            raise FastqFormatError("Line expected to start with '+'", number)
        letters += line
        if len(letters) > LONGEST_LINE:
            raise _too_long(number)
    raise FastqFormatError("Premature end of file encountered", number)


def _skip_qualities(lines: Iterator[tuple[int, bytes]], n_letters: int, number: int) -> None:
    """Read as many qualities as there are letters, one line at least."""
    n_qualities = 0
    for number, line in lines:  # noqa: B007 - it names the last line
        n_qualities += len(line)
        if n_qualities >= n_letters:
            break
    if n_qualities != n_letters:
        raise FastqFormatError("Length of sequence and qualities differ", number)


def _too_long(line: int) -> _RefusedBytesError:
    return _RefusedBytesError(f"a line has more than {LONGEST_LINE >> 20} MiB", line)


def _not_ascii(byte: int, line: int) -> _RefusedBytesError:
    return _RefusedBytesError(f"byte {byte:#x} is not ASCII, as FASTQ must be", line)
