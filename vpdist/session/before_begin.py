"""A command that ends before its run has begun: told to stop while it is imported, or refused for a path that is wrong.

Its end is written to status.json as that of a run is, since launchers hide exit codes. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from vpdist.environment import RESUMABLE, launch_context
from vpdist.errors import StorageError, UsageError, VpdistError
from vpdist.session.last_words import say_after_agent
from vpdist.session.signals import exit_code, stopping_signals
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import Lock
from vpdist.text import printable_lines


@contextlib.contextmanager
def before_begin(folder: RunFolder) -> Iterator[None]:
    """Until a run takes over in this block: a signal ends this process, rank 0 records that, and errors too.

    An error of usage is not recorded: status.json goes on speaking of the run that is there.
    """
    is_first, unchanged = launch_context().rank == 0, folder.status_time()

    def stop(number: int, frame: FrameType | None) -> None:
        message = f"stopped by {signal.Signals(number).name} before it began; {RESUMABLE}"
        if is_first:
            record(folder, "interrupted", exit_code(number), message, unchanged=unchanged)
            with contextlib.suppress(OSError):  # the terminal was closed
                os.write(2, f"vpdist: {message}\n".encode())
            say_after_agent(message, sys.stderr)
        os._exit(exit_code(number))

    previous = {number: signal.signal(number, stop) for number in stopping_signals()}
    try:
        yield
    except UsageError:
        raise
    except VpdistError as error:
        if is_first:
            record(folder, "failed", error.exit_code, str(error), unchanged=unchanged)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def record(
    folder: RunFolder, state: str, code: int, message: str, *, unchanged: int | None = None, lock: Lock | None = None
) -> None:
    """Write status.json for a command that did not begin, unless the folder is another run's or holds other files.

    Where it cannot be written the exit code has to do.

    Args:
        unchanged: the modification time that status.json must still have, if any.
        lock: the folder's, if this process holds it already.
    """
    with contextlib.suppress(StorageError, UsageError, OSError), contextlib.ExitStack() as stack:
        folder.check_own()
        if unchanged is not None and folder.status_time() != unchanged:
            return
        if lock is None:
            folder.path.mkdir(parents=True, exist_ok=True)
            lock = Lock(folder)
            lock.take()
            stack.callback(lock.release)
        folder.write_status(state, code, printable_lines(message), 0)
