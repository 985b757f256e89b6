"""Live bars on a terminal.

Bars never wrap and never scroll. Closing erases them and restores the terminal. They are pinned by the terminal's own
scrolling region, since `rich.Live` moves the cursor up over its last frame, and both break when the launcher's agent
writes a line meanwhile.
"""

from __future__ import annotations

import os
import select
from typing import TextIO

from rich.text import Text

from vpdist.display.heading import run_title
from vpdist.display.letters import Letters
from vpdist.display.log_lines import write_text
from vpdist.display.picture import Painter, Scene, picture, picture_height
from vpdist.display.rank_table import View
from vpdist.environment import terminal
from vpdist.monitoring.counters import Snapshot
from vpdist.text import printable, shortened, wrapped

SAVE, RESTORE = "\x1b7", "\x1b8"
"""Cursor position and style. These and the following are VT100's codes DECSC, DECRC, IND, DECSTBM, ED, DECTCEM."""
INDEX = "\x1bD"
"""Down one line, scrolling at the region's end; keeps the column, which a line feed may not."""
RELEASE = f"{SAVE}\x1b[r{RESTORE}"
"""The whole terminal scrolls again. The cursor is above the bars, so erasing below it removes them."""
ERASE_BELOW = "\x1b[J"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
PUSH_TITLE, POP_TITLE = "\x1b[22;2t", "\x1b[23;2t"
"""The terminal keeps its title and gets it back (XTWINOPS)."""
TITLE_LETTERS = 80
NO_PROGRESS = "\x1b]9;4;0\x1b\\"
CLEAR_BARS = RELEASE + ERASE_BELOW + SHOW_CURSOR
LINES_ABOVE = 2
"""Least number of lines that bars leave free."""
LEAST_COLUMNS, LEAST_LINES = 20, 6
CLOCK_S = 1.5
"""Snapshots arrive about once a second and advance the clock; without them it advances in these steps."""
CLOCK_S_PER_RANK = 1 / 80
"""The same for many ranks, of whom a picture takes longer: as rare as their snapshots."""
WHOLE_FRAME_S = 15.0
"""A frame has only the lines that changed; the next one after this time has all, in case something erased them."""


def terminal_size(stream: TextIO) -> tuple[int, int]:
    """(columns, lines) of the terminal of `stream`; 80 x 24 if unknown."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, lines or 24


class Bars:
    """The picture of a run, pinned to the terminal's last lines.

    Those lines are outside the terminal's scrolling region, so whatever else is written (a launcher's lines, echoed
    keys) scrolls above them. A frame restores the cursor's position.
    """

    period_s = 0.5

    def __init__(self, stream: TextIO) -> None:
        self.view = View()
        """What is shown of the ranks; whoever watches may change it."""
        self._stream = stream
        self._letters = Letters.for_encoding(stream.encoding or "ascii")
        self._features = terminal()
        self._scene = Scene()
        self._messages: list[str] = []
        self._size = (0, 0)
        self._drawn: list[Text] = []
        self._shown = 0
        self._drawn_for: tuple[object, ...] = ()
        self._whole_frame_at = 0.0
        self._titled = ""
        self._painter = Painter()

    def observe(self, snapshot: Snapshot) -> None:
        """Take a snapshot of before, without drawing it."""
        self._scene.observe(snapshot)

    def show(self, snapshot: Snapshot) -> None:
        """Take a newer snapshot."""
        self._shown += 1
        self._scene.observe(snapshot)

    def tick(self, now: float) -> None:
        """Draw what has changed by `now` (Unix seconds); to be called every `period_s` seconds."""
        snapshot = self._scene.snapshot
        if snapshot is None:
            return
        columns, height = size = terminal_size(self._stream)
        if columns < LEAST_COLUMNS or height < LEAST_LINES:
            return
        whole = now - self._whole_frame_at >= WHOLE_FRAME_S
        clock_s = max(CLOCK_S, len(snapshot.rows) * CLOCK_S_PER_RANK)
        drawn_for = (size, self._shown, self.view, int(max(0.0, now - snapshot.time) / clock_s))
        if drawn_for == self._drawn_for and not self._messages:
            return
        if not self._writable(0.0):
            return  # the terminal is stopped (Ctrl-S): frames are skipped
        self._drawn_for = drawn_for
        start = ""
        if size != self._size and self._drawn:
            start, self._drawn = RELEASE + ERASE_BELOW, []
        self._size = size
        most = min(height - LINES_ABOVE, picture_height(height))
        lines = picture(self._scene, columns - 1, most, now, self._letters, self.view)
        start += self._reserve(len(lines), height) + self._take_messages()
        if whole or len(lines) != len(self._drawn):
            self._whole_frame_at, self._drawn = now, [Text()] * len(lines)
        changed = [
            f"\x1b[{height - len(lines) + 1 + index};1H{self._painter.paint(line)}\x1b[K"
            for index, line in enumerate(lines)
            if line != self._drawn[index]
        ]
        self._drawn = lines
        end = self._beside()
        write_text(self._stream, f"{start}{SAVE}{HIDE_CURSOR}{''.join(changed)}{RESTORE}{SHOW_CURSOR}{end}")

    def _beside(self) -> str:
        """The terminal's title and its task bar's progress, where they have changed."""
        line, snapshot = self._scene.rates.total, self._scene.snapshot
        percent = int(100 * (line.fraction or 0.0)) if line.planned else 0
        alarm = any(each.state in ("lost", "stalled") for each in self._scene.rates.lines)
        title = f"{line.stage} {percent} % {run_title(snapshot, self._letters) if snapshot else ''}".rstrip()
        state = f"{title}{alarm}"
        if state == self._titled:
            return ""
        start, self._titled = ("" if self._titled else PUSH_TITLE), state
        shown = f"{start}\x1b]2;{printable(shortened(title, TITLE_LETTERS))}\x07" if self._features.title else ""
        return shown + (f"\x1b]9;4;{4 if alarm else 1};{percent}\x1b\\" if self._features.progress else "")

    def message(self, text: str) -> None:
        """Write a line for the user above the bars."""
        self._messages.append(printable(text))

    def leave(self, now: float) -> None:
        """Remove the bars, and write the last picture as lines that stay."""
        columns, height = terminal_size(self._stream)
        lines = picture(self._scene, columns - 1, picture_height(height), now, self._letters, self.view)
        self.close()
        write_text(self._stream, "".join(f"{self._painter.paint(line)}\r\n" for line in lines))

    def close(self) -> None:
        """Remove the bars."""
        if self._writable(1.0):
            end = CLEAR_BARS if self._drawn else ""
            if self._titled:
                end += (POP_TITLE if self._features.title else "") + (NO_PROGRESS if self._features.progress else "")
            self._drawn, self._titled = [], ""
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
        columns = terminal_size(self._stream)[0]
        lines = [line for message in self._messages for line in wrapped(message, columns).split("\n")]
        text = "".join(f"\r\x1b[K{line}\r\n" for line in lines)
        self._messages.clear()
        return text

    def _writable(self, timeout_s: float) -> bool:
        return bool(select.select([], [self._stream.fileno()], [], timeout_s)[1])
