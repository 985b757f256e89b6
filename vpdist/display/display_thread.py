"""Rank 0's thread that draws and records snapshots, so that a slow terminal or disk holds nobody up.

A failure to draw or to record is logged once and ends just that.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from vpdist.display.choose import Display
from vpdist.display.progress_file import Recorder
from vpdist.monitoring.counters import Snapshot

logger = logging.getLogger(__name__)


class DisplayThread:
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
