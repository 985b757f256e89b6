"""An open run folder as the stages use it, and its status.json."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from vpdist.errors import UsageError
from vpdist.session.coordination import Control
from vpdist.session.progress import Progress
from vpdist.storage.atomic_files import JSON_LIMIT, read_limited, write_file
from vpdist.storage.run_folder import RunFolder
from vpdist.text import printable_lines


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: the message for the user, and the number of failures listed."""

    message: str
    failures: int = 0


@dataclass(slots=True)
class Session:
    """An open run folder."""

    control: Control
    folder: RunFolder
    progress: Progress
    reserve: Path | None = None
    """On rank 0 a file that is removed to make room for the last status.json on a full disk."""
    begun: bool = False
    name: str = ""
    """Of a run that is a stage of another one, see `inside`."""
    ended: int | None = None
    """The exit code, once the last status.json is written."""
    _previous_status: bytes | None = None
    _previous_time: int = 0

    def begin(self) -> None:
        """Write status.json: the command runs. Raises StorageError."""
        self._check_lock()
        if self.begun:
            return
        self.begun = True
        if self.control.is_first:
            with contextlib.suppress(FileNotFoundError):
                self._previous_time = self.folder.status_time()
                self._previous_status = read_limited(self.folder.status, JSON_LIMIT, cut=True)
            self.folder.write_status("running", None, "")

    def inside(self, name: str, folder: RunFolder) -> Session:
        """A run in another folder as a stage of this one: with keys of its own, under this one's lock and display."""
        runtime = self.control.runtime
        control = replace(self.control, runtime=replace(runtime, keys=runtime.keys.under(name)))
        return Session(control, folder, self.progress, name=name)

    def end(self, state: str, code: int, message: str, failing_rank: int | None = None) -> None:
        """Write the last status.json; a refused command restores that of the run before.

        Raises StorageError if it cannot be written, or another run has taken the folder over.
        """
        self._check_lock()
        if self.begun and code == UsageError.exit_code and self._previous_status is not None:
            write_file(self.folder.status, self._previous_status)
            times = (self._previous_time, self._previous_time)  # by which others see that it is not about this command
            with contextlib.suppress(OSError):
                os.utime(self.folder.status, ns=times)
        elif self.begun:
            if self.reserve is not None:
                remove_mark(self.reserve)
            self.folder.write_status(state, code, printable_lines(message), failing_rank)
        self.ended = code

    def _check_lock(self) -> None:
        """Raises StorageError if another run has taken the folder over, say while this process was stopped."""
        if self.control.lock is not None:
            with contextlib.suppress(OSError):  # reported by what is written next
                self.control.lock.check_held()
            self.control.lock.raise_if_lost()


def remove_mark(mark: Path) -> None:
    with contextlib.suppress(OSError):  # the next run removes it
        mark.unlink(missing_ok=True)
