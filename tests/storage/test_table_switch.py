"""Tables change together: whoever is killed at any change of a name leaves what the next command can finish."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vpdist.errors import StorageError
from vpdist.storage.atomic_files import write_file
from vpdist.storage.run_folder import LEGACY, TABLES, RunFolder
from vpdist.storage.table_switch import (
    COMPLETE,
    NAMES,
    SWITCHING,
    FileDigest,
    TablesOrigin,
    finish_switch,
    recorded_tables,
    replacing_tables,
)

OLD = {name: f"old {name}".encode() for name in NAMES}
NEW = {name: f"new {name}, longer".encode() for name in TABLES}
CHANGES_OF_NAMES = ("replace", "rename", "link", "unlink", "mkdir", "rmdir")


class Killed(BaseException):
    """The process is gone: nothing of it goes on."""


def origin(classifier: str) -> TablesOrigin:
    return TablesOrigin(command="classify", classifier=classifier, consensus="mean", plan="plan")


def write(folder: RunFolder, tables: dict[str, bytes], classifier: str) -> None:
    with replacing_tables(folder, origin(classifier)) as new:
        for name, content in tables.items():
            write_file(new / name, content)


@contextmanager
def killed_after(n: int) -> Iterator[None]:
    """The first n changes of names are made, whatever follows raises."""
    calls = itertools.count()

    def mortal(name: str):  # type: ignore[no-untyped-def]
        change = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            if next(calls) >= n:
                raise Killed
            return change(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES_OF_NAMES:
            patch.setattr(os, name, mortal(name))
        try:
            yield
        except Killed:
            return
    raise SurvivedError


class SurvivedError(Exception):
    """There are fewer changes of names."""


def content(folder: RunFolder) -> dict[str, bytes]:
    return {name: (folder.path / name).read_bytes() for name in NAMES if (folder.path / name).exists()}


def classifier(folder: RunFolder) -> str:
    return str(json.loads(folder.run.read_text())["tables_from"]["classifier"])


def assert_of_one_command(folder: RunFolder) -> bool:
    """The tables, their record and their origin are those of one command; returns whether of the new one."""
    record = recorded_tables(folder)
    assert record is not None
    assert record.state == COMPLETE
    assert content(folder) in (OLD, NEW)
    is_new = content(folder) == NEW
    assert classifier(folder) == ("new" if is_new else "old")
    assert record.files == {name: FileDigest.of(folder.path / name) for name in (NEW if is_new else OLD)}
    assert not folder.next_tables.exists()
    return is_new


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    write(folder, OLD, "old")
    return folder


def copies(folder: RunFolder) -> Iterator[RunFolder]:
    for number in itertools.count():
        yield RunFolder(Path(shutil.copytree(folder.path, folder.path.with_name(f"copy{number}"))))


def test_new_tables_take_the_place_of_all_old_ones(folder: RunFolder) -> None:
    assert not assert_of_one_command(folder)
    write(folder, NEW, "new")
    assert assert_of_one_command(folder)
    assert not any((folder.path / name).exists() for name in LEGACY)


def test_a_command_killed_at_any_change_of_a_name_leaves_what_the_next_one_finishes(folder: RunFolder) -> None:
    outcomes: list[bool] = []
    mixed = 0
    for n, copy in enumerate(copies(folder)):
        try:
            with killed_after(n):
                write(copy, NEW, "new")
        except SurvivedError:
            break
        record = recorded_tables(copy)
        assert record is not None
        if content(copy) not in (OLD, NEW):
            assert record.state == SWITCHING
            mixed += 1
        finish_switch(copy)
        outcomes.append(assert_of_one_command(copy))
    assert outcomes == sorted(outcomes)  # once it is decided, every later kill ends with the new ones
    assert {True, False} == set(outcomes)
    assert mixed >= len(TABLES)


def test_who_finishes_a_switch_may_be_killed_as_well(folder: RunFolder) -> None:
    begun = 0
    for n, copy in enumerate(copies(folder)):
        try:
            with killed_after(n):
                write(copy, NEW, "new")
        except SurvivedError:
            break
        if recorded_tables(copy).state != SWITCHING:  # type: ignore[union-attr]
            continue
        begun += 1
        for m in itertools.count():
            try:
                with killed_after(m):
                    finish_switch(copy)
            except SurvivedError:
                break
            assert m < 100
        assert assert_of_one_command(copy)
    assert begun >= len(TABLES)


def test_a_failure_before_the_switch_leaves_the_old_tables(folder: RunFolder) -> None:
    def fail() -> None:
        with replacing_tables(folder, origin("new")) as new:
            write_file(new / "sequences.tsv", b"half")
            raise StorageError("the disk is full")

    with pytest.raises(StorageError, match="full"):
        fail()
    assert not assert_of_one_command(folder)


def test_a_switch_whose_new_tables_are_lost_changes_nothing(folder: RunFolder) -> None:
    for n in itertools.count():
        with killed_after(n):
            write(folder, NEW, "new")
        if recorded_tables(folder).state == SWITCHING:  # type: ignore[union-attr]
            break
    (folder.next_tables / "chunks.tsv").unlink()
    before = content(folder)
    finish_switch(folder)
    assert content(folder) == before
    assert recorded_tables(folder).state == SWITCHING  # type: ignore[union-attr]
    write(folder, NEW, "new")
    assert assert_of_one_command(folder)


def test_a_link_in_place_of_the_folder_of_new_tables_is_not_followed(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_text("mine")
    folder.next_tables.symlink_to(tmp_path / "outside")
    finish_switch(folder)
    assert not folder.next_tables.is_symlink()
    folder.next_tables.symlink_to(tmp_path / "outside")
    write(folder, NEW, "new")
    assert assert_of_one_command(folder)
    assert os.listdir(tmp_path / "outside") == ["mine"]


@pytest.mark.parametrize(
    "record",
    [
        7,
        {"state": "complete"},
        {"state": "done", "plan": "", "files": {}},
        {"state": "complete", "plan": "", "files": {"../x": {"bytes": 1, "xxh3_128": ""}}},
        {"state": "complete", "plan": "", "files": {name: {"bytes": "1", "xxh3_128": ""} for name in TABLES}},
    ],
)
def test_a_record_that_is_none_is_refused(folder: RunFolder, record: object) -> None:
    folder.update_run(tables=record)
    with pytest.raises(StorageError, match="its record of the tables cannot be read"):
        recorded_tables(folder)
