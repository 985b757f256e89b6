"""Rank 0's thread that draws and records snapshots, so that a slow terminal or disk holds nobody up.

A failure to draw or to record is logged once and ends just that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, TextIO

from vpdist.counters import Snapshot
from vpdist.display import Bars, Display, LogLines
from vpdist.environment import draws_bars
from vpdist.files import open_regular

logger = logging.getLogger(__name__)

MODES = ("auto", "bars", "log", "none")
LOG_INTERVAL_S = 10.0


def choose_display(mode: str, stream: TextIO | None, log_interval_s: float = LOG_INTERVAL_S) -> Display | None:
    """The display for `mode`; 'auto' is bars on a terminal that can move its cursor, else log lines.

    'bars' on something that is no terminal means log lines too: a file gets no control characters.
    """
    if mode not in MODES:
        raise ValueError(f"progress mode {mode}: choose one of {', '.join(MODES)}")
    if mode == "none" or stream is None:
        return None
    if draws_bars(stream) if mode == "auto" else mode == "bars" and stream.isatty():
        return Bars(stream)
    return LogLines(stream, log_interval_s)


class Recorder:
    """Appends snapshots to progress.jsonl, flushed line by line; thins them out as the run grows old."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file cannot be opened."""
        self._file: IO[bytes] = open_regular(path, append=True)
        size = os.fstat(self._file.fileno()).st_size
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.write(b"\n")  # a line that an earlier run was killed in
        self._recorded_s = -1e9
        self._outline: tuple[object, ...] = ()

    def record(self, snapshot: Snapshot) -> None:
        """Append, if it says something new: at most once a second (every 5 s in old, every ranks/64 s in large runs),
        and at once when a stage or a state changes or the run ends."""
        spacing_s = max(1.0, min(5.0, snapshot.elapsed / 600), len(snapshot.rows) / 64)
        if snapshot.outline == self._outline and snapshot.elapsed - self._recorded_s < 0.9 * spacing_s:
            return
        self._recorded_s, self._outline = snapshot.elapsed, snapshot.outline
        self._file.write(snapshot.to_json().encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def open_recorder(path: Path) -> Recorder | None:
    """A recorder, or None (logged) where the file cannot be opened."""
    try:
        return Recorder(path)
    except OSError as error:
        logger.warning("progress is not recorded: %s", error)
        return None


class Painter:
    """The thread of rank 0 that draws and records, so that a slow terminal or disk holds nobody up."""

    def __init__(self, display: Display | None, recorder: Recorder | None) -> None:
        self.spent_us = 0
        self._display, self._recorder = display, recorder
        self._inbox: queue.SimpleQueue[Snapshot | str | None] = queue.SimpleQueue()
        self._ended: str | None = None
        self._last: Snapshot | None = None
        self._thread = threading.Thread(target=self._run, name="vpdist-painter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, news: Snapshot | str) -> None:
        """A snapshot, or a line for people. Never waits."""
        self._inbox.put(news)

    def end(self, ended: str | None = None, timeout_s: float = 3.0) -> None:
        """Draw and record what has come, then end; with `ended`, the last snapshot once more, with that reason."""
        self._ended = ended
        self._inbox.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        next_tick, going_on = 0.0, True
        while going_on:
            period_s = self._display.period_s if self._display else 1.0
            try:
                going_on = self._take(self._inbox.get(timeout=max(0.0, next_tick - time.monotonic())))
            except queue.Empty:
                next_tick = time.monotonic() + period_s
                self._draw(lambda display: display.tick(time.time()))
            self.spent_us = time.thread_time_ns() // 1000
        if self._ended is not None and self._last is not None and self._last.ended is None:
            self._take(replace(self._last, ended=self._ended))
        self._draw(lambda display: display.close())
        if self._recorder is not None:
            self._recorder.close()

    def _take(self, news: Snapshot | str | None) -> bool:
        """Whether there is more to come."""
        if isinstance(news, Snapshot):
            self._last = news
            self._record(news)
            self._draw(lambda display: display.show(news))
        elif news is not None:
            self._draw(lambda display: display.message(news))
        return news is not None

    def _draw(self, action: Callable[[Display], None]) -> None:
        if self._display is None:
            return
        try:
            action(self._display)
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._display = None
            logger.warning("the progress display is turned off: %s", error)

    def _record(self, snapshot: Snapshot) -> None:
        if self._recorder is None:
            return
        try:
            self._recorder.record(snapshot)
        except OSError as error:
            with contextlib.suppress(OSError):  # what could not be written is tried again, in vain
                self._recorder.close()
            self._recorder = None
            logger.warning("progress is no longer recorded: %s", error)
