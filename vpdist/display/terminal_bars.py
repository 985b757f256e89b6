"""Live bars on a terminal.

Bars never wrap and never scroll. Closing erases them and restores the terminal. They are pinned by the terminal's own
scrolling region, since `rich.Live` moves the cursor up over its last frame, and both break when the launcher's agent
writes a line meanwhile.
"""

from __future__ import annotations

import io
import os
import select
from typing import TextIO

from rich.console import Console
from rich.text import Text

from vpdist.display.bar_layout import BarLetters, bar_lines
from vpdist.display.log_lines import write_text
from vpdist.display.rates import Rates
from vpdist.monitoring.counters import Snapshot
from vpdist.text import printable

SAVE, RESTORE = "\x1b7", "\x1b8"
"""Cursor position and style. These and the following are VT100's codes DECSC, DECRC, IND, DECSTBM, ED, DECTCEM."""
INDEX = "\x1bD"
"""Down one line, scrolling at the region's end; keeps the column, which a line feed may not."""
RELEASE = f"{SAVE}\x1b[r{RESTORE}"
"""The whole terminal scrolls again. The cursor is above the bars, so erasing below it removes them."""
ERASE_BELOW = "\x1b[J"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
CLEAR_BARS = RELEASE + ERASE_BELOW + SHOW_CURSOR
LINES_ABOVE = 2
"""Least number of lines that bars leave free."""
LEAST_COLUMNS, LEAST_LINES = 20, 6
CLOCK_S = 1.5
"""Snapshots arrive about once a second and advance the clock; without them it advances in these steps."""
WHOLE_FRAME_S = 15.0
"""A frame has only the lines that changed; after this time all of them, in case something has erased them."""


def terminal_size(stream: TextIO) -> tuple[int, int]:
    """(columns, lines) of the terminal of `stream`; 80 x 24 if unknown."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, lines or 24


class Bars:
    """One bar per rank and one for all, pinned to the terminal's last lines.

    Those lines are outside the terminal's scrolling region, so whatever else is written (a launcher's lines, echoed
    keys) scrolls above them. A frame restores the cursor's position.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._letters = BarLetters.for_encoding(stream.encoding or "ascii")
        self._rates = Rates()
        self._snapshot: Snapshot | None = None
        self._messages: list[str] = []
        self._size = (0, 0)
        self._drawn: list[Text] = []
        self._shown = 0
        self._drawn_for: tuple[object, ...] = ()
        self._whole_frame_at = 0.0
        self._buffer = io.StringIO()
        self._console = Console(file=self._buffer, width=1000, force_terminal=True, highlight=False)

    @property
    def period_s(self) -> float:
        """Bars that move on their own need more frames than those that change with a snapshot."""
        return 0.2 if self._has_moving_bars() else 0.5

    def _has_moving_bars(self) -> bool:
        return any(line.fraction is None and line.state == "running" for line in self._rates.lines)

    def show(self, snapshot: Snapshot) -> None:
        """Take a newer snapshot."""
        self._snapshot = snapshot
        self._shown += 1
        self._rates.observe(snapshot)

    def tick(self, now: float) -> None:
        """Draw what has changed by `now` (Unix seconds); to be called every `period_s` seconds."""
        if self._snapshot is None:
            return
        columns, height = size = terminal_size(self._stream)
        if columns < LEAST_COLUMNS or height < LEAST_LINES:
            return
        whole = now - self._whole_frame_at >= WHOLE_FRAME_S
        age_s = max(0.0, now - self._snapshot.time)
        drawn_for = (size, self._shown, now if self._has_moving_bars() else int(age_s / CLOCK_S))
        if drawn_for == self._drawn_for and not (whole or self._messages):
            return
        if not self._writable(0.0):
            return  # the terminal is stopped (Ctrl-S): frames are skipped
        self._drawn_for = drawn_for
        start = ""
        if size != self._size and self._drawn:
            start, self._drawn = RELEASE + ERASE_BELOW, []
        self._size = size
        lines = bar_lines(self._rates, self._snapshot, columns - 1, height - LINES_ABOVE, now, self._letters)
        start += self._reserve(len(lines), height) + self._take_messages()
        if whole or len(lines) != len(self._drawn):
            self._whole_frame_at, self._drawn = now, [Text()] * len(lines)
        changed = [
            f"\x1b[{height - len(lines) + 1 + index};1H{self._render(line)}\x1b[K"
            for index, line in enumerate(lines)
            if line != self._drawn[index]
        ]
        self._drawn = lines
        write_text(self._stream, f"{start}{SAVE}{HIDE_CURSOR}{''.join(changed)}{RESTORE}{SHOW_CURSOR}")

    def message(self, text: str) -> None:
        """Write a line for the user above the bars."""
        self._messages.append(printable(text))

    def close(self) -> None:
        """Remove the bars."""
        if self._writable(1.0):
            end = CLEAR_BARS if self._drawn else ""
            self._drawn = []
            write_text(self._stream, self._take_messages() + end)

    def _reserve(self, lines: int, height: int) -> str:
        """Take this many of the last lines out of the scrolling region, with the cursor above them."""
        more = lines - len(self._drawn)
        if more == 0:
            return ""
        region = f"{SAVE}\x1b[1;{height - lines}r{RESTORE}"
        if more > 0:
            return f"{INDEX * more}\x1b[{more}A{region}"
        freed = "".join(f"\x1b[{height - row};1H\x1b[2K" for row in range(lines, len(self._drawn)))
        return f"{SAVE}{freed}{RESTORE}{region}"

    def _take_messages(self) -> str:
        text = "".join(f"\r\x1b[K{message}\r\n" for message in self._messages)
        self._messages.clear()
        return text

    def _writable(self, timeout_s: float) -> bool:
        return bool(select.select([], [self._stream.fileno()], [], timeout_s)[1])

    def _render(self, line: Text) -> str:
        """The line with the terminal's colours."""
        self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text
