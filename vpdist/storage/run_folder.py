"""The run folder: the paths in it, its preparation, and the two files that describe the run.

run.json records command, resolved configuration and versions; status.json records state, exit code and message.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

from vpdist.errors import UsageError
from vpdist.storage.atomic_files import read_json, storage_error, write_json

RUN_FILES = ("parts", "tokens", "logs", "at_work", "run.json", "status.json", "progress.jsonl")
TABLES = ("sequences.tsv", "chunks.tsv", "fragments.tsv")
LEGACY = ("prediction_results.txt", "prediction_results_highestscore.csv")


class RunFolder:
    """Paths inside a run folder; docs/run-folder.md describes each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts, self.tokens, self.at_work = path / "parts", path / "tokens", path / "at_work"
        self.run, self.status, self.progress = path / "run.json", path / "status.json", path / "progress.jsonl"
        self.plan, self.store, self.names = (self.tokens / name for name in ("plan.h5", "store.json", "names.h5"))
        self.spool, self.input_list = self.tokens / "stdin", self.tokens / "files-from"

    def log(self, rank: int) -> Path:
        return self.path / "logs" / f"rank{rank:05d}.log"

    def check_writable(self) -> None:
        """Raises StorageError where the folder cannot be written. Quick, for before anything slow is loaded."""
        existing = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        try:
            disk = os.statvfs(existing)
        except OSError as error:
            raise storage_error(existing, error, "read") from error
        if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
            reason = errno.EROFS if disk.f_flag & os.ST_RDONLY else errno.EACCES
            raise storage_error(self.path, OSError(reason, os.strerror(reason)))

    def prepare(self, *, restart: bool) -> None:
        """Create the folder with its subfolders; with `restart`, discard the files of an earlier run and no others.

        Raises UsageError for a folder that holds files of something else, StorageError where it cannot be written.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise UsageError(f"{self.path} is not a folder")
            if self.path.is_dir():
                names = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
                foreign = sorted(names - {"lock", *RUN_FILES, *TABLES, *LEGACY})
                if foreign and not self.run.exists():
                    raise UsageError(f"{self.path} holds {foreign[0]} and no run.json; choose a new or empty folder")
            if restart:
                self._discard()
            for folder in (self.parts, self.tokens, self.at_work, self.path / "logs"):
                if folder.is_symlink():
                    raise UsageError(f"{folder} is a symbolic link; a run writes only inside its own folder")
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def _discard(self) -> None:
        for name in (*TABLES, *LEGACY, *RUN_FILES):
            target = self.path / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def remove_temporary_files(self) -> None:
        """Remove what processes left behind that were killed while writing. Raises StorageError."""
        for folder in (self.path, self.parts, self.tokens):
            for path in folder.glob(".*.tmp"):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise storage_error(path, error, "removed") from error

    def write_status(self, state: str, exit_code: int | None, message: str, failing_rank: int | None = None) -> None:
        """state: running, done, done_with_failures, failed or interrupted. Raises StorageError."""
        content = {"state": state, "exit_code": exit_code, "message": message, "failing_rank": failing_rank}
        write_json(self.status, content | {"updated": time.strftime("%Y-%m-%dT%H:%M:%S%z")})

    def update_run(self, **fields: Any) -> None:
        """Add fields to run.json. Raises StorageError."""
        write_json(self.run, (read_json(self.run) or {}) | fields)
