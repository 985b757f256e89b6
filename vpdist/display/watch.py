"""`vpdist watch`: the picture of a run in any terminal, from the run folder's progress.jsonl.

It only reads that folder and does not import torch, so it starts fast, on any machine that has access to it. Rates come
from what was recorded before, at once.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from vpdist.display.choose import Display, choose_display
from vpdist.display.history import History
from vpdist.display.keys import HELP, REPLAY_HELP, Wish, pressed, single_keys
from vpdist.display.last_command import is_of_last_command, later_command
from vpdist.display.log_lines import LogLines
from vpdist.display.progress_lines import read_file
from vpdist.display.terminal_bars import Bars
from vpdist.errors import StorageError
from vpdist.monitoring.counters import Snapshot
from vpdist.storage.atomic_files import open_regular
from vpdist.storage.lock_holder import Holder
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_state import process_state, run_state
from vpdist.text import clock_text

FRAME_S = 0.5
QUIET_S = 15.0
"""Without a snapshot for so long, the run's process is looked for."""
LOOK_EVERY_S = 10.0
LOG_LINES, LOG_BYTES = 40, 1 << 14
"""Of a rank's log, that are shown and read."""
MOST_STEP_S = 10.0
"""A replay waits no longer than this between two snapshots."""


def watch(run_folder: Path, stream: TextIO, follow: bool = True, keys: TextIO | None = None) -> None:
    """Show the run in `run_folder` until it ends: its picture on a terminal, else log lines.

    Without `follow`, show its newest snapshot as log lines, once. Where that is the end of a command after which
    another one began, say what became of the later one. `keys`: where keys are pressed. Raises StorageError
    if there is no progress.jsonl.
    """
    path = run_folder / "progress.jsonl"
    display = (choose_display("auto", stream) if follow else None) or LogLines(stream, first_s=0.0)
    with _opened(path) as file, _watching(run_folder, display, keys, HELP) as watching:
        history = History(file)
        newest = _show_history(watching, history.tail())
        if newest is None and not history.is_empty:
            display.message(f"{path}: holds no progress of a run that this version can read, up to now")
        found = newest
        if follow:
            newest = watching.follow(history, newest)
        if newest is not None and newest.ended is not None and newest is not found:
            watching.leave(_ending(newest))
        elif newest is not None and (newest.ended is not None or not follow):
            watching.leave_ended(newest)


def replay(run_folder: Path, stream: TextIO, speed: float, keys: TextIO | None = None) -> None:
    """Show all that a run has recorded, `speed` times as fast as it happened. Raises StorageError as `watch`."""
    path = run_folder / "progress.jsonl"
    with _opened(path):
        pass
    display = choose_display("auto", stream) or LogLines(stream, first_s=0.0)
    with _watching(run_folder, display, keys, REPLAY_HELP) as watching:
        watching.wish = replace(watching.wish, speed=speed)
        before: Snapshot | None = None
        for snapshot in read_file(path):
            waited_s = 0.0
            while not watching.wish.quit and before is not None:
                step_s = min(MOST_STEP_S, max(0.0, snapshot.elapsed - before.elapsed) / watching.wish.speed)
                if waited_s >= step_s and not watching.wish.paused:
                    break
                pause_s = FRAME_S if watching.wish.paused else min(FRAME_S, step_s - waited_s)
                watching.frame(min(snapshot.time, before.time + waited_s * watching.wish.speed), pause_s)
                waited_s += 0.0 if watching.wish.paused else pause_s
            if watching.wish.quit:
                return
            display.show(snapshot)
            before = snapshot
        if before is not None:
            watching.leave(_ending(before))


@contextlib.contextmanager
def _opened(path: Path):  # type: ignore[no-untyped-def]
    try:
        file = open_regular(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be read, there is no run to watch: {error.strerror}") from error
    with file:
        yield file


@contextlib.contextmanager
def _watching(run_folder: Path, display: Display, keys: TextIO | None, help_text: str):  # type: ignore[no-untyped-def]
    """A display that is closed at the end, whatever happens, and the keys that are pressed meanwhile."""
    watching = Watching(run_folder, display)
    if isinstance(display, LogLines):
        display.waits = True  # there is no run to delay
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: watching.display.close())
        if keys is not None and isinstance(display, Bars) and stack.enter_context(single_keys(keys)):
            watching.keys = keys
            display.message(help_text)
        yield watching


