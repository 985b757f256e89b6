"""RUN/lock: one run at a time in a folder. It names the process that holds it and is touched every few seconds.

A lock is taken over when its process is gone from this host, or when its heartbeat is old; its holder then notices
before it writes again. File locks are missing on some network file systems and do not name their holder: see "A lock
with a heartbeat" in docs/design.md.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path

import psutil

from vpdist.errors import StorageError, UsageError
from vpdist.storage.atomic_files import read_limited, storage_error
from vpdist.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
LOCK_BYTES = 1 << 12
HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0
RECHECK_S = 1.0
"""An absent lock may be in the hands of another run, which is about to restore it."""


class Lock:
    """Holds RUN/lock from `take` to `release`, touching it so that others see that the holder is alive.

    A process that is suspended for longer than STALE_AFTER_S can lose it; `raise_if_lost` then raises.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.path = folder.path / "lock"
        self._content = ""
        self._taken_by = ""
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="lock", daemon=True)

    def take(self) -> None:
        """Take the lock, an abandoned one too.

        Raises UsageError naming host, process and age of heartbeat when another run holds the folder, StorageError
        where it cannot be written.
        """
        started = psutil.Process().create_time()
        holder = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started})
        complete = self._beside("tmp")
        try:
            complete.write_text(holder)
            for _ in range(10):
                try:
                    _claim(self.path, complete)
                except FileExistsError:
                    self._take_over()
                    continue
                self._content = holder
                self._thread.start()
                return
        except OSError as error:
            raise storage_error(self.path, error) from error
        finally:
            with contextlib.suppress(OSError):
                complete.unlink(missing_ok=True)
        raise StorageError(f"{self.path}: cannot be taken: other runs take it again and again")

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
                f"{self.path.parent} is in use: process {pid} on {host}, last heartbeat {max(0, age):.0f} s ago; "
                f"wait until it has ended, or use another folder"
            )
        with contextlib.suppress(FileNotFoundError):
            self._remove(content)

    def _remove(self, content: str) -> None:
        """Remove the lock if it has this content; restore one with another. Raises OSError."""
        renamed = self._beside("old.tmp")
        os.rename(self.path, renamed)
        if _read(renamed) != content:
            with contextlib.suppress(FileExistsError):  # a third run was quicker: that holder notices, see `check_held`
                _claim(self.path, renamed)
        renamed.unlink()

    def _beside(self, suffix: str) -> Path:
        """A temporary file of this process next to the lock."""
        return self.path.with_name(f".lock.{socket.gethostname()}.{os.getpid()}.{suffix}")

    def _send_heartbeats(self) -> None:
        failing = False
        while not self._taken_by and not self._released.wait(HEARTBEAT_S):
            try:
                self.check_held()
                if not self._taken_by:
                    os.utime(self.path)
                failing = False
            except OSError as error:  # may pass; if not, writing the next part raises it
                if not failing:
                    logger.warning("%s: cannot be touched: %s; retrying", self.path, error.strerror or error)
                failing = True

    def check_held(self) -> None:
        """Note whether the lock is still held. Raises OSError."""
        content = self._current()
        if not content:
            self._released.wait(RECHECK_S)
            content = self._current()
        if content != self._content:
            host, pid, _ = _holder(content)
            self._taken_by = f"process {pid} on {host}" if content else "a run that has ended, or its lock was removed"

    def _current(self) -> str:
        """The lock's content, empty where there is none. Raises OSError, also where the folder itself is gone."""
        try:
            return _read(self.path)
        except FileNotFoundError:
            self.path.parent.stat()
            return ""

    def raise_if_lost(self) -> None:
        """Raises StorageError naming the run that has taken the folder over, once `check_held` has noticed it."""
        if self._taken_by:
            raise StorageError(
                f"{self.path.parent} was taken over by {self._taken_by}, probably because this run was suspended for a "
                f"minute or more; this run ends and writes nothing more to the folder"
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
    """Host, process id and start time in a lock's content."""
    try:
        holder = json.loads(content)
        return str(holder["host"]), int(holder["pid"]), float(holder["started"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "unknown", 0, 0.0


def _claim(lock: Path, complete: Path) -> None:
    """Give a complete file the name `lock`. Raises FileExistsError where that is taken.

    Where the file system has no hard links (FAT, some network and user-space ones) the lock is empty for a moment. It
    counts as held then, by an unknown process: it is new.
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
    except (psutil.Error, ValueError, OverflowError):  # the last two: not a process id
        return False
