"""Signals become a request to stop that stages look at between batches.

SIGTERM, SIGINT and SIGUSR1 ask; a second request stops at once. A launcher passes the terminal's Ctrl-C on to workers
that have already received it, so a second signal counts only after a moment.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vpdist.errors import Interrupted

SECOND_AFTER_S = 1.5
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Whether this process was asked to stop, and how."""

    def __init__(self, at_once: Callable[[Interrupted], int]) -> None:
        """`at_once` runs before the process ends on a second request: it restores the terminal, leaves word and returns
        the exit code. A third request does not wait for that."""
        self._at_once = at_once
        self._signal: int | None = None
        self._since = 0.0
        self._ending = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take over the signals, and give them back; to be called from the main thread."""
        before = {number: signal.signal(number, self._receive) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._since = number, now
        elif now - self._since > SECOND_AFTER_S:
            code = _exit_code(number)
            try:
                if not self._ending:
                    self._ending, self._since = True, now
                    code = self._at_once(Interrupted(f"stopped at once by {signal.Signals(number).name}", code))
            finally:
                os._exit(code)

    def raise_if_requested(self) -> None:
        """Raises Interrupted (exit code 130 for SIGINT, else 143) once a signal has come."""
        if self._signal is not None:
            raise Interrupted(f"stopped by {signal.Signals(self._signal).name}", _exit_code(self._signal))


def _exit_code(number: int) -> int:
    return 128 + signal.SIGINT if number == signal.SIGINT else 128 + signal.SIGTERM
