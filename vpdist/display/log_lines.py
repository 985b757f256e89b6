"""Snapshots as log lines: one key=value line per rank and interval, and one for all, without control characters."""

from __future__ import annotations

from datetime import datetime
from typing import TextIO

from vpdist.display.rates import Line, Rates
from vpdist.monitoring.counters import Snapshot
from vpdist.text import printable

ALARMING = ("stalled", "lost")


def write_text(stream: TextIO, text: str) -> None:
    """Write and flush; characters that the stream's encoding lacks are escaped."""
    encoding = stream.encoding or "ascii"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


class LogLines:
    """The display as log lines."""

    period_s = 5.0

    def __init__(self, stream: TextIO, interval_s: float = 10.0, first_s: float = 1.0) -> None:
        """The first lines come `first_s` seconds after the run's start, then every `interval_s`, and at the end."""
        self._stream = stream
        self._interval_s, self._next_s = interval_s, first_s
        self._rates = Rates()
        self._last_states: dict[str, str] = {}

    def show(self, snapshot: Snapshot) -> None:
        self._rates.observe(snapshot)
        lines = [
            line  # a rank that gets stalled or lost, or runs again, is logged immediately
            for line in self._rates.lines
            if (line.state in ALARMING) != (self._last_states.get(line.label, line.state) in ALARMING)
        ]
        if snapshot.elapsed >= self._next_s or snapshot.ended is not None:
            self._next_s = snapshot.elapsed + self._interval_s
            lines = [*self._rates.lines, self._rates.total]
        self._last_states = {line.label: line.state for line in self._rates.lines}
        if lines:
            write_text(self._stream, "".join(self._text(line, snapshot) for line in lines))

    def tick(self, now: float) -> None:
        """Nothing to do: lines are written for snapshots only."""

    def message(self, text: str) -> None:
        write_text(self._stream, f"{datetime.now().isoformat(timespec='seconds')} {printable(text)}\n")

    def close(self) -> None:
        self._stream.flush()

    def _text(self, line: Line, snapshot: Snapshot) -> str:
        stamp = datetime.fromtimestamp(snapshot.time).isoformat(timespec="seconds")
        facts: dict[str, object] = {
            "elapsed_s": f"{snapshot.elapsed:.1f}",
            "rank": line.label.removeprefix("rank "),
            "state": line.state,
            "stage": line.stage,
        }
        if line.fraction is not None:
            facts["done_percent"] = f"{100 * line.fraction:.1f}"
        if line.planned:
            facts |= {"done": line.done, "planned": line.planned}
        facts |= {name: number for name, number in line.counts.items() if number}
        facts |= {"tokens_per_s": f"{line.tokens_per_s:.0f}", "fragments_per_s": f"{line.fragments_per_s:.0f}"}
        if line.left_s is not None:
            facts["left_s"] = f"{line.left_s:.0f}"
        facts["memory_mib"] = line.memory_bytes >> 20
        if line.utilisation >= 0:
            facts["utilisation_percent"] = line.utilisation
        if line.state in ALARMING:
            facts["silent_s"] = f"{line.silent_s:.0f}"
        return f"{stamp} progress {' '.join(f'{name}={value}' for name, value in facts.items())}\n"
