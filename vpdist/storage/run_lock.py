"""RUN/lock: one run at a time in a folder. It names the process that holds it and is touched every few seconds.

A lock is taken over when its process has provably ended, or when nothing touched it while this process watched: other
machines' clocks are not believed. Its holder then notices before it writes again. File locks are missing on some
network file systems and do not name their holder: see "A lock with a heartbeat" in docs/design.md.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vpdist.errors import StorageError, UsageError
from vpdist.storage.atomic_files import create_exclusively, open_regular, storage_error, sync_folder, temporary_beside
from vpdist.storage.lock_holder import Holder, State, this_process
from vpdist.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
LOCK_BYTES = 1 << 12
HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0
WATCHED_BEATS = 3
"""A lock whose last heartbeat seems old is watched for so many."""
LOOK_S = 0.5
RECHECK_S = 1.0
"""An absent lock may be in the hands of another run, which is about to restore it."""
TRIES = 10


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

    def take(
        self, tell: Callable[[str], None] = logger.info, raise_if_ending: Callable[[], None] = lambda: None
    ) -> None:
        """Take the lock, an abandoned one too, which may have to be watched for STALE_AFTER_S. That is told by `tell`;
        `raise_if_ending` is called meanwhile, and may raise.

        Raises UsageError naming host, process and age of heartbeat when another run holds the folder, StorageError
        where it cannot be written, RuntimeError where no thread can be started, without holding the lock.
        """
        holder = this_process().to_json()
        try:
            for _ in range(TRIES):
                if self._try_to_claim(holder):
                    self._content = holder
                    try:
                        self._thread.start()
                    except RuntimeError:  # no more threads may be started
                        self._remove(holder)
                        raise
                    return
                self._take_over(tell, raise_if_ending)
        except OSError as error:
            raise storage_error(self.path, error) from error
        raise StorageError(f"{self.path}: cannot be taken: other runs take it again and again")

    def _try_to_claim(self, holder: str) -> bool:
        """Whether this process now has the lock. Raises OSError."""
        complete = temporary_beside(self.path)
        try:
            _write(complete, holder)
            _claim(self.path, complete, holder)
        except FileExistsError:
            return False
        except FileNotFoundError:  # the run that has won cleans up; or the folder is gone, which the next step tells
            self.path.parent.stat()
            return False
        finally:
            with contextlib.suppress(OSError):
                complete.unlink(missing_ok=True)
        return True

    def _take_over(self, tell: Callable[[str], None], raise_if_ending: Callable[[], None]) -> None:
        """Remove an abandoned lock, or raise UsageError."""
        with contextlib.suppress(FileNotFoundError):  # its holder has released it, or another run has taken it over
            content, touched_ns = _look(self.path)
            holder = Holder.from_json(content)
            age = time.time() - touched_ns / 1e9
            state = holder.state()
            if state is State.RUNNING and age < STALE_AFTER_S:
                raise self._in_use(holder, max(0.0, age))
            if state is State.GONE or self._is_silent(holder, content, touched_ns, tell, raise_if_ending):
                self._remove(content)

    def _is_silent(
        self,
        holder: Holder,
        content: str,
        touched_ns: int,
        tell: Callable[[str], None],
        raise_if_ending: Callable[[], None],
    ) -> bool:
        """Watch the lock; False if it changes hands. Raises UsageError once it is touched.

        The time in a file is a file server's or was set by a clock that has been corrected, so it decides only how long
        to watch. Looks are counted: a clock would go on while this process and the holder are both suspended.
        """
        age = time.time() - touched_ns / 1e9
        watched_s = min(STALE_AFTER_S, max(WATCHED_BEATS * HEARTBEAT_S, STALE_AFTER_S - age))
        tell(
            f"{self.path.parent}: process {holder.pid} on {holder.host} may be at work in it; "
            f"watching its lock for {watched_s:.0f} s"
        )
        for _ in range(math.ceil(watched_s / LOOK_S)):
            raise_if_ending()
            time.sleep(LOOK_S)
            seen, now_ns = _look(self.path)
            if seen != content:
                return False
            if now_ns != touched_ns:
                raise self._in_use(holder, 0.0)
        return True

    def _in_use(self, holder: Holder, age: float) -> UsageError:
        return UsageError(
            f"{self.path.parent} is in use: process {holder.pid} on {holder.host}, last heartbeat {age:.0f} s ago; "
            f"wait until it has ended, or use another folder"
        )

    def _remove(self, content: str) -> None:
        """Remove the lock if it has this content; restore one with another. Raises OSError."""
        aside = temporary_beside(self.path, "old")  # no run removes it: it may have to be restored
        os.rename(self.path, aside)
        found, _ = _look(aside)
        if found != content:
            with contextlib.suppress(FileExistsError):  # a third run was quicker: that holder notices, see `check_held`
                _claim(self.path, aside, found)
        aside.unlink()

    def _send_heartbeats(self) -> None:
        failing = False
        while not self._taken_by and not self._released.wait(HEARTBEAT_S):
            try:
                self.check_held()
                if not self._taken_by:
                    os.utime(self.path, follow_symlinks=False)
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
            holder = Holder.from_json(content)
            by_other = f"process {holder.pid} on {holder.host}"
            self._taken_by = by_other if content else "a run that has ended, or its lock was removed"

    def _current(self) -> str:
        """The lock's content, empty where there is none. Raises OSError, also where the folder itself is gone."""
        try:
            return _look(self.path)[0]
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
            if _look(self.path)[0] == self._content:
                self._remove(self._content)


def _look(lock: Path) -> tuple[str, int]:
    """A lock's content and when it was last touched (ns): of one and the same file, asked of the file server anew."""
    with open_regular(lock) as file:
        return file.read(LOCK_BYTES).decode(errors="replace"), os.fstat(file.fileno()).st_mtime_ns


def _write(path: Path, content: str) -> None:
    """A new file that a power cut leaves whole or absent. Raises FileExistsError."""
    with create_exclusively(path) as file:
        try:
            file.write(content.encode())
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


def _claim(lock: Path, complete: Path, content: str) -> None:
    """Give a complete file, which has this content, the name `lock`. Raises FileExistsError where that is taken.

    Where the file system has no hard links (FAT, some network and user-space ones) the lock is empty for a moment. Its
    process is unknown then, so that it is watched before it is taken over.
    """
    try:
        os.link(complete, lock)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _write(lock, content)
    sync_folder(lock.parent)
