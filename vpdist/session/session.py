"""An open run folder, as the stages see it; status.json from the first stage to the last."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from vpdist.errors import UsageError
from vpdist.session.coordination import Control
from vpdist.session.progress import Progress
from vpdist.storage.atomic_files import JSON_LIMIT, read_limited, write_file
from vpdist.storage.run_folder import RunFolder
from vpdist.text import printable_lines


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
                remove_mark(self.reserve)
            self.folder.write_status(state, code, printable_lines(message), failing_rank)
        self.ended = code

    def _check_lock(self) -> None:
        """The heartbeat may not have looked yet since this process went on after a stop."""
        if self.control.lock is not None:
            with contextlib.suppress(OSError):  # what is written next says so
                self.control.lock.check_held()
            self.control.lock.raise_if_lost()


def remove_mark(mark: Path) -> None:
    with contextlib.suppress(OSError):  # it is removed by the next run
        mark.unlink(missing_ok=True)
