"""Where the ranks of a launch are held in their middle until the gate is opened, however fast the machine is.

The holding is done in the ranks by faulty/sitecustomize.py; see there. A rank that is held leaves its note, and one for
every signal that has reached it meanwhile, so that a test waits for what has happened instead of for a while.
"""

from __future__ import annotations

from pathlib import Path

from scripts.faults.launched_runs import Launch
from vpdist.storage.atomic_files import write_file


class Gate:
    """Closed when it is made; once open, it is so for all ranks of all launches."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder

    def rule(self, at: str = "batches", free_batches: int = 0) -> dict[str, object]:
        """For `sabotaged`. Every rank is held in the middle of its "imports", in the middle of its first "batch" after
        so many free ones, or among "batches": as if short ones were to come without end, so that it still looks at
        what it is told."""
        return {"folder": str(self._folder), "at": at, "free_batches": free_batches}

    def held(self) -> set[int]:
        """Ids of all processes that were ever held."""
        return {int(note.suffix[1:]) for note in self._folder.glob("held.*")}

    def holds(self, launch: Launch, n_ranks: int) -> bool:
        """Whether so many ranks of a launch are held."""
        return len(self.held().intersection(launch.ranks().values())) == n_ranks

    def signals(self, pid: int) -> int:
        """How many signals have reached a held process, and been handled."""
        note = self._folder / f"held.{pid}"
        return note.stat().st_size if note.exists() else 0

    def open(self, free_batches: int | None = None) -> None:
        """For good, or until every rank has computed so many batches."""
        write_file(self._folder / "open", b"" if free_batches is None else str(free_batches).encode())
