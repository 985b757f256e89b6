"""Opening and closing a run: peers, folder and lock, logs, progress; and what people are told when it ends.

Only rank 0 writes to the console; everything else goes to the ranks' log files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from vpdist import environment, runtime
from vpdist.control import Control, FailedElsewhere, publish_first_failure, published_failure
from vpdist.errors import (
    EXIT_BUG,
    EXIT_FAILURES_LISTED,
    EXIT_OK,
    Interrupted,
    PeerLost,
    StorageError,
    UsageError,
    VpdistError,
    printable_lines,
)
from vpdist.files import JSON_LIMIT, read_limited, storage_error, write_file
from vpdist.interrupts import StopRequest
from vpdist.logfile import output_to_log
from vpdist.progress import Progress
from vpdist.runfolder import Lock, RunFolder
from vpdist.runtime import KeyStore

log = logging.getLogger(__name__)

MARK, MARK_BYTES = ".seen-by-all-", 1 << 16
SHARED_FOLDER_TIMEOUT_S = 4.0
CENSUS_S = 2.5
"""Time in which the survivors of a lost rank find out who it was."""
LAST_WORDS_S = 2.0
"""Time for what a process that ends at once still says."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: what people read, and whether failures are listed."""

    message: str
    failures: int = 0


@dataclass(slots=True)
class Session:
    """An open run folder."""

    control: Control
    folder: RunFolder
    progress: Progress
    reserve: Path | None = None
    """On rank 0 a file that, once removed, makes room for the last status on a full disk."""
    begun: bool = False
    ended: int | None = None
    """The exit code, once the last status is written."""
    _before: bytes | None = None

    def begin(self) -> None:
        """From here on status.json says how this command fares."""
        self._check_lock()
        self.begun = True
        if self.control.is_first:
            with contextlib.suppress(FileNotFoundError):
                self._before = read_limited(self.folder.status, JSON_LIMIT, cut=True)
            self.folder.write_status("running", None, "")

    def end(self, state: str, code: int, message: str, failing_rank: int | None = None) -> None:
        """Write the last status. A command that was refused leaves the one of the run it was refused by.

        Raises StorageError where it cannot be written, or another run has taken the folder over.
        """
        self._check_lock()
        if self.begun and code == UsageError.exit_code and self._before is not None:
            write_file(self.folder.status, self._before)
        elif self.begun:
            if self.reserve is not None:
                _remove_mark(self.reserve)
            self.folder.write_status(state, code, printable_lines(message), failing_rank)
        self.ended = code

    def _check_lock(self) -> None:
        """The heartbeat may not have looked yet since this process went on after a stop."""
        if self.control.lock is not None:
            with contextlib.suppress(OSError):  # what is written next says so
                self.control.lock.look()
            self.control.lock.check()


