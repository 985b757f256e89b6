"""What the picture tells of one rank, in columns; a narrow terminal has fewer of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from vpdist.display.events import throttle_text
from vpdist.display.letters import ALARM, Letters, bar, duration_text, time_shares
from vpdist.display.rates import Line, Rates
from vpdist.text import bytes_text, count_text, printable, shortened

GIB = 1 << 30
SHARES_WIDTH = 18
STATUS_WIDTH, LEAST_BAR = 26, 10
LEAST_STATUS, NARROW_STATUS, NARROW = 15, 11, 60


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a rank."""

    title: str
    width: int
    text: Callable[[Line, Letters], str]
    priority: int
    """Columns of lower numbers are kept on narrower terminals."""


def _memory(line: Line, letters: Letters) -> str:
    if not line.facts.memory_bytes or line.facts.device == "cpu":
        return bytes_text(line.memory_bytes) if line.memory_bytes else ""
    return f"{line.memory_bytes / GIB:.1f}/{line.facts.memory_bytes / GIB:.0f} GiB"


COLUMNS = (
    Column("done", 6, lambda line, _: "" if line.fraction is None else f"{100 * line.fraction:.1f}%", 0),
    Column("shares", SHARES_WIDTH, lambda line, letters: time_shares(line.shares, SHARES_WIDTH, letters), 5),
    Column("tok/s", 5, lambda line, _: "" if not line.tokens_per_s else count_text(line.tokens_per_s), 1),
    Column("frag/s", 6, lambda line, _: "" if not line.fragments_per_s else count_text(line.fragments_per_s), 8),
    Column("limit", 5, lambda line, _: "" if line.limit_share is None else f"{100 * line.limit_share:.0f}%", 2),
    Column("GPU", 4, lambda line, _: "" if line.utilisation < 0 else f"{line.utilisation}%", 3),
    Column("memory", 13, _memory, 4),
    Column("power", 5, lambda line, _: "" if line.power_w is None else f"{line.power_w:.0f} W", 6),
    Column("temp", 4, lambda line, _: "" if line.temperature is None else f"{line.temperature}°", 7),
)
ALWAYS = ("done", "tok/s")


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns there are, and how wide label, bar and status are."""

    columns: tuple[Column, ...]
    digits: int
    """Of the highest rank's number."""
    label: int
    bar: int
    status: int

    @classmethod
    def of(cls, lines: Sequence[Line], width: int, letters: Letters) -> Layout:
        """For a terminal of this width; a column that says nothing of any rank is left out."""
        digits = max(len(_number(line)) for line in lines)
        label = max([6, *(len(label_text(line, digits)) for line in lines)]) + 1
        # As many columns as leave room for a bar and a short status; what is left over goes to both of them.
        status = LEAST_STATUS if width >= NARROW else NARROW_STATUS
        room = width - label - 2 - LEAST_BAR - 2 - status
        chosen = []
        for column in sorted(COLUMNS, key=lambda each: each.priority):
            says = any(column.text(line, letters).strip(f"{letters.idle} ") for line in lines)
            if (says or column.title in ALWAYS) and room >= column.width + 2:
                room -= column.width + 2
                chosen.append(column)
        longest = max((len(status_text(line, letters)) for line in lines), default=0)
        more = max(0, min(room, max(longest, 9) - status, STATUS_WIDTH - status))
        status += more
        columns = tuple(column for column in COLUMNS if column in chosen)
        return cls(columns, digits, label, LEAST_BAR + room - more, status)

    def titles(self, node: str, letters: Letters) -> Text:
        """The line above the ranks."""
        text = Text(f" {node:<{self.label}}", style="")
        for column in self.columns[:1]:
            text.append(f" {column.title:>{column.width}}")
        text.append("  " + " " * self.bar)
        for column in self.columns[1:]:
            title = column.title
            if title == "shares":
                title = f"{letters.compute}comp {letters.wait}wait {letters.write}write"
                text.append(f"  {title:<{column.width}}")
            else:
                text.append(f"  {title:>{column.width}}")
        text.append(f"  {'left':>{self.status}}")
        return text

    def row(self, line: Line, rates: Rates, age_s: float, letters: Letters) -> Text:
        """The line of a rank."""
        text = Text().append(mark_text(line), style=ALARM if line.state in ("stalled", "lost") else "bold")
        text.append(f"{label_text(line, self.digits):<{self.label}}")
        for column in self.columns[:1]:
            text.append(f" {column.text(line, letters):>{column.width}}")
        text.append("  ").append_text(bar(line.fraction, self.bar, letters))
        for column in self.columns[1:]:
            text.append(f"  {column.text(line, letters):>{column.width}}")
        is_last = rates.last is not None and line.label == f"rank {rates.last}"
        told = fitting_status(line, is_last, self.status, age_s, letters)
        return text.append(f"  {told:>{self.status}}", style="bold" if is_odd(line) else None)


def _number(line: Line) -> str:
    return line.label.removeprefix("rank ")


def label_text(line: Line, digits: int = 0) -> str:
    """5 gpu5, 0 cpu: number and device of a rank."""
    number = f"{_number(line):>{digits}}"
    device = line.facts.device
    if not device:
        return number
    return f"{number} cpu" if device == "cpu" else f"{number} gpu{line.facts.index}"


def device_text(line: Line) -> str:
    """The model of a rank's device, shortened."""
    return shortened(printable(line.facts.device), 24)


def is_odd(line: Line) -> bool:
    """Whether a rank is shown before others: it is silent or lost, slow, or its device is throttled."""
    return line.state in ("lost", "stalled") or line.straggles or bool(throttle_text(line.throttle))


def mark_text(line: Line) -> str:
    """! beside an odd rank."""
    return "!" if is_odd(line) else " "


def status_text(line: Line, letters: Letters) -> str:
    """The longest status of a rank."""
    return _statuses(line, False, 0.0, letters)[0]


def fitting_status(line: Line, is_last: bool, width: int, age_s: float, letters: Letters) -> str:
    """A rank's status in `width` cells, whole words only."""
    return next((text for text in _statuses(line, is_last, age_s, letters) if len(text) <= width), "")


def _statuses(line: Line, is_last: bool, age_s: float, letters: Letters) -> list[str]:
    """What is told of a rank at the end of its line, the longest first."""
    if line.state == "stalled":
        short = f"stalled {duration_text(line.silent_s + age_s)}"
        pid = [f"{short} {letters.dot} pid {line.facts.pid}"] if line.facts.pid else []
        return [*pid, short, "stalled"]
    if line.state != "running":
        return [line.state]
    left = "" if line.left_s is None else duration_text(line.left_s)
    if why := throttle_text(line.throttle):
        return [f"{left} {why}".strip(), why]
    if line.straggles:
        costs = [f"{left} slow, costs {duration_text(line.costs_s)}"] if line.costs_s >= 1 else []
        return [*costs, f"{left} slow".strip(), "slow"]
    if is_last and left:
        return [f"{left} {letters.left} last", left]
    return [left or line.stage]
