"""Rank 0's thread that displays and records snapshots, so that a slow terminal or disk does not delay the run.

A failure to display or to record is logged once and ends just that.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vpdist.display.choose import Display
from vpdist.display.progress_file import Recorder
from vpdist.monitoring.counters import Snapshot

logger = logging.getLogger(__name__)


class DisplayThread:
    """The thread; `spent_us` is the processor time it has taken."""

    def __init__(self, display: Display | None, jsonl: Path | None) -> None:
        """`display`, `jsonl`: where to display and to record, if anywhere."""
        self.spent_us = 0
        self._display, self._jsonl = display, jsonl
        self._recorder: Recorder | None = None
        self._inbox: queue.SimpleQueue[Snapshot | str | None] = queue.SimpleQueue()
        self._ended: str | None = None
        self._last: Snapshot | None = None
        self._thread = threading.Thread(target=self._run, name="vpdist-display", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Snapshot | str) -> None:
        """A snapshot, or a line for the user. Never waits."""
        self._inbox.put(item)

    def end(self, ended: str | None = None) -> None:
        """Process what was put, then end; `ended` is recorded with the last snapshot as the run's end."""
        self._ended = ended
        self._inbox.put(None)
        if self._thread.ident is not None:  # the system may have had no thread for it
            self._thread.join(3.0)

    def _run(self) -> None:
        next_tick, running = 0.0, True
        while running:
            period_s = self._display.period_s if self._display else 1.0
            try:
                running = self._process(self._inbox.get(timeout=max(0.0, next_tick - time.monotonic())))
            except queue.Empty:
                next_tick = time.monotonic() + period_s
                self._draw(lambda display: display.tick(time.time()))
            self.spent_us = time.thread_time_ns() // 1000
        if self._ended is not None and self._last is not None and self._last.ended is None:
            self._process(replace(self._last, ended=self._ended))
        self._draw(lambda display: display.close())
        if self._recorder is not None:
            self._recorder.close()

    def _process(self, item: Snapshot | str | None) -> bool:
        """Returns False for None, which is the end."""
        if isinstance(item, Snapshot):
            self._last = item
            self._record(item)
            self._draw(lambda display: display.show(item))
        elif item is not None:
            self._draw(lambda display: display.message(item))
        return item is not None

    def _draw(self, action: Callable[[Display], None]) -> None:
        if self._display is None:
            return
        try:
            action(self._display)
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._display = None
            logger.warning("the progress display is turned off: %s", error)

    def _record(self, snapshot: Snapshot) -> None:
        if self._jsonl is None:
            return
        try:
            self._recorder = self._recorder or Recorder(self._jsonl)
            self._recorder.record(snapshot)
        except OSError as error:
            with contextlib.suppress(OSError):  # closing tries to write the rest again
                if self._recorder is not None:
                    self._recorder.close()
            how = "is not" if self._recorder is None else "is no longer"
            self._jsonl = self._recorder = None
            logger.warning("progress %s recorded: %s", how, error)
