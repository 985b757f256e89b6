"""How much of the input has been read is told in bytes of its files."""

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vpdist.sequences.ingest import InputPosition
from vpdist.sequences.records import read_records
from vpdist.storage.object_stores import RETRIES


def position_of(paths: list[Path]) -> tuple[InputPosition, list[int]]:
    planned: list[int] = []
    control: Any = SimpleNamespace(
        retries=RETRIES, progress=SimpleNamespace(plan_steps=planned.append), raise_if_ending=lambda: None
    )
    return InputPosition(paths, control), planned


def test_every_byte_of_every_file_is_told_once(tmp_path: Path) -> None:
    text = "".join(f">r{number}\n{'ACGT' * 500}\n" for number in range(300))
    plain, packed, empty = tmp_path / "a.fa", tmp_path / "b.fa.gz", tmp_path / "c.fa"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    empty.write_text("")
    paths = [plain, packed, empty]
    position, planned = position_of(paths)
    told = [position.advance() for _ in read_records(paths, opened=position.opened)]
    assert planned == [sum(path.stat().st_size for path in paths)]
    assert min(told) >= 0
    assert 0 < sum(told[:100]) < plain.stat().st_size < sum(told)
    assert sum(told) + position.advance() == planned[0]
    assert position.advance() == 0


def test_before_a_file_is_open_nothing_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    position, _ = position_of([tmp_path / "a.fa"])
    assert position.advance() == 0
