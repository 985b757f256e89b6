"""What became of a run, from status.json and the lock: its state, its exit code, whether its process lives.

Nothing here needs torch, or writes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpdist.errors import StorageError
from vpdist.storage.atomic_files import open_regular, read_json
from vpdist.storage.lock_holder import Holder, State
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import HEARTBEAT_S, LOCK_BYTES, LOOK_S, STALE_AFTER_S, WATCHED_BEATS

FRESH_S = WATCHED_BEATS * HEARTBEAT_S
"""A lock that was touched within this time belongs to a process that lives. An older one is watched for as long, since
clocks of machines differ."""
TRIES = 3
"""Looks at a run that says something else each time."""


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

    Of a process on another machine only its lock tells: it is watched for three beats. One that nothing touches then,
    but whose last beat seems less than a minute ago, tells nothing. Raises OSError.
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
    for _ in range(math.ceil(FRESH_S / LOOK_S)):
        pause(LOOK_S)
        try:
            if _look(folder) != (content, touched_ns):
                return True, holder
        except FileNotFoundError:
            return False, holder
    return (False if time.time() - touched_ns / 1e9 > STALE_AFTER_S else None), holder


def _look(folder: RunFolder) -> tuple[str, int]:
    with open_regular(folder.path / "lock") as file:
        return file.read(LOCK_BYTES).decode(errors="replace"), os.fstat(file.fileno()).st_mtime_ns


def _status_and_process(folder: RunFolder) -> tuple[dict[str, Any] | None, bool | None, Holder]:
    """status.json, and `process_state`. What a process wrote while it was looked for, before it ended, is read too."""
    status = read_json(folder.status)
    for _ in range(TRIES):
        alive, holder = process_state(folder)
        before, status = status, status if alive else read_json(folder.status)
        if status == before:
            break
    return status, alive, holder


def run_state(path: Path) -> RunState:
    """The state of the run in this folder. Raises StorageError where there is none, or it cannot be read."""
    folder = RunFolder(path)
    try:
        status, alive, holder = _status_and_process(folder)
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
