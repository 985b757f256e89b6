"""Regions: where in a sequence virus begins and ends, as runs of chunks called virus.

Enter: the rows of chunks.tsv, those of a sequence one after the other. Leave: regions in the same order. A run goes on
over chunks without a score and ends at one called non-virus; its ends are those of its first and last virus chunk, so
that a true border lies within a chunk's length of them where the calls are right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from vpdist.results.table_files import NA, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A run of virus chunks."""

    seq_name: str
    length: int
    """Bases of the sequence: where its last chunk ends."""
    start: int
    """0-based."""
    end: int
    """Exclusive."""
    chunks: int
    """From the first virus chunk to the last one, those without a score included."""
    virus_chunks: int
    virus_score: float
    """Mean over the virus chunks."""
    nonvirus_score: float
    whole: bool
    """Whether every scored chunk of the sequence is in it."""


@dataclass(frozen=True, slots=True)
class ChunkCall:
    """What is known of one chunk."""

    start: int
    """0-based."""
    end: int
    scores: tuple[float, float] | None
    """Virus and non-virus score, None without a call."""
    is_virus: bool


def regions(table: Table) -> Iterator[Region]:
    """The regions of all sequences of chunks.tsv. Raises DamagedFile."""
    names = ("seq_name", "start", "end", "virus_score", "nonvirus_score", "prediction")
    name, start, end, virus, nonvirus, prediction = table.positions(*names)
    for seq_name, rows in groupby(table, key=lambda row: row[name]):
        calls = (
            ChunkCall(
                int(row[start]) - 1,
                int(row[end]),
                None if row[prediction] == NA else (float(row[virus]), float(row[nonvirus])),
                row[prediction] == "virus",
            )
            for row in rows
        )
        yield from regions_of(seq_name, calls)


def regions_of(seq_name: str, calls: Iterable[ChunkCall]) -> Iterator[Region]:
    """The regions of one sequence from all of its chunks, in order."""
    runs: list[_Run] = []
    open_run: _Run | None = None
    scored = length = 0
    for number, call in enumerate(calls):
        length = max(length, call.end)
        if call.scores is None:
            continue
        scored += 1
        if not call.is_virus:
            open_run = None
            continue
        if open_run is None:
            open_run = _Run(call.start, number)
            runs.append(open_run)
        open_run.add(call, number)
    for run in runs:
        yield Region(
            seq_name=seq_name,
            length=length,
            start=run.start,
            end=run.end,
            chunks=run.last - run.first + 1,
            virus_chunks=run.n,
            virus_score=run.virus / run.n,
            nonvirus_score=run.nonvirus / run.n,
            whole=run.n == scored,
        )


@dataclass(slots=True)
class _Run:
    """A region that may go on."""

    start: int
    first: int
    """Number of its first chunk."""
    end: int = 0
    last: int = 0
    n: int = 0
    virus: float = 0.0
    nonvirus: float = 0.0

    def add(self, call: ChunkCall, number: int) -> None:
        virus, nonvirus = call.scores or (0.0, 0.0)
        self.end, self.last, self.n = call.end, number, self.n + 1
        self.virus, self.nonvirus = self.virus + virus, self.nonvirus + nonvirus


def bed_line(region: Region, number: int) -> str:
    """BED6 and three columns more: virus score, chunks, whether the region has all scored chunks of its sequence."""
    score = round(1000 * min(1.0, max(0.0, region.virus_score)))
    cells = (region.seq_name, region.start, region.end, f"region_{number}", score, ".")
    return "\t".join(map(str, (*cells, f"{region.virus_score:.6g}", region.chunks, int(region.whole)))) + "\n"


def gff3_line(region: Region, number: int) -> str:
    """A feature of type viral_sequence (SO:0001041)."""
    attributes = (
        f"ID=region_{number}",
        f"n_chunks={region.chunks}",
        f"n_virus_chunks={region.virus_chunks}",
        f"nonvirus_score={region.nonvirus_score:.6g}",
        f"whole_sequence={'true' if region.whole else 'false'}",
    )
    place = (gff3_name(region.seq_name), "vpdist", "viral_sequence", region.start + 1, region.end)
    return "\t".join(map(str, (*place, f"{region.virus_score:.6g}", ".", ".", ";".join(attributes)))) + "\n"


GFF3_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:^*$@!+_?-|")
"""What may stand in a seqid unescaped, by the GFF3 specification 1.26."""


def gff3_name(name: str) -> str:
    """A sequence's name as GFF3 writes it: other letters are percent-encoded."""
    return "".join(
        letter if letter in GFF3_LETTERS else "".join(f"%{byte:02X}" for byte in letter.encode()) for letter in name
    )
