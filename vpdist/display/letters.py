"""Characters and figures that pictures are made of: bars, curves, shares of a rank's time, ranges of time.

Everything has the terminal's own colours: none of the eight others can be read on white, black and Solarized alike, and
no fixed colour has a contrast of 4.5 with all of these. Marks are bold or reversed, the empty part of a bar is dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from vpdist.display.rates import Shares
from vpdist.display.time_left import Span
from vpdist.text import count_text

REST = "dim"
"""Style of the empty part of a bar."""
ALARM = "bold reverse"
"""Style of the mark beside a rank that is silent or lost, whose state is told in words."""


@dataclass(frozen=True, slots=True)
class Letters:
    """The characters of a terminal's encoding."""

    full: str = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
    half: str = "\N{BOX DRAWINGS HEAVY LEFT}"
    rest: str = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    levels: str = "▁▂▃▄▅▆▇█"
    """From little to much."""
    compute: str = "▅"
    wait: str = "▒"
    write: str = "▂"
    idle: str = "·"
    done: str = "✓"
    now: str = "▶"
    coming: str = "·"
    dot: str = "·"
    right: str = "→"
    left: str = "←"
    to: str = "\N{EN DASH}"

    @classmethod
    def for_encoding(cls, encoding: str) -> Letters:
        """Line drawing characters if `encoding` has them, else ASCII."""
        letters = cls()
        try:
            "".join(getattr(letters, name) for name in cls.__dataclass_fields__).encode(encoding)
        except UnicodeEncodeError:
            return ASCII
        return letters


ASCII = Letters("#", "", "-", "_.:-=+*#", "#", "=", "+", ".", "+", ">", "-", "-", "->", "<-", "-")


def bar(fraction: float | None, width: int, letters: Letters, style: str = "") -> Text:
    """A bar of this width; empty where the share is not known."""
    halves = int(2 * width * (fraction or 0.0))
    text = Text().append(letters.full * (halves // 2) + (letters.half if halves % 2 else ""), style=style or None)
    return text.append(letters.rest * (width - text.cell_len), style=REST)


def levels(values: Sequence[float], letters: Letters) -> str:
    """A letter per value, from 0 to the highest one."""
    top = max(values, default=0.0)
    last = len(letters.levels) - 1
    return "".join(letters.levels[max(0, min(last, round(last * value / top)))] if top > 0 else " " for value in values)


def curve(points: Sequence[tuple[float, float]], width: int, letters: Letters) -> str:
    """The means of a curve's points over `width` equal parts of its time; shorter where there are fewer points."""
    if len(points) <= width:
        return levels([value for _, value in points], letters)
    first, last = points[0][0], points[-1][0]
    parts: list[list[float]] = [[] for _ in range(width)]
    for time, value in points:
        parts[min(width - 1, int(width * (time - first) / max(1e-9, last - first)))].append(value)
    return levels([sum(part) / len(part) for part in parts if part], letters)


def time_shares(shares: Shares | None, width: int, letters: Letters) -> str:
    """A rank's time in `width` cells: computing, waiting, writing, idle. Writing that goes on beside computing takes
    idle cells only."""
    if shares is None:
        return letters.idle + " " * (width - 1)
    compute, wait = round(width * shares.compute), round(width * shares.wait)
    write = min(width - compute - wait, math.ceil(width * shares.write - 0.25))
    text = letters.compute * compute + letters.wait * wait + letters.write * max(0, write)
    return f"{text[:width]:{letters.idle}<{width}}"


def duration_text(seconds: float) -> str:
    """45 s, 12 min, 7 h 19 min, 7 h, 2 d 3 h."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return _hours_text(minutes)
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def _hours_text(minutes: int) -> str:
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if minutes else f"{hours} h"


LONGEST_S = 1e9
"""Thirty years: a run that is to take longer does not end."""
STEPS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


def range_text(span: Span, letters: Letters) -> str:
    """A range in steps that fit its size: 40 - 60 s, 12 - 15 min, 1 - 13 h, 7 h 30 min - 7 h 50 min."""
    width = max(span.most - span.least, 0.02 * span.most)
    step = max((step for step in STEPS_S if step <= width / 4), default=1)
    if span.most >= 90:
        step = max(step, 60)
    least, most = math.floor(span.least / step) * step, math.ceil(span.most / step) * step
    high = duration_text(most)
    low = _beside(high, least)
    if low == high:
        return high
    if low.split(" ")[1:] == high.split(" ")[1:] and low.count(" ") == 1:  # the unit once
        low = low.split(" ")[0]
    return f"{low} {letters.to} {high}"


def _beside(high: str, seconds: float) -> str:
    """The lower end of a range, in the first unit of its upper end where it is 0 or at least one of these."""
    unit = high.split(" ")[1]
    if seconds == 0:
        return f"0 {unit}"
    if unit == "min" and seconds >= 60:
        return f"{seconds / 60:.0f} min"
    if unit == "h" and seconds >= 3600:
        return _hours_text(round(seconds / 60))
    return duration_text(seconds)


def power_text(watts: float) -> str:
    """640 W, 1.28 kW, 337 kW."""
    for unit in ("W", "kW"):
        if watts < 999.5:
            return f"{count_text(watts)} {unit}"
        watts /= 1000
    return f"{count_text(watts)} MW"


def end_text(end: float, now: float) -> str:
    """The clock time of the end (Unix seconds): 03:10, Thu 03:10, 3 Dec 03:10; never of what no clock shows."""
    if not end - now < LONGEST_S:
        return "never"
    when, today = datetime.fromtimestamp(end), datetime.fromtimestamp(now)
    days = (when.date() - today.date()).days
    if days == 0:
        return f"{when:%H:%M}"
    return f"{when:%a %H:%M}" if days < 7 else f"{when.day} {when:%b %H:%M}"
