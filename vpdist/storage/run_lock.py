"""RUN/lock: one run at a time in a folder. It names the process that holds it and is touched every few seconds.

A lock is taken over when its process is gone from this host, or when its heartbeat is old; its holder then finds out
before it writes again.
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
LOOK_AGAIN_S = 1.0


class Lock:
    """Holds RUN/lock from `take` to `release`, touching it so that others see that the holder is alive.

    A process that is stopped for longer than others wait loses it; `raise_if_lost` says so.
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
                    logger.warning("%s: cannot be touched: %s; trying on", self.path, error.strerror or error)
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

    def raise_if_lost(self) -> None:
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
