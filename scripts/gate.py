"""Where the ranks of a launch are held in their middle until the gate is opened, however fast the machine is.

The holding is done in the ranks by faulty/sitecustomize.py; see there. A rank that is held leaves its note, and one for
every signal that has reached it meanwhile, so that a test waits for what has happened instead of for a while.
"""

from __future__ import annotations

from pathlib import Path

from launches import Launch


class Gate:
    """Closed when it is made; opens once, for all ranks of all launches."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder

    def rule(self, at: str = "batch", *, free_batches: int = 0, yields: bool = False) -> dict[str, object]:
        """For `sabotaged`: every rank waits `at` its first "batch" after so many free ones, at the "tables" or in the
        middle of its "imports". `yields`: one that has received a signal is held no longer."""
        return {"folder": str(self._folder), "at": at, "free_batches": free_batches, "yields": yields}

    def holds(self, launch: Launch, n_ranks: int) -> bool:
        """Whether so many ranks of a launch are held: all of them, but at the tables rank 0 alone."""
        return sum(self._note(pid).exists() for pid in launch.ranks().values()) == n_ranks

    def signals(self, pid: int) -> int:
        """How many signals have reached a held process, and been handled."""
        note = self._note(pid)
        return note.stat().st_size if note.exists() else 0

    def open(self) -> None:
        (self._folder / "open").touch()

    def _note(self, pid: int) -> Path:
        return self._folder / f"held.{pid}"
