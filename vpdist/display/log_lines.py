"""Snapshots as log lines: one key=value line for all ranks per interval, without control characters.

A rank has a line of its own only when it falls silent, is lost or runs again, and at the end. A figure that is not
known is left out. Where nobody reads, as below a pager, lines are left out too rather than waited for.
"""

from __future__ import annotations

import select
from datetime import datetime
from typing import TextIO

from vpdist.display.rates import Line, Rates, score_counts
from vpdist.monitoring.counters import Snapshot
from vpdist.text import printable

ALARMING = ("stalled", "lost")
INTERVAL_S = 30.0
PATIENCE_S = 1.0
LINE_LETTERS = 120
"""Of the line for all ranks at most."""


def write_text(stream: TextIO, text: str) -> None:
    """Write and flush; characters that the stream's encoding lacks are escaped."""
    encoding = stream.encoding or "ascii"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


class LogLines:
    """The display as log lines."""

    period_s = 5.0

    def __init__(self, stream: TextIO, interval_s: float = INTERVAL_S, first_s: float = 1.0) -> None:
        """The first line comes `first_s` seconds after the run's start, then every `interval_s`, and at the end."""
        self.waits = False
        """Whether every line waits until somebody reads, rather than the last ones for PATIENCE_S."""
        self._stream = stream
        self._waiting: list[str] = []
        self._interval_s, self._next_s = interval_s, first_s
        self._rates = Rates()
        self._last_states: dict[str, str] = {}

    def observe(self, snapshot: Snapshot) -> None:
        """Take a snapshot of before, without writing a line."""
        self._rates.observe(snapshot)
        self._last_states = {line.label: line.state for line in self._rates.lines}

    def show(self, snapshot: Snapshot) -> None:
        """Take a newer snapshot; write what is due."""
        last_states = self._last_states
        self.observe(snapshot)
        self._write()
        if self._waiting and snapshot.ended is None:  # what is due is told once somebody reads
            self._last_states = last_states
            return
        lines = [
            self._of_rank(line, snapshot)  # a rank that gets stalled or lost, or runs again, is logged immediately
            for line in self._rates.lines
            if (line.state in ALARMING) != (last_states.get(line.label, line.state) in ALARMING)
        ]
        if snapshot.ended is not None:
            lines = [self._of_rank(line, snapshot) for line in self._rates.lines]
        if snapshot.elapsed >= self._next_s or snapshot.ended is not None:
            self._next_s = snapshot.elapsed + self._interval_s
            lines.append(self._of_all(snapshot))
        self._waiting += lines
        self._write()

    def tick(self, now: float) -> None:
        """Write what could not be written before; lines are made for snapshots only."""
        self._write()

    def message(self, text: str) -> None:
        """A line for the user."""
        self._waiting.append(f"{datetime.now().isoformat(timespec='seconds')} {printable(text)}")
        self._write()

    def close(self) -> None:
        self._write(PATIENCE_S)
        if not self._waiting:
            self._stream.flush()

    def _write(self, wait_s: float = 0.0) -> None:
        """Write lines as long as that blocks nothing: a pipe that takes anything takes a line."""
        while self._waiting and self._is_writable(wait_s):
            write_text(self._stream, f"{self._waiting[0]}\n")
            del self._waiting[0]

    def _is_writable(self, wait_s: float) -> bool:
        if self.waits:
            return True
        try:
            return bool(select.select([], [self._stream], [], wait_s)[1])
        except (OSError, ValueError):  # no file of the system's; where it is closed, writing tells
            return True

    def _of_all(self, snapshot: Snapshot) -> str:
        """The line for all ranks: what is needed most comes first, what does not fit is left out."""
        total, rates = self._rates.total, self._rates
        states = [line.state for line in rates.lines]
        scores = score_counts(snapshot)
        facts: dict[str, object] = {"elapsed_s": f"{snapshot.elapsed:.0f}", "stage": total.stage}
        if total.fraction is not None:
            facts["done_percent"] = f"{100 * total.fraction:.1f}"
        facts |= {state: states.count(state) for state in ALARMING if state in states}
        if rates.run_left is not None and snapshot.ended is None:
            facts["left_s"] = f"{rates.run_left.least:.0f}-{rates.run_left.most:.0f}"
        if total.tokens_per_s is not None:
            facts["tokens_per_s"] = _rate(total.tokens_per_s)
        if total.counts["failures"]:
            facts["failures"] = total.counts["failures"]
        facts["ranks"] = len(states)
        if total.limit_share is not None:
            facts["limit_percent"] = f"{100 * total.limit_share:.0f}"
        if sum(scores):
            facts["virus_percent"] = f"{100 * sum(scores[4:]) / sum(scores):.0f}"
        if total.counts["records"]:
            facts["records"] = total.counts["records"]
        run = snapshot.run
        units = {"kept": run.kept_units, "recomputed": run.recomputed_units, "deduplicated": run.deduplicated}
        facts |= {name: number for name, number in units.items() if number}
        if run.coming and snapshot.ended is None:
            facts["coming"] = ",".join(run.coming)
        text = _stamp(snapshot)
        for name, value in facts.items():
            if len(text) + len(f" {name}={value}") <= LINE_LETTERS:
                text += f" {name}={value}"
        return text

    def _of_rank(self, line: Line, snapshot: Snapshot) -> str:
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
        if line.tokens_per_s is not None:
            facts["tokens_per_s"] = _rate(line.tokens_per_s)
        if line.fragments_per_s is not None:
            facts["fragments_per_s"] = _rate(line.fragments_per_s)
        if line.left_s is not None:
            facts["left_s"] = f"{line.left_s:.0f}"
        facts["memory_mib"] = line.memory_bytes >> 20
        if line.utilisation >= 0:
            facts["utilisation_percent"] = line.utilisation
        if line.facts.host:
            facts |= {"host": _word(line.facts.host), "pid": line.facts.pid, "device": _word(line.facts.device)}
        if line.state in ALARMING:
            facts["silent_s"] = f"{line.silent_s:.0f}"
        return f"{_stamp(snapshot)} {' '.join(f'{name}={value}' for name, value in facts.items())}"


def _word(text: str) -> str:
    return printable(text).replace(" ", "_")


def _rate(per_s: float) -> str:
    return f"{per_s:.0f}" if per_s >= 10 else f"{per_s:.2g}"


def _stamp(snapshot: Snapshot) -> str:
    return f"{datetime.fromtimestamp(snapshot.time).isoformat(timespec='seconds')} progress"