def conduct(
    folder: RunFolder,
    body: Callable[[Session], Outcome],
    *,
    device: str,
    progress: str,
    stall_timeout: float,
    restart: bool = False,
    must_exist: bool = False,
) -> int:
    """Run `body` on this rank and return the exit code.

    Args:
        folder: the run folder; created unless `must_exist`.
        body: the stages; called on every rank.
        device: auto, cpu or cuda.
        progress: auto, bars, log or none.
        stall_timeout: seconds after which one silent rank ends the run.
        restart: discard what the folder holds.
        must_exist: the folder must hold a run.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # nothing reaches the console before the log file is open
    place = environment.place()
    console = _console()
    with contextlib.ExitStack() as stack:
        opened = _Opened(restart, console)
        stop = StopRequest(at_once=opened.stop_at_once)
        stack.enter_context(stop.installed())
        try:
            opened.control = control = Control(runtime.start(place, device, stop.check), stop)
            if control.is_first:
                anew = restart and control.runtime.attempt == 0
                control.lock = _open_folder(folder, stack, restart=anew, must_exist=must_exist)
            mark = control.from_first("folder", lambda: _leave_mark(folder))
            _see_mark(folder.path / mark)
            if control.is_first:
                stack.callback(_remove_mark, folder.path / mark)
            logging_us = stack.enter_context(output_to_log(folder.log(place.rank), place))
            control.meet("opened")  # whoever failed until now has said so; what follows is a collective
            control.progress = Progress(
                control.runtime,
                progress,
                folder.progress if control.is_first else None,
                console,
                stall_timeout_s=stall_timeout,
                on_forced_exit=opened.forced_exit,
                logging_us=logging_us,
            )
            reserve = folder.path / mark if control.is_first else None
            opened.session = Session(control, folder, control.progress, reserve)
            outcome = body(opened.session)
            control.progress.close()
            code = EXIT_FAILURES_LISTED if outcome.failures else EXIT_OK
            if control.is_first:
                opened.session.end("done_with_failures" if outcome.failures else "done", code, outcome.message)
                _tell(console, outcome.message)
        except Exception as error:  # noqa: BLE001 - the one place where every failure ends: told, logged, recorded
            return _failed(_cause(_told_by_system(error, folder), opened), opened, console)
        runtime.stop()
        return code


def _open_folder(folder: RunFolder, stack: contextlib.ExitStack, *, restart: bool, must_exist: bool) -> Lock:
    """Rank 0 creates and locks the folder, and clears what killed processes left in it."""
    try:
        if must_exist and not folder.run.exists():
            raise UsageError(f"{folder.path} holds no run (there is no run.json)")
    except OSError as error:
        raise storage_error(folder.path, error, "read") from error
    folder.prepare(restart=False)
    lock = Lock(folder)
    lock.take()
    stack.callback(lock.release)
    if restart:
        folder.prepare(restart=True)
    folder.remove_temporary_files()
    return lock


@dataclass(slots=True)
class _Opened:
    """What of a run has been opened so far."""

    restart: bool
    """Whether the command says --restart, which the one that resumes must not."""
    console: TextIO
    control: Control | None = None
    session: Session | None = None

    def abort_display(self, reason: str) -> None:
        if self.control is not None and self.control.progress is not None:
            self.control.progress.abort(reason)

    def stop_at_once(self, stopped: Interrupted) -> int:
        """A second signal: this process ends in a moment, whatever its main thread is at. Returns the exit code.

        Rank 0 says so, or what has made another rank fail, unless terminal or disk don't take it by then.
        """
        if self.session is not None and self.session.ended is not None:
            return self.session.ended
        self.abort_display(str(stopped))
        if environment.place().rank != 0:
            return stopped.exit_code
        ends: list[VpdistError] = [stopped]

        def ask() -> None:
            with contextlib.suppress(PeerLost):  # the store is gone with its host
                failure = self.control.failure_elsewhere() if self.control is not None else None
                if failure is not None and failure.exit_code not in (130, 143):
                    ends.append(failure)

        _within(LAST_WORDS_S / 4, ask)
        code, message = ends[-1].exit_code, describe(ends[-1], self.restart)

        def record() -> None:
            if self.session is not None:
                with contextlib.suppress(StorageError):  # people are told, too
                    self.session.end(_state(code), code, message, _failing_rank(ends[-1], 0))

        _within(LAST_WORDS_S, lambda: _tell(self.console, f"vpdist: {message}"), record)
        return code

    def forced_exit(self, failure: VpdistError, keys: KeyStore) -> int:
        """The main thread hangs, and progress is about to end this process: leave word of it; returns the exit code.

        A rank that hangs often does so while another one fails: then it is that failure, not the loss of its rank,
        that people and scripts are told.
        """
        if self.control is None:
            return failure.exit_code
        error = failure
        with contextlib.suppress(PeerLost):  # the store is gone with its host
            if not isinstance(failure, Interrupted):
                publish_first_failure(keys, self.control.runtime.rank, failure.exit_code, describe(failure))
            error = published_failure(keys) or failure
        if self.session is not None and _speaks(failure, self.control):
            failing = _failing_rank(error, self.control.runtime.rank)
            with contextlib.suppress(StorageError):  # the process ends here, its log has the line
                self.session.end(_state(error.exit_code), error.exit_code, describe(error, self.restart), failing)
        return error.exit_code


def _within(seconds: float, *actions: Callable[[], None]) -> None:
    """Carry these out side by side, and wait for them so long at most: the main thread may hold what they need."""
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=action, daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _told_by_system(error: Exception, folder: RunFolder) -> Exception:
    """What the system refused to do with a file of the run, wherever it was asked, is no bug."""
    name = error.filename if isinstance(error, OSError) else None
    if isinstance(error, OSError) and isinstance(name, str) and Path(name).is_relative_to(folder.path):
        return storage_error(Path(name), error, "used")
    return error


def _cause(error: Exception, opened: _Opened) -> Exception:
    """What people should read. A rank that fails is soon followed by a signal from the launcher, and a broken
    connection, on all others; and a rank that is lost by a signal."""
    control = opened.control
    if control is None or not isinstance(error, Interrupted) or control.runtime.world_size == 1:
        return error
    until = time.monotonic() + CENSUS_S
    try:
        # Waiting, a rank asks for a round of progress at once, in which a lost peer is noticed.
        with control.progress.waiting() if control.progress is not None else contextlib.nullcontext():
            while True:
                failure = control.failure_elsewhere()
                if failure is not None and failure.exit_code not in (130, 143):
                    return failure
                by_person = error.exit_code == 128 + signal.SIGINT
                if isinstance(error, PeerLost) or by_person or control.progress is None or time.monotonic() > until:
                    return error
                control.progress.check()
                time.sleep(0.05)
    except Interrupted as loss:
        return loss


def _tell(console: TextIO, message: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone; status.json and the log have it
        console.write(printable_lines(message) + "\n")
        console.flush()


def _failed(error: Exception, opened: _Opened, console: TextIO) -> int:
    """Tell the other ranks, people and status.json; returns the exit code."""
    code = error.exit_code if isinstance(error, VpdistError) else EXIT_BUG
    if isinstance(error, VpdistError):
        log.error("%s: %s", type(error).__name__, error)
    else:
        log.error("a bug", exc_info=error)
    control, session, message = opened.control, opened.session, describe(error, opened.restart)
    if control is not None and not isinstance(error, PeerLost):
        control.publish_failure(None if isinstance(error, FailedElsewhere) else message, code)
    opened.abort_display(message)
    if control is None:  # it could not even join its peers: nobody else can tell
        if isinstance(error, PeerLost) or not isinstance(error, Interrupted) or environment.place().rank == 0:
            _tell(console, f"vpdist: {message}")
        return code
    if _speaks(error, control):
        _tell(console, f"vpdist: {message}")
        if session is not None:
            failing = _failing_rank(error, control.runtime.rank)
            with contextlib.suppress(StorageError):  # the disk may be what failed; people have been told
                session.end(_state(code), code, message, failing)
    if control.is_first and control.runtime.world_size > 1:
        control.acknowledge_failure()
    return code


def _failing_rank(error: Exception, rank: int) -> int | None:
    """The rank at which it began, as `rank` sees it."""
    if isinstance(error, PeerLost):
        return error.ranks[0] if error.ranks else None
    return error.rank if isinstance(error, FailedElsewhere) else rank


def _state(code: int) -> str:
    """What status.json calls an end other than a good one."""
    return "interrupted" if code in (130, 143) else "failed"


def _speaks(error: Exception, control: Control) -> bool:
    """Whether this rank tells people: rank 0, or the lowest one left."""
    if not isinstance(error, PeerLost):
        return control.is_first
    if not error.ranks:  # the store's host is gone, and nobody knows who else
        return control.runtime.place.local_rank == 0
    return control.runtime.rank == error.spokesman(control.runtime.world_size)


def describe(error: Exception, restart: bool = False) -> str:
    """The one line that people read."""
    if isinstance(error, FailedElsewhere):
        return f"rank {error.rank}: {error}"
    if isinstance(error, Interrupted):
        return f"{error}; the same command again resumes" + (" (without --restart)" if restart else "")
    if isinstance(error, VpdistError):
        return str(error)
    return f"this is a bug, see the log files: {type(error).__name__}: {error}"


def _console() -> TextIO:
    """What people see: the standard error this process was started with, whatever is redirected later."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return os.fdopen(os.dup(2), "w", encoding=encoding, errors="backslashreplace", buffering=1)


def _leave_mark(folder: RunFolder) -> str:
    """A file that every rank must be able to see, and that needs some room; returns its name. Raises StorageError."""
    name = f"{MARK}{os.getpid()}-{time.time_ns()}"
    for old in folder.path.glob(f"{MARK}*"):
        old.unlink(missing_ok=True)
    write_file(folder.path / name, bytes(MARK_BYTES))
    return name


def _remove_mark(mark: Path) -> None:
    with contextlib.suppress(OSError):  # it is removed by the next run
        mark.unlink(missing_ok=True)


def _see_mark(mark: Path) -> None:
    """Raises StorageError when the folder that rank 0 sees is not this rank's."""
    until = time.monotonic() + SHARED_FOLDER_TIMEOUT_S
    while not mark.exists():
        if time.monotonic() > until:
            raise StorageError(
                f"{mark.parent}: rank 0's folder is not visible on {os.uname().nodename}; all nodes must share it"
            )
        time.sleep(0.05)
