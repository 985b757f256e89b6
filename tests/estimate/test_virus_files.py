"""The bound of what is made from the tables holds where names are odd, and any chunk may be a region of its own."""

from pathlib import Path

import pytest

from vpdist.estimate.forecast import Counts
from vpdist.estimate.virus_files import most_bytes
from vpdist.results import call_files, tables
from vpdist.results.virus_fasta import compressed

CHUNKS = 41


def never(*_: object) -> None:
    """The command goes on."""


@pytest.mark.parametrize("name", ["a", "é;=%" * 60, "NODE_1_length_20500_cov_7.31"])
def test_the_bound_holds_whatever_is_called_virus(tmp_path: Path, name: str) -> None:
    rows: dict[str, list[str]] = {}
    for table in ("sequences", "chunks"):
        rows[table] = ["\t".join(tables.COLUMNS[table])]
    described = {"seq_name": name, "source": "reads.fa", "length": "20500", "virus_score": "1", "prediction": "virus"}
    rows["sequences"].append("\t".join(described.get(column, "NA") for column in tables.COLUMNS["sequences"]))
    for number in range(CHUNKS):
        chunk = {"start": 500 * number + 1, "end": 500 * number + 500, "virus_score": 1, "nonvirus_score": 0}
        chunk |= {"seq_name": name, "prediction": "non-virus" if number % 2 else "virus"}
        rows["chunks"].append("\t".join(str(chunk.get(column, "")) for column in tables.COLUMNS["chunks"]))
    for table, lines in rows.items():
        (tmp_path / f"{table}.tsv").write_text("\n".join([*lines, ""]))
    counts = Counts(
        sequences=1, statuses={}, bases=20500, chunks=CHUNKS, open_chunks=CHUNKS, fragments=0, different_fragments=0
    )
    bound = most_bytes(tmp_path, counts, ["reads.fa"], called=True)
    found = call_files.read_sequences(tmp_path, ["reads.fa"], 0.0, never)
    call_files.write_virus_table(tmp_path, found.virus, never)
    assert call_files.write_regions(tmp_path, 0.0, never) == CHUNKS // 2 + 1
    call_files.write_summary(tmp_path, found.sources, called=True)
    with compressed(tmp_path / "virus.fna.gz") as file:
        file.write(f">{name}\n".encode() + b"ACGT" * 5125)
    written = sum(
        each.stat().st_size for each in tmp_path.iterdir() if each.name not in ("sequences.tsv", "chunks.tsv")
    )
    assert written < bound
    regions = sum((tmp_path / f"regions.{kind}").stat().st_size for kind in ("bed", "gff3"))
    assert 2 * regions < bound, "every chunk may be a region where sequences are short"
    assert most_bytes(tmp_path, counts, ["reads.fa"], called=False) < bound
