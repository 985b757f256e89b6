"""Snapshots drawn for people: live bars on a terminal, or one key=value line per rank and interval elsewhere.

Both write to one text stream and are used by one thread. Bars never wrap and never scroll: columns are dropped on
narrow terminals, ranks on short ones (the slowest stay). Closing erases the bars and shows the cursor again. Log lines
hold no control characters. OSError and ValueError (a closed stream) are the caller's to handle.
"""

from __future__ import annotations

import io
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TextIO

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from vpdist.counters import Snapshot
from vpdist.figures import Figures, Line

SHOW_CURSOR = "\x1b[?25h"
QUIET_S = 10.0
"""Age of the newest snapshot from which bars say how old it is."""
STYLES = {"running": "cyan", "waiting": "bright_black", "done": "green", "stalled": "bold yellow", "lost": "bold red"}


class Display(Protocol):
    """One way to show a run."""

    period_s: float
    """How often `tick` wants to be called."""

    def show(self, snapshot: Snapshot) -> None:
        """A newer snapshot has come."""

    def tick(self, now: float) -> None:
        """Time passes (`now` in Unix seconds)."""

    def message(self, text: str) -> None:
        """One line for people."""

    def close(self) -> None:
        """Leave the stream as it was found."""


def count_text(number: float) -> str:
    """At most five characters: 999, 1.23k, 45.6M, 789G."""
    if number < 999.5:
        return f"{number:.0f}" if number >= 99.5 or number == int(number) else f"{number:.3g}"
    for unit in "kMGTP":
        number /= 1000
        if number < 999.5 or unit == "P":
            break
    return f"{number:.{0 if number >= 99.95 else 1 if number >= 9.995 else 2}f}{unit}"


def bytes_text(number: int) -> str:
    """At most eight characters: 512 KiB, 1.5 GiB."""
    size = number / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 9.95 or unit == "KiB" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def clock_text(seconds: float) -> str:
    """0:07, 12:41, 3:12:41, 2d 03:12."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def span_text(seconds: float) -> str:
    """45 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def printable(text: str) -> str:
    """`text` on one line and without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def terminal_size(stream: TextIO) -> tuple[int, int]:
    """(columns, lines) of the terminal behind `stream`, whatever the standard streams are; 80 x 24 where unknown."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, lines or 24


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    text: Callable[[Line], str]
    rank: int
    """Order in which columns are taken in while the terminal is wide enough."""


def _rate(per_s: float) -> str:
    return count_text(per_s) if per_s > 0 else ""


PLANNED_COLUMNS = (
    _Column("done", 6, lambda line: "" if line.fraction is None else f"{100 * line.fraction:.1f}%", 0),
    _Column("tokens", 13, lambda line: f"{count_text(line.done)}/{count_text(line.planned)}", 6),
    _Column("tok/s", 5, lambda line: _rate(line.tokens_per_s), 1),
    _Column("frag/s", 6, lambda line: _rate(line.fragments_per_s), 2),
    _Column("memory", 8, lambda line: bytes_text(line.memory_bytes), 3),
    _Column("GPU", 4, lambda line: "" if line.utilisation < 0 else f"{line.utilisation}%", 4),
)
COUNTING_COLUMNS = (
    _Column("records", 7, lambda line: count_text(line.counts["records"]), 3),
    _Column("bases", 5, lambda line: count_text(line.counts["bases"]), 4),
    _Column("fragments", 9, lambda line: count_text(line.counts["fragments"]), 1),
    _Column("frag/s", 6, lambda line: _rate(line.fragments_per_s), 2),
    _Column("memory", 8, lambda line: bytes_text(line.memory_bytes), 5),
    _Column("GPU", 4, lambda line: "" if line.utilisation < 0 else f"{line.utilisation}%", 6),
)
STATUS_WIDTH = 14
LEAST_BAR, MOST_BAR = 16, 80


