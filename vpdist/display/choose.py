"""The display for a stream: bars on a terminal, log lines elsewhere, or none."""

from __future__ import annotations

from typing import TextIO

from vpdist.config import PROGRESS_MODES, one_of
from vpdist.display.log_lines import INTERVAL_S, LogLines
from vpdist.display.terminal_bars import Bars
from vpdist.environment import draws_bars

Display = Bars | LogLines
"""Used by one thread. Methods may raise OSError, or ValueError if the stream is closed."""


def choose_display(mode: str, stream: TextIO | None, log_interval_s: float = INTERVAL_S) -> Display | None:
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
