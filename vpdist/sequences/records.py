"""Sequence files to records.

Enter: FASTA or FASTQ, plain, gz, bz2, xz or zst, recognised by content. Leave: one record after the other, in upper
case with U read as T; IUPAC letters and the gaps '-' and '.' are kept. Promises: memory for one record at a
time, and every fault of the input is an InputError that names file, record and position, unless letters that are no
nucleotides are to be read as N, which is reported; nothing is skipped silently.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, TypeVar

from dnaio import FastaReader
from dnaio.exceptions import FileFormatError

from vpdist.errors import InputError
from vpdist.sequences import decompression, other_formats
from vpdist.sequences.fastq import read_fastq
from vpdist.sequences.input_files import opened_input
from vpdist.sequences.input_report import CutFile, InputReport
from vpdist.text import shortened, without_open_quotes
from vpdist.urls import InputPath

UNNAMED = "unnamed"
"""Name of a record whose header is empty."""
LONGEST_RECORD = 1 << 31
"""Bytes of a FASTA record, plus LINE_BYTES per line: the memory it takes while it is read. The largest human chromosome
takes a fifth of this; a compressed file of a few megabytes could hold a record of any size."""
LINE_BYTES = 32
LONGEST_HEADER = 1 << 20
"""Characters."""
MOST_OF_REASON = 160
"""Letters of what the reader says of a file: it may quote a whole line."""

_PIECE = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BAD = b"\0"
_READ_AS = dict(zip("ACGTUNRYSWKMBDHV-. \t", "ACGTTNRYSWKMBDHV-.  ", strict=True))
_LETTER_TABLE = bytes(ord(_READ_AS.get(chr(byte).upper(), "\0")) for byte in range(256))


@dataclass(frozen=True, slots=True)
class Record:
    """One sequence of the input."""

    name: str
    """The header's first word; UNNAMED where the header is empty. Quotes: see `without_open_quotes`."""
    description: str
    """The rest of the header; tabs and other control characters are spaces, quotes as in the name."""
    source: str
    """The input file, as given."""
    sequence: bytes
    """Upper-case ASCII: IUPAC nucleotide letters without U, '-' and '.'."""


@dataclass(frozen=True, slots=True)
class WrittenRecord:
    """One sequence as it stands in its file."""

    name: str
    """That of its `Record`."""
    header: str
    """Without '>' or '@'; bytes that are not UTF-8 are surrogates ("surrogateescape")."""
    letters: str
    """As in the header; lines are joined, white space inside them is kept."""


def read_records(
    paths: Sequence[InputPath],
    report: InputReport | None = None,
    *,
    replace_unknown: bool = False,
    opened: Callable[[BinaryIO], None] = lambda file: None,
) -> Iterator[Record]:
    """The records of all files, in order. What must be told is added to `report`; `opened` is given each file, to tell
    by its position how much of it is read.

    A file that is empty, or holds nothing but white space and comments, has none.

    White space inside a sequence is dropped, as are blank lines (in FASTQ: at the end of the file) and FASTA lines
    that begin with '#'. Bytes of a FASTA header that are not UTF-8 are written out as `\\xNN`.

    Raises InputError for a file that cannot be read, is damaged, is neither FASTA nor FASTQ, or holds letters that are
    not nucleotides, unless `replace_unknown` says that they are read as N. A '>' inside of a line is always refused.
    """
    report = report if report is not None else InputReport()
    for number, path in enumerate(paths):
        replaced = partial(report.add_replaced, number) if replace_unknown else None
        yield from _read_file(path, number, report, partial(_record, str(path), replaced), opened)


def read_as_written(path: InputPath, opened: Callable[[BinaryIO], None] = lambda file: None) -> Iterator[WrittenRecord]:
    """The records of a file that `read_records` has read, in its order, with their headers and letters as they stand
    there. Raises InputError."""
    name, report = str(path), InputReport()
    yield from _read_file(path, 0, report, lambda head, text: WrittenRecord(_texts(head, name)[0], head, text), opened)


class _Bounded(io.RawIOBase):
    """A FASTA file. Raises InputError for a record that takes more than LONGEST_RECORD."""

    def __init__(self, file: io.BufferedReader, source: str) -> None:
        self._file, self._source, self._last = file, source, b"\n"
        self._read = self._begin = self._size = 0  # bytes read, bytes before the record, size of the record so far

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._file.read1(len(buffer))
        header = max(block.rfind(b"\n>"), block.rfind(b"\r>"))
        if header < 0 and self._last in b"\r\n" and block.startswith(b">"):
            header = 0
        if header >= 0:
            self._begin, self._size = self._read + header, 0
        begin = max(header, 0)
        self._size += len(block) - begin + LINE_BYTES * block.count(b"\n", begin)
        if self._size > LONGEST_RECORD:
            reason = f"a record takes more than {LONGEST_RECORD >> 20} MiB"
            raise InputError(reason, path=self._source, position=f"after byte {self._begin:,}")
        self._read += len(block)
        self._last = block[-1:] or self._last
        buffer[: len(block)] = block
        return len(block)


class _Fasta(FastaReader):
    """dnaio's reader with UTF-8 headers for any locale; yields what `make` makes of header and letters."""

    def __init__(self, file: BinaryIO, make: Callable[[str, str], Any]) -> None:
        super().__init__(file, sequence_class=lambda header, letters, _: make(header, letters))
        self._file.reconfigure(encoding="utf-8-sig", errors="surrogateescape")


