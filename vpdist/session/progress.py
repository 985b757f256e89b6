"""What the stages of a run tell about how far they are, and who hears it.

Every rank adds to its counters; rank 0 shows all ranks' as bars, as log lines or not at all, and appends them to
progress.jsonl. Nothing here changes what is computed: a failure to show or to record is logged once and ends that.
Only a lost peer, a launcher that is gone, or a bug in the exchange is raised to the run.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from vpdist.display.choose import LOG_INTERVAL_S, choose_display
from vpdist.display.display_thread import DisplayThread
from vpdist.display.progress_file import open_recorder
from vpdist.display.terminal_bars import LEFT_BEHIND, Bars
from vpdist.distributed.runtime import KeyStore, Runtime
from vpdist.errors import PeerLost, VpdistError
from vpdist.monitoring.counters import (
    ADDED,
    COUNTER_INDEX,
    DONE,
    FIRST_BASE,
    FIRST_STATE,
    PLANNED_TOKENS,
    PLANNED_UNITS,
    SHARED,
    STAGE,
    STAGES,
    TICK,
    WAITING,
    empty_vector,
)
from vpdist.monitoring.exchange import Exchange
from vpdist.monitoring.intervals import Intervals

logger = logging.getLogger(__name__)


class Progress:
    """One rank's account of its work. All ranks make it together, after `runtime.start`, and close it together.

    Everything but `abort` is for the main thread. Once a peer is lost, or this rank's launcher is gone, `add`, `stage`,
    `raise_if_failed` and `close` raise that; then the caller has a few seconds to call `abort` before the process is
    ended.
    """

    def __init__(
        self,
        runtime: Runtime,
        mode: str,
        jsonl: Path | None,
        stream: TextIO | None,
        stall_timeout_s: float = 1800.0,
        *,
        log_interval_s: float = LOG_INTERVAL_S,
        intervals: Intervals | None = None,
        on_forced_exit: Callable[[VpdistError, KeyStore], int] = lambda failure, keys: failure.exit_code,
        logging_us: Callable[[], int] = lambda: 0,
    ) -> None:
        """`mode`: auto, bars, log or none. `jsonl`, `stream`: rank 0's progress.jsonl and the console to draw on.

        Other ranks use `stream`, where they have it, only to clear the terminal should rank 0 be lost.

        `on_forced_exit` is called with the failure, on another thread and with that thread's keys, before this process
        is ended because its main thread did not react to it; it returns the exit code. `logging_us` tells what this
        rank's log has cost so far.
        """
        self._runtime, self._stream = runtime, stream
        self._vector = empty_vector()
        self._cells = self._vector.data
        self._waits = 0
        self._added_ns = 0
        self._ended = False
        self._process = os.getpid()
        self._on_forced_exit = on_forced_exit
        first = runtime.rank == 0
        display = choose_display(mode, stream, log_interval_s)
        self._shows_bars = isinstance(display, Bars)
        self._display_thread = DisplayThread(
            display if first else None, open_recorder(jsonl) if first and jsonl is not None else None
        )
        self._exchange = Exchange(
            runtime,
            self._vector,
            replace(intervals or Intervals(), stall_timeout_s=stall_timeout_s),
            on_snapshot=self._display_thread.put,
            on_forced_exit=self._force_end,
            spent_us=lambda: self._added_ns // 1000 + self._display_thread.spent_us + logging_us(),
        )
        atexit.register(self.abort, "the process ended")
        if first:
            self._display_thread.start()
        self._exchange.start()

    def stage(self, name: str, planned_tokens: int = 0, planned_units: int = 0, *, shared: bool = False) -> None:
        """This rank enters a stage (one of counters.STAGES), in which it plans to do so much.

        `shared`: ranks draw from one pool, and the planned figures are this rank's fair share of it.
        """
        vector = self._vector.copy()
        vector[FIRST_BASE:FIRST_STATE] = vector[:FIRST_BASE]
        vector[STAGE], vector[SHARED] = STAGES.index(name), shared
        vector[PLANNED_TOKENS], vector[PLANNED_UNITS], vector[ADDED] = planned_tokens, planned_units, 0
        vector[TICK] += 1
        self._vector[:] = vector  # at one go, for the thread that copies it
        self._exchange.wake()
        self._raise_failure()

    def add(self, **counters: int) -> None:
        """Add to this rank's counters (counters.COUNTERS), after every batch or block. Takes about a microsecond."""
        begin_ns = time.perf_counter_ns()
        cells = self._cells
        for name, amount in counters.items():
            cells[COUNTER_INDEX[name]] += amount
        cells[ADDED] += 1
        cells[TICK] += 1
        self._added_ns += time.perf_counter_ns() - begin_ns
        self._raise_failure()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While this rank waits for others."""
        self._waits += 1
        self._mark_waiting()
        try:
            yield
        finally:
            self._waits -= 1
            self._mark_waiting()

    def raise_if_failed(self) -> None:
        """A sign of life between batches. Raises the failure (PeerLost, Interrupted) once this rank must end."""
        self._cells[TICK] += 1
        self._raise_failure()

    def message(self, text: str) -> None:
        """One line for people: above the bars or among the log lines (rank 0), and in this rank's log."""
        logger.info("%s", text)
        if self._runtime.rank == 0:
            self._display_thread.put(text)

    def close(self) -> None:
        """This rank is done: answer the others until all are, then show and record the final counters, exact."""
        self._cells[DONE] = 1
        self._exchange.wake()
        while not self._exchange.join(0.2):
            self._raise_failure()
        self._raise_failure()
        self._end()

    def abort(self, message: str) -> None:
        """Stop sharing and showing at once, the terminal clean. `message` goes to progress.jsonl and to the peers.

        May be called at any time, from a signal's handler too, and again. Prints nothing.
        """
        if self._ended or os.getpid() != self._process:  # a forked child has none of the threads
            return
        self._exchange.stop(message, 2.0)
        self._end(message)

    def _end(self, ended: str | None = None) -> None:
        self._ended = True
        atexit.unregister(self.abort)
        if self._runtime.rank == 0:
            self._display_thread.end(ended)
        elif self._shows_bars and self._is_reporting_rank():
            self._write(LEFT_BEHIND)

    def _mark_waiting(self) -> None:
        self._cells[WAITING] = int(self._waits > 0)
        self._cells[TICK] += 1
        self._exchange.wake()

    def _raise_failure(self) -> None:
        if self._exchange.failure is not None:
            raise self._exchange.failure

    def _force_end(self, failure: VpdistError, keys: KeyStore) -> int:
        """The exchange's thread is about to end this process, because the main thread hangs: with which exit code?"""
        self._end(str(failure))
        if self._is_reporting_rank():
            self._write(f"{failure}\n")
        return self._on_forced_exit(failure, keys)

    def _is_reporting_rank(self) -> bool:
        """Whether this rank speaks for the run: rank 0, or should that be lost, the lowest survivor."""
        failure = self._exchange.failure
        world_size = self._runtime.world_size
        return self._runtime.rank == (failure.reporting_rank(world_size) if isinstance(failure, PeerLost) else 0)

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            return  # nobody reads it any more; the log has it
