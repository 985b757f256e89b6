"""The display for a stream: bars on a terminal, log lines elsewhere, or none."""

from __future__ import annotations

from typing import Protocol, TextIO

from vpdist.config import PROGRESS_MODES, one_of
from vpdist.display.log_lines import LogLines
from vpdist.display.terminal_bars import Bars
from vpdist.environment import draws_bars
from vpdist.monitoring.counters import Snapshot

LOG_INTERVAL_S = 10.0


def choose_display(mode: str, stream: TextIO | None, log_interval_s: float = LOG_INTERVAL_S) -> Display | None:
    """The display for `mode`; 'auto' is bars on a terminal that can move its cursor, else log lines.

    'bars' means log lines, too, if the stream is no terminal: a file gets no control characters. Raises UsageError for
    an unknown mode.
    """
    one_of("progress", mode, PROGRESS_MODES)
    if mode == "none" or stream is None:
        return None
    if draws_bars(stream) if mode == "auto" else mode == "bars" and stream.isatty():
        return Bars(stream)
    return LogLines(stream, log_interval_s)


class Display(Protocol):
    """A display of a run, used by one thread. Every method may raise OSError, or ValueError if its stream is closed."""

    @property
    def period_s(self) -> float:
        """Seconds between calls of `tick`."""

    def show(self, snapshot: Snapshot) -> None:
        """Take a newer snapshot."""

    def tick(self, now: float) -> None:
        """Draw what depends on time (`now` in Unix seconds)."""

    def message(self, text: str) -> None:
        """Write one line for the user."""

    def close(self) -> None:
        """Restore the stream's state."""
