"""Regions: where in a sequence virus begins and ends, as runs of chunks called virus.

Enter: the rows of chunks.tsv, those of a sequence one after the other. Leave: regions in the same order. A run goes on
over chunks without a score and ends at one called non-virus; its ends are those of its first and last virus chunk, so
that a true border lies within a chunk's length of them where the calls are right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter

from vpdist.results.table_files import NA, Table

COLUMNS = ("seq_name", "start", "end", "virus_score", "nonvirus_score", "prediction")
"""Of chunks.tsv: what regions are made of."""


@dataclass(slots=True)
class Region:
    """A run of virus chunks."""

    seq_name: str
    first: int
    """Number of its first chunk in the sequence, from 1."""
    start: int
    """0-based."""
    end: int
    """Exclusive."""
    chunks: int
    """From the first virus chunk to the last one, those without a score included."""
    virus_chunks: int
    virus: float
    """Sum of the scores of the virus chunks."""
    nonvirus: float
    length: int = 0
    """Bases of the sequence: where its last chunk ends."""
    whole: bool = False
    """Whether every scored chunk of the sequence is in it."""

    def add(self, number: int, end: int, virus: float, nonvirus: float) -> None:
        """A virus chunk by its number, its end and its scores."""
        self.end, self.chunks, self.virus_chunks = end, number - self.first + 1, self.virus_chunks + 1
        self.virus, self.nonvirus = self.virus + virus, self.nonvirus + nonvirus

    @property
    def virus_score(self) -> float:
        """Mean over the virus chunks."""
        return self.virus / self.virus_chunks

    @property
    def nonvirus_score(self) -> float:
        return self.nonvirus / self.virus_chunks


def regions(table: Table) -> Iterator[Region]:
    """The regions of all sequences of chunks.tsv. Raises DamagedFile."""
    return regions_of(map(itemgetter(*table.positions(*COLUMNS)), table))


def regions_of(chunks: Iterable[tuple[str, ...]]) -> Iterator[Region]:
    """The regions of all sequences from the COLUMNS of each chunk; those of a sequence follow each other, in order."""
    seq_name, last_end, number, scored, in_region = None, "0", 0, 0, False
    found: list[Region] = []
    for name, start, end, virus, nonvirus, call in chunks:
        if name != seq_name:
            yield from _ended(found, last_end, scored)
            seq_name, number, scored, in_region, found = name, 0, 0, False, []
        number, last_end = number + 1, end
        if call == NA:
            continue
        scored += 1
        if call != "virus":
            in_region = False
        elif in_region:
            found[-1].add(number, int(end), float(virus), float(nonvirus))
        else:
            found.append(Region(name, number, int(start) - 1, int(end), 1, 1, float(virus), float(nonvirus)))
            in_region = True
    yield from _ended(found, last_end, scored)


def _ended(found: list[Region], end: str, scored: int) -> list[Region]:
    """The regions of a sequence of which all chunks are known."""
    for region in found:
        region.length, region.whole = int(end), region.virus_chunks == scored
    return found


def lines(region: Region, number: int) -> tuple[bytes, bytes, bytes]:
    """A region's line in regions.bed, in regions.gff3, and the one before the first feature of its sequence there.

    BED6 has three columns more: virus score, chunks, whether the region has all scored chunks of its sequence. GFF3 has
    a feature of type viral_sequence (SO:0001041).
    """
    name, start, end, chunks = gff3_name(region.seq_name), region.start, region.end, region.chunks
    virus, nonvirus, whole = region.virus_score, region.nonvirus_score, b"true" if region.whole else b"false"
    score = b"%.6g" % virus
    return (
        BED % (region.seq_name.encode(), start, end, number, round(1000 * virus), score, chunks, region.whole),
        GFF3 % (name, start + 1, end, score, number, chunks, region.virus_chunks, nonvirus, whole),
        GFF3_SEQUENCE % (name, region.length),
    )


BED = b"%b\t%d\t%d\tregion_%d\t%d\t.\t%b\t%d\t%d\n"
GFF3 = (
    b"%b\tvpdist\tviral_sequence\t%d\t%d\t%b\t.\t.\t"
    b"ID=region_%d;n_chunks=%d;n_virus_chunks=%d;nonvirus_score=%.6g;whole_sequence=%b\n"
)
GFF3_SEQUENCE = b"##sequence-region %b 1 %d\n"
GFF3_ESCAPED = re.compile(rb"[^a-zA-Z0-9.:^*$@!+_?|-]")
"""Bytes that may not stand in a seqid as they are, by the GFF3 specification 1.26."""


def gff3_name(name: str) -> bytes:
    """A sequence's name as GFF3 writes it: other letters are percent-encoded."""
    return GFF3_ESCAPED.sub(lambda byte: b"%%%02X" % ord(byte[0]), name.encode())
