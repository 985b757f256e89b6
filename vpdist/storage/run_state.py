"""What became of a run, from status.json and the lock: its state, its exit code, whether its process lives.

Nothing here needs torch, or writes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vpdist.errors import StorageError
from vpdist.storage.atomic_files import open_regular, read_json
from vpdist.storage.lock_holder import Holder, State
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import HEARTBEAT_S, LOCK_BYTES

FRESH_S = 3 * HEARTBEAT_S
"""A lock that was touched within this time belongs to a process that lives."""
LOOKS, LOOK_S = 12, 0.5
"""How often, and how far apart, an older lock is looked at: clocks of machines differ."""


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run folder says of its last command."""

    state: str
    """running, done, done_with_failures, failed or interrupted; dead where it should run and does not; unknown where
    nobody can tell."""
    exit_code: int | None
    """None while it runs, and where it ended without a word."""
    message: str
    updated: str
    alive: bool | None
    """Whether a process works in the folder; None where that cannot be told."""
    host: str
    pid: int
    failing_rank: int | None


def process_state(folder: RunFolder, pause: Callable[[float], None] = time.sleep) -> tuple[bool | None, Holder]:
    """Whether a process works in the folder, and which one; False also without a lock.

    Of a process on another machine only its lock tells: it is looked at for some seconds. Raises OSError.
    """
    try:
        content, touched_ns = _look(folder)
    except FileNotFoundError:
        return False, Holder()
    holder = Holder.from_json(content)
    state = holder.state()
    if state is not State.UNKNOWN:
        return state is State.RUNNING, holder
    if 0 <= time.time() - touched_ns / 1e9 < FRESH_S:
        return True, holder
    for _ in range(LOOKS):
        pause(LOOK_S)
        try:
            if _look(folder) != (content, touched_ns):
                return True, holder
        except FileNotFoundError:
            return False, holder
    return False, holder


def _look(folder: RunFolder) -> tuple[str, int]:
    with open_regular(folder.path / "lock") as file:
        return file.read(LOCK_BYTES).decode(errors="replace"), os.fstat(file.fileno()).st_mtime_ns


def run_state(path: Path) -> RunState:
    """The state of the run in this folder. Raises StorageError where there is none, or it cannot be read."""
    folder = RunFolder(path)
    try:
        status = read_json(folder.status) if folder.status.exists() else None
        alive, holder = process_state(folder)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    if status is None and not alive:
        raise StorageError(f"{path}: holds no run that has begun (there is no status.json)")
    status = status or {}
    state, code = str(status.get("state", "running")), status.get("exit_code")
    if alive and state != "running":  # a new command has the folder, and has not begun to write
        state, code = "running", None
    elif state == "running" and alive is False:
        state = "dead"
    return RunState(
        state=state,
        exit_code=code if type(code) is int else None,
        message=str(status.get("message", "")) if state != "running" else "",
        updated=str(status.get("updated", "")),
        alive=alive,
        host=holder.host if holder.pid else "",
        pid=holder.pid,
        failing_rank=status.get("failing_rank") if type(status.get("failing_rank")) is int else None,
    )
