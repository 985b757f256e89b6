"""The run folder: where everything lies, who holds it, what state it is in.

RUN/lock names the process that works in the folder and is touched every few seconds; a second run is refused. run.json
records command, resolved and versions; status.json state, exit code and message.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpdist.errors import UsageError
from vpdist.storage.atomic_files import read_json, storage_error, write_json

OURS = ("parts", "tokens", "logs", "at_work", "run.json", "status.json", "progress.jsonl", "lock")
TABLES = ("sequences.tsv", "chunks.tsv", "fragments.tsv")
LEGACY = ("prediction_results.txt", "prediction_results_highestscore.csv")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside a run folder."""

    path: Path

    @property
    def parts(self) -> Path:
        return self.path / "parts"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def plan(self) -> Path:
        return self.tokens / "plan.h5"

    @property
    def store(self) -> Path:
        return self.tokens / "store.json"

    @property
    def names(self) -> Path:
        """New names of records whose name had been used before."""
        return self.tokens / "names.h5"

    @property
    def spool(self) -> Path:
        """Standard input, kept."""
        return self.tokens / "stdin"

    @property
    def progress(self) -> Path:
        return self.path / "progress.jsonl"

    @property
    def at_work(self) -> Path:
        """What working processes are computing, see at_work.py."""
        return self.path / "at_work"

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    def log(self, rank: int) -> Path:
        return self.path / "logs" / f"rank{rank:05d}.log"

    def check_writable(self) -> None:
        """A first look, before anything slow is loaded. Raises StorageError where the folder cannot be written."""
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        try:
            disk = os.statvfs(there)
        except OSError as error:
            raise storage_error(there, error, "read") from error
        if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
            reason = errno.EROFS if disk.f_flag & os.ST_RDONLY else errno.EACCES
            raise storage_error(self.path, OSError(reason, os.strerror(reason)))

    def prepare(self, *, restart: bool) -> None:
        """Create the folder with its subfolders; with `restart` discard what a run left in it, and nothing else.

        Raises UsageError for a folder that holds other things than a run's, StorageError where it cannot be written.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise UsageError(f"{self.path} is not a folder")
            if self.path.is_dir():
                foreign = sorted({entry.name for entry in self.path.iterdir()} - {*OURS, *TABLES, *LEGACY})
                foreign = [name for name in foreign if not name.startswith(".")]
                if foreign and not self.run.exists():
                    raise UsageError(f"{self.path} holds {foreign[0]} and no run.json: name a new or empty folder")
            if restart:
                self._discard()
            for folder in (self.parts, self.tokens, self.at_work, self.path / "logs"):
                if folder.is_symlink():
                    raise UsageError(f"{folder} is a symbolic link: what a run writes stays in its folder")
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def _discard(self) -> None:
        for name in (*TABLES, *LEGACY, *OURS):
            target = self.path / name
            if name == "lock":
                continue
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def remove_temporary_files(self) -> None:
        """Remove what processes that were killed while writing left behind. Raises StorageError."""
        for folder in (self.path, self.parts, self.tokens):
            for path in folder.glob(".*.tmp"):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise storage_error(path, error, "removed") from error

    def write_status(self, state: str, exit_code: int | None, message: str, failing_rank: int | None = None) -> None:
        """state: running, done, done_with_failures, failed or interrupted. Raises StorageError."""
        write_json(
            self.status,
            {
                "state": state,
                "exit_code": exit_code,
                "message": message,
                "failing_rank": failing_rank,
                "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        )

    def update_run(self, **fields: Any) -> None:
        """Add fields to run.json. Raises StorageError."""
        write_json(self.run, (read_json(self.run) or {}) | fields)
