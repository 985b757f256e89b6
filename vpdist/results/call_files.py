"""What follows from the tables: virus.tsv, summary.tsv, regions.bed, regions.gff3, README.txt, compressed tables.

Enter: a folder with the three tables. Leave: the other files in the same folder, each whole or absent, the same bytes
from the same tables. Promises: memory for 32 bytes a virus sequence, beside a block of rows and the regions of one
sequence.
"""

from __future__ import annotations

import mmap
import shutil
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vpdist.results import explained, regions
from vpdist.results.object_rows import OBJECT_COLUMNS, ObjectRow
from vpdist.results.table_files import NA, Table, opened_table, opened_text
from vpdist.results.virus_fasta import compressed
from vpdist.storage.atomic_files import open_regular, replacing, storage_error, write_file
from vpdist.storage.run_folder import CALIBRATION, TABLES

STATUSES = ("ok", "no_open_frame", "too_short", "filtered", "failed")
SUMMARY_COLUMNS = (
    *("source", "n_sequences", "n_bases", "n_scored", "n_virus", "n_virus_bases", "virus_share"),
    *(f"n_{status}" for status in STATUSES),
)
ROWS_BETWEEN = 10_000
"""Rows that are copied until it is looked whether the run must end; reading looks before each block of a table."""
COPY_BYTES = 1 << 20

RaiseIfEnding = Callable[[], None]


@dataclass(slots=True)
class SourceCounts:
    """What one input file has in sequences.tsv."""

    sequences: int = 0
    bases: int = 0
    scored: int = 0
    virus: int = 0
    virus_bases: int = 0
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))

    def add(self, bases: int, status: str, *, scored: bool, is_virus: bool) -> None:
        """Count a sequence."""
        self.sequences, self.bases = self.sequences + 1, self.bases + bases
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.scored += scored
        if is_virus:
            self.virus, self.virus_bases = self.virus + 1, self.virus_bases + bases