Replaced = Callable[[str, int, str], None]
"""Takes a record's name, how many of its letters are read as N, and the first of them."""
Made = TypeVar("Made", Record, WrittenRecord)


def _read_file(
    path: InputPath,
    number: int,
    report: InputReport,
    make: Callable[[str, str], Made],
    opened: Callable[[BinaryIO], None] = lambda file: None,
) -> Iterator[Made]:
    source, count, name, compression = str(path), 0, None, None
    try:
        with opened_input(path) as file:
            opened(file)
            compression = decompression.find_compression(file)
            missing = decompression.missing_end(file, compression)
            content = decompression.decompressed(file, compression)
            for record in _records(content, source, partial(_reopened, path, compression, file), make):
                count, name = count + 1, record.name
                yield record
                del record  # free the memory of a chromosome before the next one is read
        if count == 0:
            report.without_records.append(number)
        if missing is not None:
            report.cut.append(CutFile(number, missing, name))
    except FileFormatError as error:
        position = f"after {count} complete records" if error.line is None else f"line {error.line + 1}"
        reason = " ".join(error.message.split())
        raise InputError(
            f"not valid {error.format}: {shortened(reason, MOST_OF_REASON)}", path=source, position=position
        ) from error
    except decompression.DECOMPRESSION_ERRORS as error:
        before_first = "before the first complete record" if compression else None
        location = f"after {count} complete records" if count else before_first
        reason = decompression.describe_damage(error, compression)
        raise InputError(reason, path=source, record=name, position=location) from error


@contextmanager
def _reopened(path: InputPath, compression: str | None, first: BinaryIO) -> Iterator[BinaryIO]:
    with opened_input(path, like=first) as file:
        yield decompression.decompressed(file, compression)


def _records(
    content: io.BufferedReader,
    source: str,
    reopen: Callable[[], AbstractContextManager[BinaryIO]],
    make: Callable[[str, str], Made],
) -> Iterator[Made]:
    start = content.peek(other_formats.START_BYTES)
    if not start:
        return
    text = start.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if (named := other_formats.named_format(start)) is not None:
        raise InputError(named, path=source, position="line 1")
    if text.startswith(b"@"):
        for header, letters in read_fastq(content, reopen):
            yield make(header, letters)
    elif text.startswith((b">", b"#")) or not text:
        bounded = io.BufferedReader(_Bounded(content, source), decompression.BUFFER_BYTES)
        for record in _Fasta(bounded, make):
            yield record  # type: ignore[misc]
            del record
    else:
        raise InputError(other_formats.describe_unknown(text), path=source, position="line 1")


def _record(source: str, replaced: Replaced | None, header: str, letters: str) -> Record:
    name, description = _texts(header, source)
    return Record(name, description, source, _sequence(letters, source, name, replaced))


def _texts(header: str, source: str) -> tuple[str, str]:
    """Name and description. Raises InputError for a header that is too long or binary."""
    if len(header) > LONGEST_HEADER:
        reason = f"a header has {len(header):,} characters, more than {LONGEST_HEADER:,}"
        raise InputError(reason, path=source, record=header)
    if not header.isprintable():
        if "\0" in header:
            raise InputError("binary data in a header", path=source, record=repr(header))
        header = "".join(map(_printable, header))
    words = header.split(None, 1)
    name = words[0] if words else UNNAMED
    description = words[1].rstrip() if len(words) == 2 else ""
    return without_open_quotes(name), without_open_quotes(description)


def _printable(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte that is not UTF-8, from "surrogateescape"
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return " " if letter.isspace() or unicodedata.category(letter) == "Cc" else letter


def _sequence(letters: str, source: str, name: str, replaced: Replaced | None) -> bytes:
    """Letters in upper case, U as T, without white space. Those that are not nucleotides are N and reported to
    `replaced`; without it, and for '>', raises InputError."""
    if len(letters) <= _PIECE:
        sequence = letters.encode("ascii", "replace").translate(_LETTER_TABLE)
    else:  # a chromosome, in pieces: no second copy of it is made
        pieces = io.BytesIO()
        for start in range(0, len(letters), _PIECE):
            pieces.write(letters[start : start + _PIECE].encode("ascii", "replace").translate(_LETTER_TABLE))
        sequence = pieces.getvalue()
    if b" " in sequence:
        sequence = sequence.replace(b" ", b"")
        letters = letters.replace(" ", "").replace("\t", "")
    position = sequence.find(_BAD)
    if position < 0:
        return sequence
    letter = letters[position]
    if replaced is not None and ">" not in letters:
        replaced(name, sequence.count(_BAD), letter)
        return sequence.replace(_BAD, b"N")
    as_n = "; --replace-unknown reads such letters as N"
    if letter == ">" or replaced is not None:
        position, letter, as_n = letters.index(">"), ">", ""
        hint = "a header inside a line; was this file joined from files without a final line break?"
    elif (letter.isascii() and letter.isalpha()) or letter == "*":
        hint = "is this a protein? vpdist reads nucleotides (IUPAC letters, '-' and '.')"
    else:
        hint = "vpdist reads nucleotides (IUPAC letters, '-' and '.')"
    raise InputError(
        f"unexpected letter {letter!r}: {hint}{as_n}", path=source, record=name, position=f"letter {position + 1}"
    )
