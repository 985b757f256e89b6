"""Which display a stream gets: bars on a terminal, log lines elsewhere, or none."""

from __future__ import annotations

from typing import Protocol, TextIO

from vpdist.display.log_lines import LogLines
from vpdist.display.terminal_bars import Bars
from vpdist.environment import draws_bars
from vpdist.monitoring.counters import Snapshot

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


class Display(Protocol):
    """One way to show a run."""

    @property
    def period_s(self) -> float:
        """How often `tick` wants to be called."""

    def show(self, snapshot: Snapshot) -> None:
        """A newer snapshot has come."""

    def tick(self, now: float) -> None:
        """Time passes (`now` in Unix seconds)."""

    def message(self, text: str) -> None:
        """One line for people."""

    def close(self) -> None:
        """Leave the stream as it was found."""
