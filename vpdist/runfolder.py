"""The run folder: where everything lies, who holds it, what state it is in.

RUN/lock names the process that works in the folder and is touched every few seconds; a second run is refused. run.json
records command, decisions and versions; status.json state, exit code and message.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vpdist.errors import StorageError, UsageError
from vpdist.files import read_json, read_limited, storage_error, write_json

log = logging.getLogger(__name__)

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
LOCK_BYTES = 1 << 12
HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0
LOOK_AGAIN_S = 1.0
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


class Lock:
    """Holds RUN/lock from `take` to `release`, touching it so that others see that the holder is alive.

    A process that is stopped for longer than others wait loses it; `check` says so.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.path = folder.path / "lock"
        self._content = ""
        self._taken_by = ""
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)

    def take(self) -> None:
        """Raises UsageError naming host, process and age of heartbeat when another run holds the folder.

        A lock whose process is gone on this host, or whose heartbeat is old, is taken over.
        """
        me = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
        complete = self.path.with_name(f".lock.{me['host']}.{me['pid']}.tmp")
        try:
            complete.write_text(json.dumps(me))
            for _ in range(10):
                try:
                    _claim(self.path, complete)
                except FileExistsError:
                    self._take_over()
                    continue
                self._content = json.dumps(me)
                self._thread.start()
                return
        except OSError as error:
            raise storage_error(self.path, error) from error
        finally:
            with contextlib.suppress(OSError):
                complete.unlink(missing_ok=True)
        raise StorageError(f"{self.path}: could not be taken, other runs keep taking it")

    def _take_over(self) -> None:
        """Remove an abandoned lock, or raise UsageError."""
        try:
            age = time.time() - self.path.stat().st_mtime
            content = _read(self.path)
        except FileNotFoundError:
            return
        host, pid, started = _holder(content)
        gone = host == socket.gethostname() and not _is_running(pid, started)
        if not gone and age < STALE_AFTER_S:
            raise UsageError(
                f"{self.path.parent} is in use: process {pid} on {host}, last sign of life {max(0, age):.0f} s ago; "
                f"wait for it, or use another folder"
            )
        with contextlib.suppress(FileNotFoundError):
            self._remove(content)

    def _remove(self, content: str) -> None:
        """Remove the lock with this content; one that has come in its place is given back. Raises OSError."""
        aside = self.path.with_name(f".lock.{socket.gethostname()}.{os.getpid()}.old.tmp")
        os.rename(self.path, aside)
        if _read(aside) != content:
            with contextlib.suppress(FileExistsError):  # a third run was quicker: who was robbed finds out, see `look`
                _claim(self.path, aside)
        aside.unlink()

    def _beat(self) -> None:
        failing = False
        while not self._taken_by and not self._released.wait(HEARTBEAT_S):
            try:
                self.look()
                if not self._taken_by:
                    os.utime(self.path)
                failing = False
            except OSError as error:  # may pass; if not, the next part to be written says so
                if not failing:
                    log.warning("%s: cannot be touched: %s; trying on", self.path, error.strerror or error)
                failing = True

    def look(self) -> None:
        """Find out whether the lock is still held. Raises OSError."""
        content = self._seen()
        if not content:  # for a moment it may be in the hands of a run that is about to give it back
            self._released.wait(LOOK_AGAIN_S)
            content = self._seen()
        if content != self._content:
            host, pid, _ = _holder(content)
            self._taken_by = f"process {pid} on {host}" if content else "a run that has ended, or its lock was removed"

    def _seen(self) -> str:
        """The lock's content, empty where there is none. Raises OSError, also where the folder itself is gone."""
        try:
            return _read(self.path)
        except FileNotFoundError:
            self.path.parent.stat()
            return ""

    def check(self) -> None:
        """Raises StorageError naming the run that has taken the folder over, once that was found out."""
        if self._taken_by:
            raise StorageError(
                f"{self.path.parent} was taken over by {self._taken_by}; this run, which must have been stopped for a "
                f"minute or more, ends here and leaves the folder alone"
            )

    def release(self) -> None:
        """Give the folder back, if it is still held."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError):  # a lock that stays is taken over: its process is gone
            if _read(self.path) == self._content:
                self._remove(self._content)


def _read(lock: Path) -> str:
    return read_limited(lock, LOCK_BYTES, cut=True).decode(errors="replace")


def _holder(content: str) -> tuple[str, int, float]:
    """Host, process and start of that, as a lock's content has them."""
    try:
        holder = json.loads(content)
        return str(holder["host"]), int(holder["pid"]), float(holder["started"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "unknown", 0, 0.0


def _claim(lock: Path, complete: Path) -> None:
    """Give a complete file the name `lock`. Raises FileExistsError where that is taken.

    Where the file system has no hard links (FAT, some network and user-space ones) the lock is empty for a moment. It
    counts as held then: nobody can tell by whom, and it is new.
    """
    try:
        os.link(complete, lock)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        with open(lock, "x") as file:
            file.write(complete.read_text())


def _is_running(pid: int, started: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - started) < 2.0
    except (psutil.Error, ValueError, OverflowError):  # the latter: no number of a process at all
        return False
