"""What the files made from the tables need at most: virus.fna.gz, virus.tsv, regions, summary.tsv, README.txt.

Enters: the tables, and what they count. Leaves: bytes that are enough whatever is called virus, since before a run
nobody knows what will be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vpdist.estimate.forecast import Counts
from vpdist.results.virus_fasta import LINE

README_BYTES = 1 << 14
SUMMARY_BYTES = 300
"""Of a row of summary.tsv without the name of its source: twelve numbers. And of its header."""
ROW_BYTES = 120
"""Of a chunk's lines in regions.bed and regions.gff3 beside four times those of its row: numbers, attributes."""
STORED = 1.001
"""By how much deflate makes longer, at most, what it cannot compress (RFC 1951: 5 bytes for each stored block)."""


def most_bytes(folder: Path, counts: Counts, sources: Sequence[str], *, called: bool) -> int:
    """Bytes of all these files, were every sequence called virus, or every other chunk; as `predict` writes them beside
    the tables of `folder`, without a classifier summary and README only.

    Letters count a byte each, although gzip mostly makes a quarter of it; names and descriptions are those of
    sequences.tsv, and a name may have three times its bytes in regions.gff3 (`gff3_name`).
    """
    described = README_BYTES + sum(SUMMARY_BYTES + len(source.encode()) for source in ("", *sources))
    if not called:
        return described
    sequences, chunks = ((folder / f"{name}.tsv").stat().st_size for name in ("sequences", "chunks"))
    fasta = STORED * (counts.bases * (LINE + 1) / LINE + 3 * counts.sequences + sequences)
    regions = 4 * chunks + ROW_BYTES * counts.open_chunks + 3 * sequences
    return described + round(fasta) + sequences + regions
