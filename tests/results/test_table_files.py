"""Tables read in blocks: the rows are those of their lines, whatever the blocks are, and each fault names its row."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpdist.errors import Interrupted
from vpdist.results import call_files, table_files
from vpdist.results.table_files import opened_table
from vpdist.storage.atomic_files import DamagedFile

CELLS = st.text(st.sampled_from('a "\r\x0b\x85\u2028\u00e4\U0001f9a0'), max_size=5)


def read(folder: Path) -> list[list[str]]:
    with opened_table(folder, "chunks") as table:
        return list(table)


def read_until_told(folder: Path) -> tuple[list[list[str]], str]:
    """The rows of chunks.tsv before its first fault, and what is told of that."""
    found: list[list[str]] = []
    try:
        with opened_table(folder, "chunks") as table:
            for row in table:
                found.append(row)
    except DamagedFile as error:
        return found, str(error)
    return found, ""


@settings(deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS)), block=st.integers(1, 40), compressed=st.booleans())
def test_rows_are_those_of_the_lines_whatever_the_blocks_are(
    rows: list[tuple[str, ...]], block: int, compressed: bool
) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "BLOCK_BYTES", block)
        content = "".join("\t".join(row) + "\n" for row in [("one", "two", "three"), *rows]).encode()
        path = Path(name) / ("chunks.tsv.gz" if compressed else "chunks.tsv")
        path.write_bytes(gzip.compress(content) if compressed else content)
        assert read(Path(name)) == [list(row) for row in rows]


ROWS = b"one\ttwo\n" + b"1\t2\n" * 5000


@pytest.mark.parametrize("block", [3, 63])
@pytest.mark.parametrize(
    ("content", "n_rows", "fault"),
    [
        (ROWS + b"1\n" + b"\xff\n", 5000, "row 5,001 has 1 cells, its header names 2"),
        (ROWS + b"1\t\xff\n1\n", 5000, "row 5,001 is not UTF-8"),
        (ROWS + b"1\t2", 5000, "its last row is not complete"),
        (ROWS + b"1", 5000, "its last row is not complete"),
        (ROWS + b"\n", 5000, "row 5,001 has 1 cells, its header names 2"),
        (ROWS + b"1\t" + b"2" * 61 + b"\n", 5001, ""),
        (ROWS + b"1\t" + b"2" * 62 + b"\n", 5000, "its last row is not complete"),
        (ROWS + b"1\t" + b"2" * 90, 5000, "its last row is not complete"),
        (b"\xff\n", 0, "its header is not UTF-8"),
        (b"", 0, "has no header with a name for each column"),
        (b"one\tone\n", 0, "has no header with a name for each column"),
    ],
)
def test_a_fault_is_told_with_its_row_after_the_rows_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, content: bytes, n_rows: int, fault: str
) -> None:
    monkeypatch.setattr(table_files, "BLOCK_BYTES", block)
    monkeypatch.setattr(table_files, "LONGEST_ROW", 64)
    (tmp_path / "chunks.tsv").write_bytes(content)
    found, told = read_until_told(tmp_path)
    assert told == (f"{tmp_path / 'chunks.tsv'}: {fault}" if fault else "")
    assert len(found) == n_rows
    assert all(row[0] == "1" for row in found)


def test_a_damaged_compressed_table_gives_the_rows_before_the_damage(tmp_path: Path) -> None:
    rows = "".join(f"{n}\t{n * n}\n" for n in range(100_000))
    whole = gzip.compress(f"one\ttwo\n{rows}".encode())
    (tmp_path / "chunks.tsv.gz").write_bytes(whole[: len(whole) // 2])
    found, told = read_until_told(tmp_path)
    assert "chunks.tsv.gz: is damaged" in told
    assert 10_000 < len(found) < 90_000
    assert found[-1] == [f"{len(found) - 1}", f"{(len(found) - 1) ** 2}"]


@pytest.mark.parametrize(
    "read_table",
    [
        partial(call_files.read_sequences, sources=["a.fa"], min_score=0.0),
        partial(call_files.write_regions, min_score=0.0),
    ],
)
def test_whoever_reads_a_table_asks_before_each_block_whether_the_run_must_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_table: Callable[..., object]
) -> None:
    monkeypatch.setattr(table_files, "BLOCK_BYTES", 1 << 10)
    sequences = "source\tlength\tvirus_score\tstatus\tprediction\n" + "a.fa\t300\tNA\tok\tNA\n" * 1000
    chunks = (
        "seq_name\tstart\tend\tvirus_score\tnonvirus_score\tprediction\n" + "a\t1\t300\t0.1\t0.9\tnon-virus\n" * 1000
    )
    (tmp_path / "sequences.tsv").write_text(sequences)
    (tmp_path / "chunks.tsv").write_text(chunks)
    asked = 0

    def ending() -> None:
        nonlocal asked
        asked += 1
        if asked == 10:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        read_table(tmp_path, ending=ending)
    assert {path.name for path in tmp_path.iterdir()} == {"sequences.tsv", "chunks.tsv"}
