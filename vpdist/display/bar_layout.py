"""The bars of a run as lines of styled text that fit a terminal.

A heading, a line of column titles, a bar per rank and one for all ranks. A narrow terminal has fewer columns, a short
one fewer ranks: the slowest, and a line that summarises the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text

from vpdist.display.rates import COUNTED, Line, Rates
from vpdist.monitoring.counters import Snapshot
from vpdist.text import bytes_text, clock_text, count_text, printable, span_text

QUIET_S = 10.0
"""From this age of the newest snapshot on, the heading displays it."""
STYLES = {"running": "cyan", "waiting": "bright_black", "done": "green", "stalled": "bold yellow", "lost": "bold red"}


@dataclass(frozen=True, slots=True)
class BarLetters:
    """Characters for a full, a half and an empty cell of a bar."""

    full: str = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
    half: str = "\N{BOX DRAWINGS HEAVY LEFT}"
    rest: str = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"

    @classmethod
    def for_encoding(cls, encoding: str) -> BarLetters:
        """Line drawing characters if `encoding` has them, else ASCII."""
        letters = cls()
        try:
            f"{letters.full}{letters.half}{letters.rest}".encode(encoding)
        except UnicodeEncodeError:
            return cls("#", "", "-")
        return letters


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    text: Callable[[Line], str]
    rank: int
    """Columns of lower rank are kept on narrower terminals."""


def _count(number: float) -> str:
    return count_text(number) if number > 0 else ""


PLANNED_COLUMNS = (
    _Column("done", 6, lambda line: "" if line.fraction is None else f"{100 * line.fraction:.1f}%", 0),
    _Column("tokens", 13, lambda line: f"{count_text(line.done)}/{count_text(line.planned)}", 6),
    _Column("tok/s", 5, lambda line: _count(line.tokens_per_s), 1),
    _Column("frag/s", 6, lambda line: _count(line.fragments_per_s), 2),
    _Column("memory", 8, lambda line: bytes_text(line.memory_bytes), 3),
    _Column("GPU", 4, lambda line: "" if line.utilisation < 0 else f"{line.utilisation}%", 4),
)
COUNTING_COLUMNS = (
    _Column("records", 7, lambda line: _count(line.counts["records"]), 3),
    _Column("bases", 5, lambda line: _count(line.counts["bases"]), 4),
    _Column("fragments", 9, lambda line: _count(line.counts["fragments"]), 1),
    _Column("frag/s", 6, lambda line: _count(line.fragments_per_s), 2),
    _Column("memory", 8, lambda line: bytes_text(line.memory_bytes), 0),
    _Column("GPU", 4, lambda line: "" if line.utilisation < 0 else f"{line.utilisation}%", 5),
)
STATUS_WIDTH = 14
LEAST_BAR, MOST_BAR = 16, 80


def bar_lines(rates: Rates, snapshot: Snapshot, width: int, height: int, now: float, letters: BarLetters) -> list[Text]:
    """At most `height` lines of at most `width` cells at time `now` (Unix seconds); `snapshot` is the newest one."""
    lines, total = rates.lines, rates.total
    age_s = max(0.0, now - snapshot.time)
    label_width = max(len(lines[-1].label), len(total.label))
    columns = _fitting(PLANNED_COLUMNS if total.planned else COUNTING_COLUMNS, lines, width - label_width)
    bar_width = width - label_width - 1 - sum(column.width + 2 for column in columns) - 2 - STATUS_WIDTH
    bar_width = max(4, min(MOST_BAR, bar_width))
    shown, rest = _slowest_first(lines, height - 2 - (len(lines) > 1))
    drawn = [_heading(total, snapshot, width, age_s), _titles(columns, label_width + 1 + bar_width)]
    for line in [*shown, *([total] if len(lines) > 1 else [])]:
        text = Text(f"{line.label:<{label_width}} ", style="bold" if line is total else "")
        text.append_text(_bar(line, bar_width, now, letters))
        for column in columns:
            text.append(f"  {column.text(line):>{column.width}}", style="bold" if line is total else "")
        text.append(f"  {_status(line, rates, age_s)}", style=STYLES[line.state])
        drawn.append(text)
    if rest:
        drawn.insert(-1, Text(_summary(rest, width), style="bright_black"))
    for text in drawn:
        text.truncate(width)
    return drawn[:height]


def _heading(total: Line, snapshot: Snapshot, width: int, age_s: float) -> Text:
    facts = printable(snapshot.note).split(", ") if snapshot.note else []
    if total.planned and total.counts["tokens"]:
        facts.append(f"{count_text(total.done)} of {count_text(total.planned)} tokens")
    facts += [f"{count_text(total.counts[name])} {name}" for name in COUNTED if total.counts[name]]
    if age_s > QUIET_S:
        facts = [f"no report for {span_text(age_s)}", *facts]
    right = clock_text(snapshot.elapsed + (age_s if snapshot.ended is None else 0))
    room = width - len(total.stage) - 2 - len(right) - 2
    while facts and len(", ".join(facts)) > room:
        facts.pop()
    left = Text(total.stage, style="bold")
    left.append(f"  {', '.join(facts)}", style="bold yellow" if age_s > QUIET_S else "not bold")
    left.append(" " * (width - left.cell_len - len(right)))
    return left.append(right, style="bright_black")


def _bar(line: Line, width: int, now: float, letters: BarLetters) -> Text:
    style = STYLES[line.state]
    if line.fraction is None:
        if line.state != "running":
            return Text(letters.rest * width, style="bright_black")
        length = max(2, width // 5)
        space = width - length
        start = abs(int(now * 10) % (2 * space) - space)  # it moves right and left
        bar = Text(letters.rest * start, style="bright_black")
        bar.append(letters.full * length, style=style)
        return bar.append(letters.rest * (space - start), style="bright_black")
    halves = int(2 * width * line.fraction)
    bar = Text(letters.full * (halves // 2) + (letters.half if halves % 2 else ""), style=style)
    return bar.append(letters.rest * (width - bar.cell_len), style="bright_black")


def _status(line: Line, rates: Rates, age_s: float) -> str:
    total = rates.total
    if line is total:
        states = [line.state for line in rates.lines]
        for state in ("lost", "stalled"):
            if state in states:
                return f"{states.count(state)} {state}"
    elif line.state == "stalled":
        return f"stalled {span_text(line.silent_s + age_s)}"
    if line.state != "running":
        return line.state
    if line.stage != total.stage:
        return line.stage
    if line.left_s is not None:
        return clock_text(line.left_s)
    return "" if line.planned else "working"


def _fitting(columns: tuple[_Column, ...], lines: list[Line], width: int) -> list[_Column]:
    """The columns that leave the bar its least width, in display order, without those that are empty in this stage."""
    room = width - 1 - LEAST_BAR - 2 - STATUS_WIDTH
    fitting = []
    for column in sorted(columns, key=lambda column: column.rank):
        if (columns is COUNTING_COLUMNS or column.title == "GPU") and not any(column.text(line) for line in lines):
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
    """Ranks to display and ranks to summarise in `room` lines, one of them for the summary."""
    if len(lines) <= room:
        return lines, []
    order = {"lost": 0, "stalled": 1, "running": 2, "waiting": 3, "done": 4}
    slowest = sorted(
        range(len(lines)),
        key=lambda rank: (order[lines[rank].state], lines[rank].fraction or 0.0, lines[rank].tokens_per_s),
    )
    shown, rest = sorted(slowest[: max(0, room - 1)]), sorted(slowest[max(0, room - 1) :])
    return [lines[rank] for rank in shown], [lines[rank] for rank in rest]


def _summary(rest: list[Line], width: int) -> str:
    states = [line.state for line in rest]
    text = f"and {len(rest)} more: {', '.join(f'{states.count(state)} {state}' for state in STYLES if state in states)}"
    fractions = [line.fraction for line in rest if line.fraction is not None]
    share = f", {100 * min(fractions):.1f} to {100 * max(fractions):.1f}% done" if fractions else ""
    return text + share if len(text + share) <= width else text