def _show_history(watching: Watching, snapshots: list[Snapshot]) -> Snapshot | None:
    for snapshot in snapshots[:-1]:
        watching.display.observe(snapshot)
    if not snapshots:
        return None
    watching.display.show(snapshots[-1])
    return snapshots[-1]


@dataclass(slots=True)
class Watching:
    """One who watches: a display, and what the keys ask for."""

    run_folder: Path
    display: Display
    keys: TextIO | None = None
    wish: Wish = field(default_factory=Wish)
    _looked: float = -math.inf

    def frame(self, now: float, pause_s: float = FRAME_S) -> None:
        """Draw, then wait for a key or for `pause_s` seconds."""
        if isinstance(self.display, Bars):
            view = self.wish.view
            if view.rank is not None:
                view = replace(view, log=tuple(log_tail(RunFolder(self.run_folder).log(view.rank))))
            self.display.view = view
        self.display.tick(now)
        if self.keys is None:
            time.sleep(pause_s)
        elif typed := pressed(self.keys, pause_s):
            self.wish = self.wish.after(typed)

    def follow(self, history: History, newest: Snapshot | None) -> Snapshot | None:
        """Show what is recorded after `newest` until the run has ended, its process is gone, or q was pressed.

        Returns the newest snapshot; None where q was pressed. `newest` may be an earlier command's end.
        """
        first = newest
        while newest is None or newest.ended is None or newest is first:
            if self.wish.quit:
                return None
            gone = self._gone(newest)
            if gone is None:
                self.frame(time.time())
            before = newest
            for snapshot in history.more():
                newest = snapshot
                self.display.show(snapshot)
            if gone is not None and newest is before:  # else it has recorded something before it ended
                if newest is not None and newest.ended is None:
                    self._say_dead(newest, gone)
                break
        return newest

    def _gone(self, newest: Snapshot | None) -> Holder | None:
        """The process that worked in the folder, if it is gone: it is looked for when there should be more of it."""
        if newest is None or (newest.ended is None and time.time() - newest.time <= QUIET_S):
            return None
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return None
        alive, holder = process_state(RunFolder(self.run_folder), lambda seconds: self.frame(time.time(), seconds))
        self._looked = time.monotonic()
        return holder if alive is False or (alive is None and newest.ended is not None) else None

    def _say_dead(self, newest: Snapshot, holder: Holder) -> None:
        who = f"process {holder.pid} on {holder.host}" if holder.pid else "the process that worked in it"
        after = clock_text(newest.elapsed)
        self.leave(f"{self.run_folder}: dead: {who} is gone, after {after}; run the same command again to resume")

    def leave_ended(self, newest: Snapshot) -> None:
        """Say how the run's last command ended, or that it has not, where `newest` is the end of one before it."""
        try:
            found = run_state(self.run_folder)
        except StorageError:  # snapshots are all that is there
            found = None
        if found is not None and not is_of_last_command(newest, found):
            self.leave(f"{self.run_folder}: {later_command(found)}")
        elif newest.ended is not None:
            self.leave(_ending(newest))
        elif found is not None and found.state == "dead":
            self._say_dead(newest, Holder(host=found.host, pid=found.pid))

    def leave(self, message: str) -> None:
        """The last picture stays, with a line below it."""
        if isinstance(self.display, Bars):
            self.display.leave(time.time())
        self.display.message(message)


def log_tail(path: Path) -> list[str]:
    """The last lines of a rank's log; a line that says so where it cannot be read."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            return file.read(LOG_BYTES).decode(errors="replace").splitlines()[-LOG_LINES:]
    except OSError as error:
        return [f"{path}: {error.strerror or error}"]


def _ending(snapshot: Snapshot) -> str:
    outcome = f"ended: {snapshot.ended}" if snapshot.ended else "done" if snapshot.ended == "" else "no end recorded"
    totals, names = snapshot.totals, {"records": "sequences"}
    counts = [
        f"{totals[name]:,} {names.get(name, name) if totals[name] != 1 else names.get(name, name).removesuffix('s')}"
        for name in ("records", "fragments", "units", "failures")
        if totals[name]
    ]
    return f"{', '.join([outcome, *counts])}, after {clock_text(snapshot.elapsed)}"


def keyboard() -> TextIO | None:
    """Where keys are pressed: standard input if it is a terminal."""
    return sys.stdin if sys.stdin is not None and sys.stdin.isatty() else None