@dataclass(frozen=True, slots=True)
class VirusRows:
    """Where the rows of v virus sequences lie in sequences.tsv, in the order of the input."""

    record: np.ndarray
    """(v,) int64, the record's number, from 0."""
    offset: np.ndarray
    """(v,) int64, the first byte of the row in the file."""
    score: np.ndarray
    """(v,) float64, the virus score."""
    length: np.ndarray
    """(v,) int64, bases."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """What one reading of sequences.tsv tells."""

    virus: VirusRows
    sources: dict[str, SourceCounts]
    """By the text in the column `source`."""


def are_calibrated(folder: Path, ending: RaiseIfEnding = lambda: None) -> bool:
    """Whether the sequences of `folder` are called by calibrated probability: there is a calibration, and any of them
    has a `call`. Raises DamagedFile, StorageError."""
    if not (folder / CALIBRATION).exists():
        return False
    with opened_table(folder, "sequences", ending) as table:
        position = table.position("call")
        return any(row[position] != NA for row in table)


class CallOf:
    """What the rows of sequences.tsv are called: by their `call` in a calibrated run (`are_calibrated`), else by their
    `prediction`."""

    def __init__(self, table: Table, *, calibrated: bool) -> None:
        self._position = table.position("call" if calibrated else "prediction")

    def text(self, row: Sequence[str]) -> str:
        """virus, non-virus, uncertain or NA."""
        return row[self._position]

    def is_virus(self, row: Sequence[str]) -> bool:
        return row[self._position] == "virus"


def read_sequences(folder: Path, sources: Sequence[str], min_score: float, ending: RaiseIfEnding) -> Sequences:
    """Read sequences.tsv of `folder`; the virus rows are those whose score is at least `min_score`.

    `sources`: the input files as the table has them, also those without a record. Raises StorageError.
    """
    counts = defaultdict(SourceCounts, {source: SourceCounts() for source in sources})
    records, offsets, scores, lengths = array("q"), array("q"), array("d"), array("q")
    calibrated = are_calibrated(folder, ending)
    with opened_table(folder, "sequences", ending) as table:
        call = CallOf(table, calibrated=calibrated)
        source, length, score, status = table.positions("source", "length", "virus_score", "status")
        offset = len(table.line) + 1
        for record, row in enumerate(table):
            bases, is_virus = int(row[length]), call.is_virus(row)
            counts[row[source]].add(bases, row[status], scored=row[score] != NA, is_virus=is_virus)
            if is_virus and (value := float(row[score])) >= min_score:
                records.append(record)
                offsets.append(offset)
                scores.append(value)
                lengths.append(bases)
            offset += len(table.line) + 1
    columns = (np.frombuffer(column, f"{column.typecode}") for column in (records, offsets, scores, lengths))
    return Sequences(VirusRows(*columns), counts)


def write_virus_table(folder: Path, virus: VirusRows, ending: RaiseIfEnding) -> None:
    """Write virus.tsv: those rows of sequences.tsv, the highest score first, equal ones in the order of the input.

    Raises StorageError."""
    path = folder / "sequences.tsv"
    try:
        with (
            open_regular(path) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
            replacing(folder / "virus.tsv") as target,
        ):
            target.write(text[: text.find(b"\n") + 1])
            for number, offset in enumerate(virus.offset[np.argsort(-virus.score, kind="stable")].tolist()):
                if number % ROWS_BETWEEN == 0:
                    ending()
                target.write(text[offset : text.find(b"\n", offset) + 1])
    except OSError as error:
        raise storage_error(path, error, "read") from error


@contextmanager
def opened_names(folder: Path, virus: VirusRows) -> Iterator[Callable[[int], tuple[str, int]]]:
    """Name and bases of each virus record by its number; quick where they are asked for in order. Raises
    StorageError."""
    path = folder / "sequences.tsv"
    with opened_table(folder, "sequences") as table:
        position = table.position("seq_name")
    with opened_text(path) as file:

        def name_and_length(record: int) -> tuple[str, int]:
            index = int(np.searchsorted(virus.record, record))
            file.seek(int(virus.offset[index]))
            return file.readline().split(b"\t", position + 1)[position].decode(), int(virus.length[index])

        yield name_and_length


def write_summary(
    folder: Path, sources: dict[str, SourceCounts], *, called: bool, objects: Sequence[ObjectRow] | None = None
) -> None:
    """Write summary.tsv, a row for each input file, calls NA unless `called`; with further columns for the `objects`
    of a manifest. Raises StorageError."""
    lines = ["\t".join((*SUMMARY_COLUMNS, *(() if objects is None else OBJECT_COLUMNS)))]
    further = [()] * len(sources) if objects is None else [each.cells() for each in objects]
    for (source, of), more in zip(sources.items(), further, strict=True):
        share = f"{of.virus / of.scored:.6g}" if of.scored else NA
        calls = (of.scored, of.virus, of.virus_bases, share) if called else (NA,) * 4
        cells = (source, of.sequences, of.bases, *calls, *(of.statuses[status] for status in STATUSES), *more)
        lines.append("\t".join(map(str, cells)))
    write_file(folder / "summary.tsv", ("\n".join(lines) + "\n").encode())


def write_regions(folder: Path, min_score: float, ending: RaiseIfEnding) -> int:
    """Write regions.bed and regions.gff3 from chunks.tsv, without the regions whose score is under `min_score`.

    Returns the number of regions. Raises StorageError."""
    number = 0
    with ExitStack() as stack:
        bed, gff3 = (stack.enter_context(replacing(folder / f"regions.{kind}")) for kind in ("bed", "gff3"))
        table = stack.enter_context(opened_table(folder, "chunks", ending))
        gff3.write(b"##gff-version 3\n")
        last = None
        for region in regions.regions(table):
            if region.virus_score < min_score:
                continue
            number += 1
            in_bed, in_gff3, first = regions.lines(region, number)
            bed.write(in_bed)
            gff3.write(in_gff3 if region.seq_name == last else first + in_gff3)
            last = region.seq_name
    return number


def write_readme(folder: Path, notes: Sequence[str]) -> None:
    """Write README.txt: every file and column of `folder`, and what is to be known of this run. Raises StorageError."""
    columns = {}
    for name in ("sequences", "chunks", "fragments"):
        with opened_table(folder, name) as table:
            columns[name] = table.columns
    with opened_table(folder, "summary") as table:
        columns["summary"] = table.columns
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    write_file(folder / "README.txt", explained.readme([*there, "README.txt"], columns, notes).encode())


def compress_tables(folder: Path, ending: RaiseIfEnding) -> None:
    """Put each of the three tables in the place of itself, compressed. Raises StorageError."""
    for name in TABLES:
        path = folder / name
        ending()
        try:
            with open_regular(path) as source, compressed(folder / f"{name}.gz") as target:
                shutil.copyfileobj(source, target, COPY_BYTES)
            path.unlink()
        except OSError as error:
            raise storage_error(path, error, "compressed") from error
