"""Waits until a process has ended, then writes a text to standard error: python -I -S after_agent.py PIDFD TEXT.

A program of its own, which imports nothing else of vpdist, so that it is up within milliseconds and holds no memory,
device or file of the rank that starts it. It writes nothing where the process goes on.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys

LOOK_MS, LOOKS = 200, 300
"""A minute, twice what torchrun leaves its ranks, in pieces: while the machine stops this process no time passes, or
one piece."""


def write_after(process: int, text: str) -> None:
    """Write `text` as soon as the process has ended that the descriptor `process` stands for; after LOOKS never."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if any(poll.poll(LOOK_MS) for _ in range(LOOKS)):
        with contextlib.suppress(OSError):  # the terminal was closed
            os.write(2, text.encode(errors="replace"))


if __name__ == "__main__":
    write_after(int(sys.argv[1]), sys.argv[2])
