"""How a run fails: its cause, the rank that reports it, the message on the console and in status.json.

Every failure passes through here: exceptions of the main thread, a second signal, a main thread that hangs while a rank
is lost. One rank reports, the others write to their log files only.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from vpdist import environment
from vpdist.display.terminal_bars import terminal_size
from vpdist.distributed.runtime import KeyStore
from vpdist.environment import RESUMABLE
from vpdist.errors import EXIT_BUG, Interrupted, PeerLost, StorageError, VpdistError, limit_reached
from vpdist.session import before_begin
from vpdist.session.coordination import Control, OtherRankFailed, publish_first_failure, published_failure
from vpdist.session.last_words import say_after_agent, tell_agent, with_log
from vpdist.session.session import Session
from vpdist.storage.atomic_files import storage_error
from vpdist.storage.run_folder import RunFolder
from vpdist.text import MESSAGE_LETTERS, printable_lines, shortened, wrapped
from vpdist.urls import without_secrets

logger = logging.getLogger(__name__)

ROLL_CALL_S = 2.5
"""Time in which the survivors of a lost rank agree on which one it was."""
EXIT_MESSAGE_S = 2.0
"""Time for the message of a process that a second signal ends."""
SIGNALLED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of runs that were interrupted."""


@dataclass(slots=True)
class OpenedSession:
    """The parts of a session that have been opened so far."""

    restart: bool
    """Whether the command has --restart, with which it would not resume."""
    console: TextIO
    control: Control | None = None
    session: Session | None = None
    folder: RunFolder | None = None
    """Where it is recorded that the command was told to stop before its run began."""

    def abort_display(self, reason: str) -> None:
        if self.control is not None and self.control.progress is not None:
            self.control.progress.abort(reason)

    def end_immediately(self, stopped: Interrupted) -> int:
        """A second signal ends this process, whatever its main thread does. Returns the exit code.

        Rank 0 reports that, or the failure of another rank, as far as terminal and disk permit in EXIT_MESSAGE_S.
        """
        if self.session is not None and self.session.ended is not None:
            return self.session.ended
        self.abort_display(str(stopped))
        if environment.launch_context().rank != 0:
            return stopped.exit_code
        causes: list[VpdistError] = [stopped]

        def read_failure() -> None:
            with contextlib.suppress(PeerLost):  # the process that hosts the store has ended
                failure = published_failure(self.control.runtime.keys) if self.control is not None else None
                if failure is not None and failure.exit_code not in SIGNALLED:
                    causes.append(failure)

        _run_within(EXIT_MESSAGE_S / 4, read_failure)
        cause, message = causes[-1], describe(causes[-1], self.restart)
        report_it = partial(report, self.console, f"vpdist: {message}")
        _run_within(EXIT_MESSAGE_S, report_it, partial(self.record, cause, cause.exit_code, message, rank=0))
        return cause.exit_code

    def record(self, error: Exception, code: int, message: str, rank: int) -> None:
        """Write the last status.json, as rank `rank`, and leave the message for the launcher's agent."""
        failing_rank: int | None = error.rank if isinstance(error, OtherRankFailed) else rank
        if isinstance(error, PeerLost):
            failing_rank = error.ranks[0] if error.ranks else None
        log = self.session.folder.log(failing_rank or 0) if self.session is not None else None
        leave_last_words(with_log(message, log), code, self.console)
        if self.session is not None:
            with contextlib.suppress(StorageError):  # the disk may be what failed; console and log have the message
                self.session.end("interrupted" if code in SIGNALLED else "failed", code, message, failing_rank)

    def record_stop_before_begin(self, error: Exception, code: int, message: str) -> None:
        """Write status.json for a command that a signal has stopped while its ranks were joining."""
        if self.folder is None or code not in SIGNALLED or isinstance(error, PeerLost):
            return
        if environment.launch_context().rank == 0 and not (self.session is not None and self.session.begun):
            lock = self.control.lock if self.control is not None else None
            before_begin.record(self.folder, "interrupted", code, message, lock=lock)

    def forced_exit(self, failure: VpdistError, keys: KeyStore) -> int:
        """The main thread hangs, and this process is about to be ended: record why; returns the exit code.

        A rank often hangs while another one fails: then that failure is recorded, not the loss of this rank.
        """
        if self.control is None:
            return failure.exit_code
        error, rank = failure, self.control.runtime.rank
        with contextlib.suppress(PeerLost):  # the process that hosts the store has ended
            if not isinstance(failure, Interrupted):
                publish_first_failure(keys, rank, failure.exit_code, describe(failure))
            error = published_failure(keys) or failure
        if _is_reporting_rank(failure, self.control):
            self.record(error, error.exit_code, describe(error, self.restart), rank)
        return error.exit_code


