"""A gate at which the ranks of a launch wait until it is opened, so that tests do not depend on the machine's speed.

faulty/sitecustomize.py makes the ranks wait. A waiting rank writes a file held.PID, with a byte for every signal it has
received, so that a test can wait for these events.
"""

from __future__ import annotations

from pathlib import Path

from scripts.faults.launched_runs import Launch
from vpdist.storage.atomic_files import write_file


class Gate:
    """Closed at first; once opened, it is open to all ranks of all launches."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder

    def rule(self, at: str = "batches", free_batches: int = 0) -> dict[str, object]:
        """The value of `hold` for `with_faults`. Every rank is held during its "imports", or after `free_batches` in a
        "batch" or between "batches", where it still reacts to signals and messages."""
        return {"folder": str(self._folder), "at": at, "free_batches": free_batches}

    def held(self) -> set[int]:
        """Ids of all processes that have been held."""
        return {int(note.suffix[1:]) for note in self._folder.glob("held.*")}

    def holds(self, launch: Launch, n_ranks: int) -> bool:
        """Whether `n_ranks` ranks of a launch are held."""
        return len(self.held().intersection(launch.ranks().values())) == n_ranks

    def signals(self, pid: int) -> int:
        """How many signals a held process has received and handled."""
        note = self._folder / f"held.{pid}"
        return note.stat().st_size if note.exists() else 0

    def open(self, free_batches: int | None = None) -> None:
        """Open for good, or until every rank has computed so many batches."""
        write_file(self._folder / "open", b"" if free_batches is None else str(free_batches).encode())
