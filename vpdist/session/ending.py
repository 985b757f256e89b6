"""How a run ends that does not end well: the cause, who reports it, what status.json and the console say.

Every failure passes through here: exceptions of the main thread, a second signal, a main thread that hangs while a peer
is lost. One rank reports, the others keep to their log files.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from vpdist import environment
from vpdist.distributed.runtime import KeyStore
from vpdist.errors import EXIT_BUG, Interrupted, PeerLost, StorageError, VpdistError
from vpdist.session.coordination import Control, FailedElsewhere, publish_first_failure, published_failure
from vpdist.session.session import Session
from vpdist.storage.atomic_files import storage_error
from vpdist.storage.run_folder import RunFolder
from vpdist.text import printable_lines

logger = logging.getLogger(__name__)

ROLL_CALL_S = 2.5
"""Time in which the survivors of a lost rank find out who it was."""
EXIT_MESSAGE_S = 2.0
"""Time for what a process that ends at once still says."""


@dataclass(slots=True)
class OpenedSession:
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
        if environment.launch_context().rank != 0:
            return stopped.exit_code
        ends: list[VpdistError] = [stopped]

        def ask() -> None:
            with contextlib.suppress(PeerLost):  # the store is gone with its host
                failure = self.control.failure_elsewhere() if self.control is not None else None
                if failure is not None and failure.exit_code not in (130, 143):
                    ends.append(failure)

        _run_within(EXIT_MESSAGE_S / 4, ask)
        code, message = ends[-1].exit_code, describe(ends[-1], self.restart)

        def record() -> None:
            if self.session is not None:
                with contextlib.suppress(StorageError):  # people are told, too
                    self.session.end(_state(code), code, message, _failing_rank(ends[-1], 0))

        _run_within(EXIT_MESSAGE_S, lambda: report(self.console, f"vpdist: {message}"), record)
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
        if self.session is not None and _is_reporting_rank(failure, self.control):
            failing = _failing_rank(error, self.control.runtime.rank)
            with contextlib.suppress(StorageError):  # the process ends here, its log has the line
                self.session.end(_state(error.exit_code), error.exit_code, describe(error, self.restart), failing)
        return error.exit_code


def _run_within(seconds: float, *actions: Callable[[], None]) -> None:
    """Carry these out side by side, and wait for them so long at most: the main thread may hold what they need."""
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=action, daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def as_storage_error(error: Exception, folder: RunFolder) -> Exception:
    """What the system refused to do with a file of the run, wherever it was asked, is no bug."""
    name = error.filename if isinstance(error, OSError) else None
    if isinstance(error, OSError) and isinstance(name, str) and Path(name).is_relative_to(folder.path):
        return storage_error(Path(name), error, "used")
    return error


def root_cause(error: Exception, opened: OpenedSession) -> Exception:
    """What people should read. A rank that fails is soon followed by a signal from the launcher, and a broken
    connection, on all others; and a rank that is lost by a signal."""
    control = opened.control
    if control is None or not isinstance(error, Interrupted) or control.runtime.world_size == 1:
        return error
    until = time.monotonic() + ROLL_CALL_S
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
                control.progress.raise_if_failed()
                time.sleep(0.05)
    except Interrupted as loss:
        return loss


def report(console: TextIO, message: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone; status.json and the log have it
        console.write(printable_lines(message) + "\n")
        console.flush()


def end_failed(error: Exception, opened: OpenedSession, console: TextIO) -> int:
    """Tell the other ranks, people and status.json; returns the exit code."""
    code = error.exit_code if isinstance(error, VpdistError) else EXIT_BUG
    if isinstance(error, VpdistError):
        logger.error("%s: %s", type(error).__name__, error)
    else:
        logger.error("a bug", exc_info=error)
    control, session, message = opened.control, opened.session, describe(error, opened.restart)
    if control is not None and not isinstance(error, PeerLost):
        control.publish_failure(None if isinstance(error, FailedElsewhere) else message, code)
    opened.abort_display(message)
    if control is None:  # it could not even join its peers: nobody else can tell
        if isinstance(error, PeerLost) or not isinstance(error, Interrupted) or environment.launch_context().rank == 0:
            report(console, f"vpdist: {message}")
        return code
    if _is_reporting_rank(error, control):
        report(console, f"vpdist: {message}")
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


def _is_reporting_rank(error: Exception, control: Control) -> bool:
    """Whether this rank tells people: rank 0, or the lowest one left."""
    if not isinstance(error, PeerLost):
        return control.is_first
    if not error.ranks:  # the store's host is gone, and nobody knows who else
        return control.runtime.context.local_rank == 0
    return control.runtime.rank == error.reporting_rank(control.runtime.world_size)


def describe(error: Exception, restart: bool = False) -> str:
    """The one line that people read."""
    if isinstance(error, FailedElsewhere):
        return f"rank {error.rank}: {error}"
    if isinstance(error, Interrupted):
        return f"{error}; the same command again resumes" + (" (without --restart)" if restart else "")
    if isinstance(error, VpdistError):
        return str(error)
    return f"this is a bug, see the log files: {type(error).__name__}: {error}"