def leave_last_words(message: str, code: int, console: TextIO) -> None:
    """Tell `message` below what the launcher's agent prints at its own end."""
    tell_agent(message)
    if code in SIGNALLED:
        say_after_agent(message, console)


def _run_within(seconds: float, *actions: Callable[[], None]) -> None:
    """Call these in threads of their own, and wait `seconds` at most: the main thread may hold a lock they need."""
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=action, daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def as_storage_error(error: Exception, folder: RunFolder) -> Exception:
    """An OSError about a file of the run folder, or a limit of memory or threads, as a StorageError; others as they
    are."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        path = Path(error.filename)
        return storage_error(path, error, "used") if path.is_relative_to(folder.path) else error
    return error if isinstance(error, VpdistError) else limit_reached(error) or error


def root_cause(error: Exception, opened: OpenedSession) -> Exception:
    """The failure or loss that led to `error`, where there is one: after a rank has failed or was lost, the others get
    a signal from the launcher, and their connections break."""
    control = opened.control
    if control is None or not isinstance(error, Interrupted) or control.runtime.world_size == 1:
        return error
    until = time.monotonic() + ROLL_CALL_S
    try:
        # A waiting rank starts a round of all_gather immediately, in which a lost rank is noticed.
        with control.progress.waiting() if control.progress is not None else contextlib.nullcontext():
            while True:
                failure = published_failure(control.runtime.keys)
                if failure is not None and failure.exit_code not in SIGNALLED:
                    return failure
                by_user = error.exit_code == 128 + signal.SIGINT
                if isinstance(error, PeerLost) or by_user or control.progress is None or time.monotonic() > until:
                    return error
                control.progress.raise_if_failed()
                time.sleep(0.05)
    except Interrupted as loss:
        return loss


def report(console: TextIO, message: str) -> None:
    """Write a message to the console."""
    with contextlib.suppress(OSError):  # the terminal was closed; status.json and the log have the message
        text = printable_lines(message)
        console.write((wrapped(text, terminal_size(console)[0]) if console.isatty() else text) + "\n")
        console.flush()


def end_failed(error: Exception, opened: OpenedSession) -> int:
    """Report `error` to the other ranks, on the console and in status.json; returns the exit code."""
    code = error.exit_code if isinstance(error, VpdistError) else EXIT_BUG
    logger.error("%s: %s", type(error).__name__, error, exc_info=None if isinstance(error, VpdistError) else error)
    control, message = opened.control, describe(error, opened.restart)
    if control is not None and not isinstance(error, PeerLost):
        control.publish_failure(None if isinstance(error, OtherRankFailed) else message, code)
    opened.abort_display(message)
    opened.record_stop_before_begin(error, code, message)
    if control is None:  # this rank has not joined the others, so each reports for itself
        if isinstance(error, PeerLost) or not isinstance(error, Interrupted) or environment.launch_context().rank == 0:
            leave_last_words(message, code, opened.console)
            report(opened.console, f"vpdist: {message}")
        return code
    if _is_reporting_rank(error, control):
        report(opened.console, f"vpdist: {message}")
        opened.record(error, code, message, control.runtime.rank)
    if control.is_first and control.runtime.world_size > 1:
        control.acknowledge_failure()
    return code


def _is_reporting_rank(error: Exception, control: Control) -> bool:
    """Whether this rank reports to the user: rank 0, or after a loss the lowest one left."""
    if not isinstance(error, PeerLost):
        return control.is_first
    if not error.ranks:  # it is not known which ranks are lost: one per node reports
        return control.runtime.context.local_rank == 0
    return control.runtime.rank == error.reporting_rank(control.runtime.world_size)


def describe(error: Exception, restart: bool = False) -> str:
    """The message for the user."""
    return shortened(_whole_message(error, restart), MESSAGE_LETTERS)


def _whole_message(error: Exception, restart: bool) -> str:
    if isinstance(error, OtherRankFailed):
        return f"rank {error.rank}: {error}"
    if isinstance(error, Interrupted):
        return f"{error}; {RESUMABLE}" + (" (without --restart)" if restart else "")
    if isinstance(error, VpdistError):
        return str(error)
    return f"this is a bug, see the log files: {type(error).__name__}: {without_secrets(str(error))}"
