"""The tables of a run change together: all are those of one command, or run.json says that a switch was interrupted.

New files are written whole into RUN/.tables.next. Then run.json records their digests and that the switch has begun,
they are renamed one by one, and run.json records that they are in place. Whoever is killed in between leaves a record
from which the next command finishes the switch.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xxhash

from vpdist.errors import StorageError
from vpdist.storage.atomic_files import open_regular, read_json, storage_error, sync_folder
from vpdist.storage.run_folder import (
    CALIBRATION,
    CALL_FILES,
    GZIPPED,
    LEGACY,
    OTHERS_MAY_HAVE,
    TABLES,
    RunFolder,
    set_report_aside,
)

logger = logging.getLogger(__name__)

SWITCHING, COMPLETE = "switching", "complete"
NAMES = (*TABLES, *GZIPPED, *LEGACY, CALIBRATION, *CALL_FILES)
KEPT = ".before"
"""Ends the new name of a file that is in the way of one of CALL_FILES and that no run has written."""
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size and xxh3_128 (hex) of a file's bytes."""

    size: int
    digest: str

    def __str__(self) -> str:
        return f"{self.size:,} bytes, xxh3_128 {self.digest}"

    @classmethod
    def of(cls, path: Path) -> FileDigest:
        """Of the regular file `path`. Raises OSError."""
        digest, size = xxhash.xxh3_128(), 0
        with open_regular(path) as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                size += len(block)
        return cls(size, digest.hexdigest())


@dataclass(frozen=True, slots=True)
class TablesRecord:
    """What run.json says of the tables (`tables`)."""

    state: str
    """SWITCHING or COMPLETE."""
    plan: str
    """Identity of the plan whose parts they were made from."""
    files: Mapping[str, FileDigest]
    """By name: the three tables (each as text or compressed), what was made from them, the original method's two files
    where they were asked for, and by what the scores were judged, if they were."""

    def to_dict(self) -> dict[str, Any]:
        files = {name: {"bytes": each.size, "xxh3_128": each.digest} for name, each in self.files.items()}
        return {"state": self.state, "plan": self.plan, "files": files}

    @classmethod
    def from_dict(cls, fields: Any) -> TablesRecord:
        """Raises KeyError, TypeError, AttributeError or ValueError unless `fields` are those of a record."""
        files = {name: FileDigest(each["bytes"], each["xxh3_128"]) for name, each in fields["files"].items()}
        record = cls(fields["state"], fields["plan"], files)
        texts = (record.state, record.plan, *(each.digest for each in files.values()))
        if any(type(text) is not str for text in texts) or any(type(each.size) is not int for each in files.values()):
            raise TypeError("a value has a wrong type")
        tables = {name for name in TABLES if name in files or f"{name}.gz" in files}
        if record.state not in (SWITCHING, COMPLETE) or tables != set(TABLES) or not files.keys() <= set(NAMES):
            raise ValueError("its state or its files are not those of a run")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesOrigin:
    """What tables are made from."""

    command: str
    """predict (also for `embed`) or classify."""
    classifier: str
    """Fingerprint, '' where nothing was classified."""
    consensus: str
    plan: str
    """Identity of the plan of the parts."""
    calibration: str = ""
    """Name of the file by which the scores were judged, '' where nothing is known of them."""
    shortest_chunk: int = 0
    """Bases below which chunks have no scores; 0: every chunk is judged."""
    summary: str = ""
    """Fingerprint of the model's summary of embeddings, '' where it has none."""
    min_score: float = 0.0
    """Least virus score of what the files list that are made from the tables."""

    def to_dict(self) -> dict[str, str | float]:
        """`tables_from` in run.json; the plan is in the tables' record."""
        names = ("command", "classifier", "consensus", "calibration", "min_score")
        rules: dict[str, str | float] = {"shortest_chunk": self.shortest_chunk, "summary": self.summary}
        return {name: getattr(self, name) for name in names} | {name: value for name, value in rules.items() if value}


def recorded_tables(folder: RunFolder) -> TablesRecord | None:
    """The record in run.json, None where an earlier version wrote the tables or none did. Raises StorageError."""
    fields = (read_json(folder.run) or {}).get("tables")
    if fields is None:
        return None
    try:
        return TablesRecord.from_dict(fields)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StorageError(f"{folder.run}: its record of the tables cannot be read: {error!r}") from error


