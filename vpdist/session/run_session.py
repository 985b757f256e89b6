"""Run a command's stages on this rank: join the other ranks, open folder, lock, log file and progress; close them.

Only rank 0 writes to the console; everything else goes to the ranks' log files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from vpdist import environment
from vpdist.display.log_lines import INTERVAL_S
from vpdist.distributed import runtime
from vpdist.errors import EXIT_FAILURES_LISTED, EXIT_OK, StorageError, UsageError
from vpdist.session.coordination import Control
from vpdist.session.ending import OpenedSession, as_storage_error, end_failed, report, root_cause
from vpdist.session.progress import Progress
from vpdist.session.session import Outcome, Session, remove_mark
from vpdist.session.signals import StopRequest
from vpdist.slurm_step import LONE_TASK
from vpdist.storage.atomic_files import write_file
from vpdist.storage.log_file import output_to_log
from vpdist.storage.run_folder import SHARED_MARK, RunFolder
from vpdist.storage.run_lock import Lock
from vpdist.storage.table_switch import finish_switch

SHARED_MARK_BYTES = 1 << 16
MARK_NAME = re.compile(re.escape(SHARED_MARK) + r"\d+-\d+")
SHARED_FOLDER_TIMEOUT_S = 4.0


def run_session(
    folder: RunFolder,
    body: Callable[[Session], Outcome],
    *,
    device: str,
    progress: str,
    stall_timeout: float,
    log_interval: float = INTERVAL_S,
    restart: Callable[[Control], None] | None = None,
    must_exist: bool = False,
) -> int:
    """Run `body` on this rank and return the exit code.

    Args:
        folder: the run folder; created unless `must_exist`.
        body: the stages; called on every rank.
        device, progress, log_interval: as in Settings.
        stall_timeout: seconds after which one silent rank ends the run.
        restart: discard what the folder holds, once this, called on rank 0, has found nothing that would end the run.
        must_exist: the folder must hold a run.
    """
    with contextlib.ExitStack() as stack:
        opened = OpenedSession(restart is not None, _console(), folder=None if must_exist else folder)
        stop = StopRequest(on_second_signal=opened.end_immediately)
        stack.enter_context(stop.installed())
        try:
            opened.control = control = _join(stop)
            control.runtime = runtime.on_device(control.runtime, device)
            _compare_commands(control)
            if control.is_first:
                _open_folder(folder, stack, control, opened.console, restart, must_exist=must_exist)
            mark = control.broadcast_from_rank_0("folder", lambda: _write_mark(folder))
            _await_mark(folder.path / Path(mark).name)
            if control.is_first:
                stack.callback(remove_mark, folder.path / mark)
            logging_us = stack.enter_context(output_to_log(folder.log(control.runtime.rank), control.runtime.context))
            control.barrier("opened")  # a rank that failed until now has published it; collectives follow
            control.progress = Progress(
                control.runtime,
                progress,
                folder.progress if control.is_first else None,
                opened.console,
                stall_timeout_s=stall_timeout,
                log_interval_s=log_interval,
                on_forced_exit=opened.forced_exit,
                logging_us=logging_us,
            )
            opened.session = Session(
                control, folder, control.progress, folder.path / mark if control.is_first else None
            )
            outcome = body(opened.session)
            control.progress.close()
            code = EXIT_FAILURES_LISTED if outcome.failures else EXIT_OK
            if control.is_first:
                opened.session.end("done_with_failures" if outcome.failures else "done", code, outcome.message)
                report(opened.console, outcome.message)
        except Exception as error:  # noqa: BLE001 - the one place where failures are reported
            return end_failed(root_cause(as_storage_error(error, folder), opened), opened)
        runtime.stop()
        return code


def _join(stop: StopRequest) -> Control:
    """Join the other ranks."""
    return Control(runtime.start(environment.launch_context(), stop.raise_if_requested), stop)


def _compare_commands(control: Control) -> None:
    """Raises UsageError where one `srun` has started commands that differ: these are no ranks of one run."""
    mine = json.dumps(sys.argv[1:])
    if control.runtime.context.by_srun and control.broadcast_from_rank_0("command", lambda: mine) != mine:
        raise UsageError(
            f"srun has started commands that differ from rank to rank; if every task is a run of its own, put "
            f"{LONE_TASK} before the command"
        )


def _open_folder(
    folder: RunFolder,
    stack: contextlib.ExitStack,
    control: Control,
    console: TextIO,
    restart: Callable[[Control], None] | None,
    *,
    must_exist: bool,
) -> None:
    """On rank 0: create and lock the folder, and remove temporary files of killed processes; with `restart` an earlier
    run, too, once that has found nothing wrong."""
    if must_exist:
        folder.check_holds_run()
    folder.prepare(restart=False)
    control.lock = lock = Lock(folder)
    lock.take(lambda text: report(console, f"vpdist: {text}"), control.raise_if_ending)
    stack.callback(lock.release)
    if restart is not None and control.runtime.attempt == 0 and folder.holds_run():
        restart(control)
        folder.prepare(restart=True)
    folder.remove_temporary_files()
    finish_switch(folder)


def _console() -> TextIO:
    """The standard error that this process was started with, whatever is redirected later. Until the log file is open,
    nothing is logged."""
    logging.getLogger().addHandler(logging.NullHandler())
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return os.fdopen(os.dup(2), "w", encoding=encoding, errors="backslashreplace", buffering=1)


def _write_mark(folder: RunFolder) -> str:
    """Write a file that every rank must see, and whose bytes are a reserve; returns its name. Raises StorageError."""
    name = f"{SHARED_MARK}{os.getpid()}-{secrets.randbits(63)}"
    for old in folder.path.glob(f"{SHARED_MARK}*"):
        old.unlink(missing_ok=True)
    write_file(folder.path / name, bytes(SHARED_MARK_BYTES))
    return name


def _await_mark(mark: Path) -> None:
    """Wait until the file of rank 0 is visible.

    Raises StorageError if this rank sees another folder, or if somebody else has set the name to that of another file.
    """
    if not MARK_NAME.fullmatch(mark.name):
        raise StorageError(f"{mark.parent}: {mark.name!r} is not the name of a mark of rank 0")
    until = time.monotonic() + SHARED_FOLDER_TIMEOUT_S
    while not mark.exists():
        if time.monotonic() > until:
            raise StorageError(
                f"{mark.parent}: rank 0's run folder is not visible on {os.uname().nodename}; all nodes must share it"
            )
        time.sleep(0.05)
