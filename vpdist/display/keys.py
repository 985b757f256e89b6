"""Keys that somebody presses in `vpdist watch`, and what they change.

s sorts (by rank, the slowest first, by what is done), f filters (all ranks, odd ones, running ones), a number and Enter
show one rank with the end of its log, Esc all of them; space pauses a replay, + and - change its speed; q ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TextIO

from vpdist.display.rank_table import FILTERS, SORTS, View

HELP = "keys: s sort, f filter, NUMBER Enter one rank, Esc all, q quit"
REPLAY_HELP = f"{HELP}; space pause, + faster, - slower"
MOST_DIGITS = 6


@contextlib.contextmanager
def single_keys(stream: TextIO) -> Iterator[bool]:
    """While keys are read one by one, without echo; yields whether `stream` is a terminal that has any."""
    try:
        descriptor = stream.fileno()
        before = termios.tcgetattr(descriptor)
        if os.tcgetpgrp(descriptor) != os.getpgrp():  # in the background: reading would stop this process
            raise OSError
    except (OSError, ValueError, termios.error):
        yield False
        return
    tty.setcbreak(descriptor)
    try:
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def pressed(stream: TextIO, timeout_s: float) -> str:
    """Keys that are pressed within this time; '' for none."""
    if not select.select([stream], [], [], timeout_s)[0]:
        return ""
    return os.read(stream.fileno(), 64).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the keys so far ask for."""

    view: View = field(default_factory=View)
    quit: bool = False
    paused: bool = False
    speed: float = 1.0
    digits: str = ""

    def after(self, keys: str) -> Wish:
        """After some more keys."""
        wish = self
        if keys.startswith("\x1b") and len(keys) > 1:  # an arrow or function key
            return wish
        for key in keys:
            wish = wish._after_key(key)
        return wish

    def _after_key(self, key: str) -> Wish:
        view = self.view
        if key.isdigit() and key.isascii():
            return replace(self, digits=(self.digits + key)[-MOST_DIGITS:])
        wish = replace(self, digits="")
        if key in "\r\n" and self.digits:
            return replace(wish, view=replace(view, rank=int(self.digits), log=()))
        if key == "\x1b":
            return replace(wish, view=View())
        if key == "s":
            return replace(wish, view=replace(view, sort=_next(SORTS, view.sort)))
        if key == "f":
            return replace(wish, view=replace(view, filter=_next(FILTERS, view.filter)))
        if key == " ":
            return replace(wish, paused=not self.paused)
        if key in "+-":
            return replace(wish, speed=self.speed * (2.0 if key == "+" else 0.5))
        return replace(wish, quit=self.quit or key == "q")


def _next(choices: tuple[str, ...], now: str) -> str:
    return choices[(choices.index(now) + 1) % len(choices)]
