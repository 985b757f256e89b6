"""The first line of a command, before anything slow is imported: what goes on in the run folder."""

from __future__ import annotations

import vpdist
from vpdist.storage.atomic_files import read_json
from vpdist.storage.run_folder import RunFolder
from vpdist.text import printable

NAME = f"vpdist {vpdist.__version__}"
ENDED = {"done": "complete", "done_with_failures": "complete (failures are listed)"}


def first_sign(folder: RunFolder, *, restart: bool) -> str:
    """What is about to begin, or to go on, and what a complete run is told. Raises DamagedFile, StorageError."""
    status = (read_json(folder.status) if folder.status.exists() else None) or {}
    state, since = status.get("state"), printable(str(status.get("updated", "")))[:16].replace("T", " ")
    path = printable(str(folder.path))
    if restart and state is not None:
        return f"{NAME}, {path}: starting anew, what it holds is discarded"
    if state in ENDED:
        return f"{NAME}, {path}: {ENDED[state]} since {since}; checking its files, only what is missing is computed"
    if state is not None:
        return f"{NAME}, {path}: going on with a run that was {_was(state)} ({since})"
    return f"{NAME}, {path}: starting"


def _was(state: object) -> str:
    return {"running": "ended without a word", "failed": "ended by a failure"}.get(str(state), "interrupted")
