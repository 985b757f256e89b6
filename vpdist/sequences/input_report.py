"""What reading finds that is no error and yet must be told: files that were cut off, files without records, letters
that were read as N, objects of a manifest that could not be read.

It is kept in the token store, so that a run that is resumed tells it as well. Files are named by their index, as the
names under which users know them are not always the paths that were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vpdist.errors import StorageError
from vpdist.text import NAME_LETTERS, printable, shortened

MOST_NAMED = 10
"""Of more files than this without records, so many are named in the warning."""


@dataclass(frozen=True, slots=True)
class CutFile:
    """A file that can be read to its end, but lacks what its format ends with."""

    file: int
    """Index of the input file."""
    missing: str
    """What it lacks."""
    last_record: str | None
    """Name of the last record, which may be incomplete; None where there is none."""

    @property
    def end(self) -> str:
        """How the file ends."""
        if self.last_record is None:
            return "and holds no record"
        return f"and its last record, {shortened(self.last_record, NAME_LETTERS)}, may be short"


@dataclass(slots=True)
class ReplacedLetters:
    """Letters that are no nucleotides and were read as N."""

    file: int
    """Index of the first input file with one."""
    record: str
    """Name of its first record with one."""
    letter: str
    """The first."""
    letters: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class FailedObject:
    """An object of a manifest of which nothing was taken."""

    file: int
    """Index of the input."""
    reason: str
    """Why it failed, with record and position."""


@dataclass(slots=True)
class InputReport:
    """All that reading found, in the order of the input."""

    cut: list[CutFile] = field(default_factory=list)
    without_records: list[int] = field(default_factory=list)
    """Indices of the files that hold no record."""
    replaced: ReplacedLetters | None = None
    failed: list[FailedObject] = field(default_factory=list)

    def add(self, of: InputReport, shift: int) -> None:
        """What reading further files found, whose indices are from 0 there, and from `shift` here."""
        self.cut += [replace(each, file=each.file + shift) for each in of.cut]
        self.without_records += [number + shift for number in of.without_records]
        self.failed += [replace(each, file=each.file + shift) for each in of.failed]
        if of.replaced is not None and self.replaced is not None:
            self.replaced.letters += of.replaced.letters
            self.replaced.records += of.replaced.records
        elif of.replaced is not None:
            self.replaced = replace(of.replaced, file=of.replaced.file + shift)

    def to_dict(self) -> dict[str, Any]:
        """As it is kept in the token store."""
        fields = asdict(self)
        if not self.failed:
            del fields["failed"]  # so that stores of other runs stay as they are
        return fields

    def add_replaced(self, file: int, record: str, letters: int, first: str) -> None:
        """So many letters of a record were read as N; `first` was the first of them."""
        self.replaced = self.replaced or ReplacedLetters(file, record, first)
        self.replaced.letters += letters
        self.replaced.records += 1

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> InputReport:
        """Raises AttributeError, KeyError, TypeError or ValueError unless `fields` are those of a report."""
        cut = [CutFile(**file) for file in fields.get("cut", [])]
        if any(type(file.missing) is not str or type(file.last_record) not in (str, type(None)) for file in cut):
            raise ValueError("what is told of a file is not a text")
        without_records = list(fields.get("without_records", []))
        if any(type(number) is not int or number < 0 for number in (*without_records, *(file.file for file in cut))):
            raise ValueError("the index of a file is not a number")
        failed = [FailedObject(**each) for each in fields.get("failed", [])]
        if any(type(each.file) is not int or each.file < 0 or type(each.reason) is not str for each in failed):
            raise ValueError("what is told of an object that failed is not its number and a text")
        replaced = None if (found := fields.get("replaced")) is None else ReplacedLetters(**found)
        if replaced is not None:
            if any(type(text) is not str for text in (replaced.record, replaced.letter)):
                raise ValueError("what is told of a letter is not a text")
            if any(type(n) is not int or n < 0 for n in (replaced.file, replaced.letters, replaced.records)):
                raise ValueError("a count of letters is not a number")
        return cls(cut, without_records, replaced, failed)

    def warnings(self, names: Sequence[str]) -> list[str]:
        """A line for each finding; `names` of the input files. Raises StorageError for a file that is none of them."""
        lines = [
            printable(f"warning: {_name(names, file.file)} has no {file.missing}: it was probably cut off, {file.end}")
            for file in self.cut
        ]
        empty = self.names_without_records(names)
        if 0 < len(empty) < len(names):
            listed = ", ".join(empty[:MOST_NAMED]) + (", ... (run.json names all)" if len(empty) > MOST_NAMED else "")
            lines.append(f"warning: {len(empty):,} of {len(names):,} files hold no sequences: {listed}")
        for each in self.failed[:MOST_NAMED]:
            lines.append(printable(f"FAILED: {_name(names, each.file)}: {each.reason}"))
        if self.failed:
            others = f", {len(self.failed) - MOST_NAMED:,} of them not named here" * (len(self.failed) > MOST_NAMED)
            lines.append(
                f"{len(self.failed):,} of {len(names):,} objects FAILED{others}; summary.tsv has all reasons, "
                f"--retry-failed reads them again"
            )
        if self.replaced is not None:
            where, name = _name(names, self.replaced.file), shortened(self.replaced.record, NAME_LETTERS)
            lines.append(
                printable(
                    f"warning: {self.replaced.letters:,} letters of {self.replaced.records:,} sequences are no "
                    f"nucleotides and were read as N, the first {self.replaced.letter!r} in {name} of {where}"
                )
            )
        return lines

    def names_without_records(self, names: Sequence[str]) -> list[str]:
        """Names of the files that hold no record. Raises StorageError as above."""
        return [printable(_name(names, file)) for file in self.without_records]


def _name(names: Sequence[str], file: int) -> str:
    if file >= len(names):
        raise StorageError("token store: tells of a file that the run did not read")
    return names[file]