def recorded_origin(run: dict[str, Any]) -> TablesOrigin:
    """What the tables come from by the content of run.json, which in earlier versions had the consensus among the
    settings only. Raises StorageError."""
    origin, settings = run.get("tables_from", {}), run.get("settings", {})
    if not (isinstance(origin, dict) and isinstance(settings, dict)):
        raise StorageError("run.json: tables_from or settings is not an object")
    fields = {"command": "predict", "classifier": "", "consensus": settings.get("consensus", "mean"), "calibration": ""}
    fields["summary"] = ""
    shortest = origin.get("shortest_chunk", 0)
    known = {name: origin.get(name, default) for name, default in fields.items()}
    if any(type(value) is not str for value in known.values()):
        raise StorageError("run.json: a value of tables_from is not a text")
    if type(shortest) is not int or shortest < 0:
        raise StorageError("run.json: shortest_chunk of tables_from is not a number of bases")
    return TablesOrigin(**known, plan="", shortest_chunk=shortest)


@contextmanager
def replacing_tables(
    folder: RunFolder, origin: TablesOrigin, about: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[Path]:
    """An empty folder for new tables, which replace the old ones together when the block ends without an error.

    `about`: what run.json says of them besides, as it is when the block ends. Tables that are not in the new folder are
    removed. Raises StorageError.
    """
    _discard_next(folder)
    try:
        folder.next_tables.mkdir()
        yield folder.next_tables
        names = [name for name in NAMES if (folder.next_tables / name).exists()]
        files = {name: FileDigest.of(folder.next_tables / name) for name in names}
    except OSError as error:
        _discard_next(folder)
        raise storage_error(folder.next_tables, error) from error
    except BaseException:
        _discard_next(folder)
        raise
    record = TablesRecord(SWITCHING, origin.plan, files)
    _keep_others(folder)
    folder.update_run(tables=record.to_dict(), tables_from=origin.to_dict(), **about)
    _switch(folder, record, names)


def finish_switch(folder: RunFolder) -> None:
    """Finish a switch that was interrupted, or remove what a command left that was killed before its switch.

    Where a new table is lost nothing is changed: `verify` names the tables that are of another command, and the next
    command that writes tables replaces all. Raises StorageError.
    """
    record = recorded_tables(folder)
    if record is None or record.state == COMPLETE:
        _discard_next(folder)
        return
    left = [name for name, digest in record.files.items() if not _has_digest(folder.path / name, digest)]
    if lost := [name for name in left if not _has_digest(folder.next_tables / name, record.files[name])]:
        logger.warning("%s: tables were being replaced, and %s is lost", folder.path, ", ".join(lost))
        return
    logger.warning("%s: tables were being replaced when a command was killed; the switch is finished", folder.path)
    _switch(folder, record, left)


def _switch(folder: RunFolder, record: TablesRecord, names: list[str]) -> None:
    """Give the new tables `names` their places, remove those that `record` does not have, and record the end. Before
    that, a report on the old ones loses its place."""
    try:
        set_report_aside(folder.path)
        for name in names:
            os.replace(folder.next_tables / name, folder.path / name)
        for name in set(NAMES) - record.files.keys():
            (folder.path / name).unlink(missing_ok=True)
        sync_folder(folder.path)
    except OSError as error:
        raise storage_error(folder.path, error) from error
    folder.update_run(tables=TablesRecord(COMPLETE, record.plan, record.files).to_dict())
    _discard_next(folder)


def _keep_others(folder: RunFolder) -> None:
    """Give another name to what lies where one of OTHERS_MAY_HAVE belongs and is no run's. Raises StorageError."""
    known = folder.recorded_call_files()
    for path in (folder.path / name for name in OTHERS_MAY_HAVE if name not in known):
        if not (path.exists() or path.is_symlink()):
            continue
        kept = next(each for each in map(path.with_name, _other_names(path.name)) if not each.exists())
        logger.warning("%s: is not vpdist's; it is kept as %s", path, kept.name)
        try:
            os.rename(path, kept)
        except OSError as error:
            raise storage_error(path, error, "renamed") from error


def _other_names(name: str) -> Iterator[str]:
    yield name + KEPT
    yield from (f"{name}{KEPT}{number}" for number in itertools.count(2))


def _has_digest(path: Path, expected: FileDigest) -> bool:
    """Whether `path` is a regular file with these bytes."""
    try:
        return path.lstat().st_size == expected.size and FileDigest.of(path) == expected
    except OSError:
        return False


def _discard_next(folder: RunFolder) -> None:
    """Remove the folder of new tables, without following links. Raises StorageError."""
    try:
        if folder.next_tables.is_dir() and not folder.next_tables.is_symlink():
            shutil.rmtree(folder.next_tables)
        else:
            folder.next_tables.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder.next_tables, error, "removed") from error
