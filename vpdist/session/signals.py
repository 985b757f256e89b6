"""Signals become a request to stop, which stages check between batches.

SIGTERM, SIGINT, SIGUSR1 and SIGHUP request it; a second one stops immediately. A launcher forwards the terminal's
Ctrl-C to workers that already have it, so a second signal within SECOND_SIGNAL_AFTER_S is ignored. A SIGHUP that this
process inherited as ignored (`nohup`) stays so, unless the launcher itself ends by it and passes it on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vpdist.environment import launcher_passes_on
from vpdist.errors import Interrupted

SECOND_SIGNAL_AFTER_S = 1.5
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def stopping_signals() -> tuple[signal.Signals, ...]:
    """The signals that stop this process."""
    hangup_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and not launcher_passes_on(signal.SIGHUP)
    return tuple(number for number in STOPPING if not (number == signal.SIGHUP and hangup_ignored))


class StopRequest:
    """Whether this process was requested to stop, and by which signal."""

    def __init__(self, on_second_signal: Callable[[Interrupted], int]) -> None:
        """`on_second_signal` runs before a second signal ends the process; it restores the terminal, reports the end
        and returns the exit code. A third signal does not wait for it."""
        self._on_second_signal = on_second_signal
        self._signal: int | None = None
        self._since = 0.0
        self._ending = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handlers, and restore the previous ones; to be called from the main thread."""
        previous = {number: signal.signal(number, self._receive) for number in stopping_signals()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._since = number, now
        elif now - self._since > SECOND_SIGNAL_AFTER_S:
            code = exit_code(number)
            try:
                if not self._ending:
                    self._ending, self._since = True, now
                    code = self._on_second_signal(
                        Interrupted(f"stopped by a second signal, {signal.Signals(number).name}", code)
                    )
            finally:
                os._exit(code)

    def raise_if_requested(self) -> None:
        """Raises Interrupted (exit code 130 for SIGINT, else 143) once a signal has come."""
        if self._signal is not None:
            raise Interrupted(f"stopped by {signal.Signals(self._signal).name}", exit_code(self._signal))


def exit_code(number: int) -> int:
    """The exit code of a process that this signal has stopped."""
    return 128 + signal.SIGINT if number == signal.SIGINT else 128 + signal.SIGTERM
