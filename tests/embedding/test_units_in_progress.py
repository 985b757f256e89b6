"""What a process leaves when it dies during a unit, and only then."""

import json
import os
from pathlib import Path

import pytest

from vpdist.embedding.units_in_progress import UnitsInProgress, count_crashes
from vpdist.errors import Interrupted, StorageError
from vpdist.storage.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.prepare(restart=False)
    return made


def leave(folder: RunFolder, units: tuple[int, ...], error: Exception, rank: int = 0) -> None:
    with UnitsInProgress(folder, rank, most=len(units)) as in_progress:
        for unit in (100, *units):
            in_progress.begin(unit)
        raise error


def die(folder: RunFolder, *units: int, rank: int = 0) -> None:
    """What a process leaves that ends in the middle of its units."""
    with pytest.raises(RuntimeError):
        leave(folder, units, RuntimeError("a bug"), rank)


def test_a_process_that_leaves_in_order_leaves_nothing(folder: RunFolder) -> None:
    with UnitsInProgress(folder, 0) as in_progress:
        in_progress.begin(7)
        assert next(folder.at_work.iterdir()).read_text().split() == ["7"]
    with pytest.raises(Interrupted):
        leave(folder, (8,), Interrupted("stopped by SIGTERM"))
    assert list(folder.at_work.iterdir()) == []
    assert count_crashes(folder) == {}


def test_deaths_are_counted_over_runs_and_each_only_once(folder: RunFolder) -> None:
    die(folder, 7)
    assert count_crashes(folder) == {7: 1}
    assert count_crashes(folder) == {7: 1}
    die(folder, 7, 9)
    die(folder, 3, rank=1)
    assert count_crashes(folder) == {3: 1, 7: 2, 9: 1}
    assert json.loads(folder.run.read_text())["deaths"] == {"3": 1, "7": 2, "9": 1}


def test_a_process_that_died_between_units_accuses_none(folder: RunFolder) -> None:
    (folder.at_work / "rank00000.1").touch()
    (folder.at_work / "rank00001.2").write_text("\0\0 ?")
    assert count_crashes(folder) == {}
    assert list(folder.at_work.iterdir()) == []


def test_notes_and_records_from_strangers_accuse_none_and_hang_nobody(folder: RunFolder, tmp_path: Path) -> None:
    folder.update_run(deaths={"7": "often", "\u00b2": 2, "9" * 5000: 1, "8": 2})
    (folder.at_work / "rank00000.1").write_text("\u00b2 " + "9" * 5000)
    assert count_crashes(folder) == {8: 2}
    folder.update_run(deaths=[1, 2])
    assert count_crashes(folder) == {}
    (tmp_path / "elsewhere").write_text("7")
    (folder.at_work / "rank00000.1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is a symbolic link"):
        count_crashes(folder)
    (folder.at_work / "rank00000.1").unlink()
    os.mkfifo(folder.at_work / "rank00000.2")
    with pytest.raises(StorageError, match="not a regular file"):
        count_crashes(folder)


def test_restart_forgets_deaths(folder: RunFolder) -> None:
    folder.write_status("running", None, "")
    die(folder, 7)
    folder.prepare(restart=True)
    assert count_crashes(folder) == {}