class _Frame(io.StringIO):
    """Where rich writes: a frame reaches the terminal in one piece, and its errors never meet rich's own rules."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def take(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


class Bars:
    """One bar per rank and one for all, redrawn in place."""

    period_s = 0.125

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = stream.encoding or "ascii"
        self._full, self._half, self._rest = _bar_letters(self._encoding)
        self._figures = Figures()
        self._snapshot: Snapshot | None = None
        self._messages: list[str] = []
        self._frame = _Frame(self._encoding)
        self._console = Console(
            file=self._frame, force_terminal=True, force_interactive=True, highlight=False, markup=False, emoji=False
        )
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def show(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._figures.observe(snapshot)

    def tick(self, now: float) -> None:
        if self._snapshot is None or not self._writable(0.0):
            return  # the terminal is held (Ctrl-S): frames are left out, nothing waits
        if not self._live.is_started:
            self._live.start()
        columns, height = terminal_size(self._stream)
        self._console.size = ConsoleDimensions(columns, height)
        for text in self._messages:
            self._console.print(Text(text), soft_wrap=True)
        self._messages.clear()
        self._live.update(self._picture(columns - 1, height - 1, now), refresh=True)
        self._send()

    def message(self, text: str) -> None:
        self._messages.append(printable(text))

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()
        for text in self._messages:
            self._console.print(Text(text), soft_wrap=True)
        if self._writable(1.0):
            self._send()

    def _writable(self, timeout_s: float) -> bool:
        return bool(select.select([], [self._stream.fileno()], [], timeout_s)[1])

    def _send(self) -> None:
        text = self._frame.take().encode(self._encoding, "backslashreplace").decode(self._encoding)
        self._stream.write(text)
        self._stream.flush()

    def _picture(self, width: int, height: int, now: float) -> Text:
        assert self._snapshot is not None
        lines, total = self._figures.lines, self._figures.total
        age_s = max(0.0, now - self._snapshot.time)
        label_width = max(len(lines[-1].label), len(total.label))
        columns = _fitting(PLANNED_COLUMNS if total.planned else COUNTING_COLUMNS, lines, width - label_width)
        bar_width = width - label_width - 1 - sum(column.width + 2 for column in columns) - 2 - STATUS_WIDTH
        bar_width = max(4, min(MOST_BAR, bar_width))
        shown, rest = _slowest_first(lines, height - 3 - (len(lines) > 1))
        picture = [self._heading(width, age_s, now), _titles(columns, label_width + 1 + bar_width)]
        for line in [*shown, *([total] if len(lines) > 1 else [])]:
            text = Text(f"{line.label:<{label_width}} ", style="bold" if line is total else "")
            text.append_text(self._bar(line, bar_width, now))
            for column in columns:
                text.append(f"  {column.text(line):>{column.width}}", style="bold" if line is total else "")
            text.append(f"  {self._status(line, total, age_s)}", style=STYLES[line.state])
            picture.append(text)
        if rest:
            picture.insert(-1, Text(_summary(rest), style="bright_black"))
        for text in picture:
            text.truncate(width)
        return Text("\n", no_wrap=True, overflow="crop", end="").join(picture)

    def _heading(self, width: int, age_s: float, now: float) -> Text:
        assert self._snapshot is not None
        total = self._figures.total
        facts = []
        if total.planned and total.counts["tokens"]:
            facts.append(f"{count_text(total.done)} of {count_text(total.planned)} tokens")
        facts += [
            f"{count_text(total.counts[name])} {name}"
            for name in ("records", "bases", "fragments", "units", "failures")
            if total.counts[name]
        ]
        left = Text(f"{total.stage}", style="bold")
        left.append(f"  {', '.join(facts)}", style="not bold")
        if age_s > QUIET_S:
            left.append(f"  no report for {span_text(age_s)}", style="bold yellow")
        right = clock_text(self._snapshot.elapsed + (age_s if self._snapshot.ended is None else 0))
        left.truncate(width - len(right) - 2)
        left.append(" " * (width - left.cell_len - len(right)))
        left.append(right, style="bright_black")
        return left

    def _bar(self, line: Line, width: int, now: float) -> Text:
        style = STYLES[line.state]
        if line.fraction is None:
            if line.state != "running":
                return Text(self._rest * width, style="bright_black")
            length = max(2, width // 5)
            start = int(now * 10) % (width + length) - length
            before, after = max(0, start), min(width, start + length)
            bar = Text(self._rest * before, style="bright_black")
            bar.append(self._full * (after - before), style=style)
            return bar.append(self._rest * (width - after), style="bright_black")
        halves = int(2 * width * line.fraction)
        bar = Text(self._full * (halves // 2) + (self._half if halves % 2 else ""), style=style)
        return bar.append(self._rest * (width - bar.cell_len), style="bright_black")

    def _status(self, line: Line, total: Line, age_s: float) -> str:
        if line.state == "stalled" and line is not total:
            return f"stalled {span_text(line.silent_s + age_s)}"
        if line.state != "running":
            return line.state
        if line.stage != total.stage:
            return line.stage
        if line.left_s is not None:
            return clock_text(line.left_s)
        return "" if line.planned else "working"


def _bar_letters(encoding: str) -> tuple[str, str, str]:
    """Full, half and empty cell of a bar that `encoding` can express."""
    letters = ("\N{BOX DRAWINGS HEAVY HORIZONTAL}", "\N{BOX DRAWINGS HEAVY LEFT}", "\N{BOX DRAWINGS LIGHT HORIZONTAL}")
    try:
        "".join(letters).encode(encoding)
    except UnicodeEncodeError:
        return "#", "", "-"
    return letters


def _fitting(columns: tuple[_Column, ...], lines: list[Line], width: int) -> list[_Column]:
    """The columns with something to say that leave the bar its least width, in drawing order."""
    room = width - 1 - LEAST_BAR - 2 - STATUS_WIDTH
    fitting = []
    for column in sorted(columns, key=lambda column: column.rank):
        if column.title == "GPU" and all(line.utilisation < 0 for line in lines):
            continue
        if room < column.width + 2:
            break
        room -= column.width + 2
        fitting.append(column)
    return [column for column in columns if column in fitting]


def _titles(columns: list[_Column], indent: int) -> Text:
    planned = any(column.title == "done" for column in columns)
    titles = "".join(f"  {column.title:>{column.width}}" for column in columns)
    return Text(" " * indent + titles + ("  time left" if planned else ""), style="bright_black")


def _slowest_first(lines: list[Line], room: int) -> tuple[list[Line], list[Line]]:
    """Ranks to show and ranks to sum up, where `room` lines (the summary's too) are all there is."""
    if len(lines) <= room:
        return lines, []
    order = {"lost": 0, "stalled": 1, "running": 2, "waiting": 3, "done": 4}
    slowest = sorted(
        range(len(lines)),
        key=lambda rank: (order[lines[rank].state], lines[rank].fraction or 0.0, lines[rank].tokens_per_s),
    )
    shown = set(slowest[: max(0, room - 1)])
    return (
        [line for rank, line in enumerate(lines) if rank in shown],
        [line for rank, line in enumerate(lines) if rank not in shown],
    )


def _summary(rest: list[Line]) -> str:
    states = [line.state for line in rest]
    told = ", ".join(f"{states.count(state)} {state}" for state in STYLES if state in states)
    fractions = [line.fraction for line in rest if line.fraction is not None]
    share = f", {100 * min(fractions):.1f} to {100 * max(fractions):.1f}% done" if fractions else ""
    return f"and {len(rest)} more ranks: {told}{share}"


class LogLines:
    """One line per rank and interval, and one for all: key=value, no control characters."""

    period_s = 0.5

    def __init__(self, stream: TextIO, interval_s: float = 10.0, first_s: float = 1.0) -> None:
        """The first lines come `first_s` seconds after the run's start, then every `interval_s`, and at the end."""
        self._stream = stream
        self._encoding = stream.encoding or "ascii"
        self._interval_s, self._next_s = interval_s, first_s
        self._figures = Figures()
        self._told_states: dict[str, str] = {}

    def show(self, snapshot: Snapshot) -> None:
        self._figures.observe(snapshot)
        everyone = [*self._figures.lines, self._figures.total]
        if snapshot.elapsed >= self._next_s or snapshot.ended is not None:
            self._next_s = snapshot.elapsed + self._interval_s
            lines = everyone
        else:  # trouble, and its end, is told at once
            alarming = ("stalled", "lost")
            lines = [
                line
                for line in self._figures.lines
                if (line.state in alarming) != (self._told_states.get(line.label, line.state) in alarming)
            ]
        self._told_states = {line.label: line.state for line in self._figures.lines}
        if lines:
            self._write("".join(self._text(line, snapshot) for line in lines))

    def tick(self, now: float) -> None:
        """Lines come with snapshots only."""

    def message(self, text: str) -> None:
        self._write(f"{datetime.now().isoformat(timespec='seconds')} {printable(text)}\n")

    def close(self) -> None:
        self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(text.encode(self._encoding, "backslashreplace").decode(self._encoding))
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
        if line.state in ("stalled", "lost"):
            facts["silent_s"] = f"{line.silent_s:.0f}"
        return f"{stamp} progress {' '.join(f'{name}={value}' for name, value in facts.items())}\n"
