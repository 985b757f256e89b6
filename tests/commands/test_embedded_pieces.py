"""The file of pieces and the run on it: kept where the pieces are the same, discarded where they are others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vpdist.commands.embedded_pieces import write_pieces
from vpdist.errors import StorageError
from vpdist.storage.run_folder import RunFolder

RECORDS = (b">1\nACGT\n", b">2\nGGA\n")


def parts_after(folder: RunFolder, path: Path, *records: bytes, restart: bool = False) -> int:
    """Parts of an earlier run that are left, once these have been written."""
    folder.prepare(restart=False)
    folder.write_status("done", 0, "")
    (folder.parts / "unit-000000.h5").write_bytes(b"x")
    write_pieces(path, iter(records), folder, restart=restart)
    assert path.read_bytes() == b"".join(records)
    assert [each.name for each in path.parent.iterdir() if each != folder.path] == [path.name]
    return len(list(folder.parts.iterdir()))


def test_a_run_on_other_pieces_is_discarded_and_one_on_the_same_goes_on(tmp_path: Path) -> None:
    folder, path = RunFolder(tmp_path / "run"), tmp_path / "fit" / "pieces.fa"
    assert parts_after(folder, path, *RECORDS) == 0
    written = path.stat().st_mtime_ns
    assert parts_after(folder, path, *RECORDS) == 1
    assert path.stat().st_mtime_ns == written
    assert parts_after(folder, path, *RECORDS, restart=True) == 0
    assert parts_after(folder, path, *RECORDS[:1]) == 0
    assert parts_after(folder, path) == 0


def test_records_that_cannot_be_read_to_their_end_leave_file_and_run(tmp_path: Path) -> None:
    folder, path = RunFolder(tmp_path / "run"), tmp_path / "fit" / "pieces.fa"
    parts_after(folder, path, *RECORDS)
    (folder.parts / "unit-000000.h5").write_bytes(b"x")

    def broken() -> Iterator[bytes]:
        yield RECORDS[0]
        raise StorageError("gone")

    with pytest.raises(StorageError, match="gone"):
        write_pieces(path, broken(), folder, restart=False)
    assert path.read_bytes() == b"".join(RECORDS)
    assert list(folder.parts.iterdir())
