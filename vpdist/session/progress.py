"""The progress of a run: stages add to their rank's counters, rank 0 displays and records those of all ranks.

Nothing here changes what is computed: a failure to display or to record is logged once and ends just that. Only a lost
rank, a launcher that has ended, or a bug in the exchange is raised to the stages.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from vpdist.display.choose import choose_display
from vpdist.display.display_thread import DisplayThread
from vpdist.display.log_lines import INTERVAL_S
from vpdist.display.terminal_bars import CLEAR_BARS, Bars
from vpdist.distributed.runtime import KeyStore, Runtime
from vpdist.environment import RESUMABLE
from vpdist.errors import Interrupted, PeerLost, VpdistError
from vpdist.monitoring.counters import COUNTER_INDEX, FIRST_BASE, FIRST_STATE, STAGES, Cell, Snapshot, empty_vector
from vpdist.monitoring.exchange import Exchange
from vpdist.monitoring.facts import RunFacts
from vpdist.monitoring.intervals import Intervals
from vpdist.monitoring.telemetry import rank_facts

logger = logging.getLogger(__name__)

ADDED, TICK, WAIT_US = int(Cell.ADDED), int(Cell.TICK), COUNTER_INDEX["wait_us"]
"""As plain numbers: looking an enumeration's member up takes a tenth of the microsecond that `Progress.add` takes."""


class Progress:
    """One rank's progress. All ranks make it together, after `runtime.start`, and close it together.

    Everything but `abort` is for the main thread. Once a rank is lost, or this rank's launcher has ended, `add`,
    `stage`, `raise_if_failed` and `close` raise it; the caller then has a few seconds to call `abort` before the
    process is ended.
    """

    def __init__(
        self,
        runtime: Runtime,
        mode: str,
        jsonl: Path | None,
        stream: TextIO | None,
        stall_timeout_s: float = 1800.0,
        *,
        log_interval_s: float = INTERVAL_S,
        intervals: Intervals | None = None,
        on_forced_exit: Callable[[VpdistError, KeyStore], int] = lambda failure, keys: failure.exit_code,
        logging_us: Callable[[], int] = lambda: 0,
    ) -> None:
        """Raises UsageError for an unknown mode.

        Args:
            mode: auto, bars, log or none.
            jsonl: rank 0's progress.jsonl.
            log_interval_s: seconds between log lines.
            stream: the console. Ranks other than 0 use it only to clear the terminal if rank 0 is lost.
            on_forced_exit: see Exchange.
            logging_us: returns what this rank's log has cost so far.
        """
        self._runtime, self._stream = runtime, stream
        self._vector = empty_vector()
        self._cells = self._vector.data
        self.after: Mapping[str, tuple[str, ...]] = {}
        """Of a command with several runs inside: what follows each of them, by the name of its `Session`."""
        self._waits = 0
        self._added_ns = 0
        self._ended = False
        self._process = os.getpid()
        self._on_forced_exit = on_forced_exit
        is_first = runtime.rank == 0
        display = choose_display(mode, stream, log_interval_s)
        self._shows_bars = isinstance(display, Bars)
        self._display_thread = DisplayThread(display if is_first else None, jsonl if is_first else None)
        self._exchange = Exchange(
            runtime,
            self._vector,
            replace(intervals or Intervals(), stall_timeout_s=stall_timeout_s),
            on_snapshot=self._display_thread.put,
            on_forced_exit=self._force_end,
            spent_us=lambda: self._added_ns // 1000 + self._display_thread.spent_us + logging_us(),
        )
        self._facts = rank_facts(runtime.device)
        self._exchange.emitter.facts.tell(self._facts)
        self._exchange.emitter.run = RunFacts(stall_timeout_s=stall_timeout_s)
        atexit.register(self.abort, "the process ended")
        if is_first:
            self._display_thread.start()
        self._exchange.start()

    def stage(
        self,
        name: str,
        planned_tokens: int = 0,
        planned_units: int = 0,
        *,
        planned_work: int = 0,
        planned_steps: int = 0,
        shared: bool = False,
    ) -> None:
        """This rank enters a stage (one of counters.STAGES) with so much planned work.

        `planned_work` is in millions of operations, `planned_steps` in the stage's own measure: see counters.COUNTERS.
        `shared`: units are assigned dynamically, and the planned numbers are an equal share of all.
        """
        vector = self._vector.copy()
        self._exchange.emitter.note = ""
        vector[FIRST_BASE:FIRST_STATE] = vector[:FIRST_BASE]
        vector[Cell.STAGE], vector[Cell.SHARED] = STAGES.index(name), shared
        vector[Cell.PLANNED_TOKENS], vector[Cell.PLANNED_UNITS], vector[Cell.ADDED] = planned_tokens, planned_units, 0
        vector[Cell.PLANNED_WORK], vector[Cell.PLANNED_STEPS] = planned_work, planned_steps
        vector[Cell.TICK] += 1
        run = self._exchange.emitter.run
        began = (name, round(self._exchange.emitter.elapsed_s, 1))
        coming = run.coming[run.coming.index(name) + 1 :] if name in run.coming else run.coming  # some may be left out
        self._exchange.emitter.run = replace(run, stages=(*run.stages, began), coming=coming)
        self._vector[:] = vector  # in one assignment, because a thread copies it
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

    def plan_steps(self, planned: int) -> None:
        """How many steps this stage has, once that is known."""
        self._cells[Cell.PLANNED_STEPS] = planned

    @property
    def last_snapshot(self) -> Snapshot | None:
        """The newest one that rank 0 has made; None on other ranks."""
        return self._exchange.emitter.last

    @property
    def run(self) -> RunFacts:
        """What displays have been told of the run. For rank 0."""
        return self._exchange.emitter.run

    def describe(self, **facts: object) -> None:
        """Facts of the run (fields of RunFacts) for all displays. Only rank 0's are shown."""
        self._exchange.emitter.run = replace(self._exchange.emitter.run, **facts)  # type: ignore[arg-type]

    def tell_limit(self, operations_per_s: float) -> None:
        """What this rank's device does at most: the rate of plain products of matrices."""
        self._facts = replace(self._facts, limit_mflops=int(operations_per_s / 1e6))
        self._exchange.emitter.facts.tell(self._facts)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While this rank waits for others."""
        self._waits += 1
        self._mark_waiting()
        began_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0:
                self._cells[WAIT_US] += (time.perf_counter_ns() - began_ns) // 1000
            self._mark_waiting()

    def raise_if_failed(self) -> None:
        """Report between batches that this rank is running. Raises the failure once this rank must end."""
        self._cells[Cell.TICK] += 1
        self._raise_failure()

    def message(self, text: str) -> None:
        """One line for the user: above the bars or among the log lines (rank 0), and in this rank's log."""
        logger.info("%s", text)
        if self._runtime.rank == 0:
            self._display_thread.put(text)

    def note(self, text: str) -> None:
        """What the stage has reached, in words: in the heading of the bars, or as a line where there are none."""
        self._exchange.emitter.note = text
        self._exchange.wake()
        logger.info("%s", text)
        if self._runtime.rank == 0 and not self._shows_bars:
            self._display_thread.put(text)

    def close(self) -> None:
        """This rank is done: exchange until all are, then display and record the exact final counters."""
        self._cells[Cell.DONE] = 1
        self._exchange.wake()
        while not self._exchange.join(0.2):
            self._raise_failure()
        self._raise_failure()
        self._end()

    def abort(self, message: str) -> None:
        """Stop exchange and display, and clear the terminal. `message` goes to progress.jsonl and to the other ranks.

        May be called at any time, repeatedly, and from a signal's handler. Prints nothing.
        """
        if self._ended or os.getpid() != self._process:  # a forked child has no threads
            return
        self._exchange.stop(message)
        self._end(message)

    def _end(self, ended: str | None = None) -> None:
        self._ended = True
        atexit.unregister(self.abort)
        if self._runtime.rank == 0:
            self._display_thread.end(ended)
        elif self._shows_bars and self._is_reporting_rank():
            self._write(CLEAR_BARS)

    def _mark_waiting(self) -> None:
        self._cells[Cell.WAITING] = int(self._waits > 0)
        self._cells[Cell.TICK] += 1
        self._exchange.wake()

    def _raise_failure(self) -> None:
        if self._exchange.failure is not None:
            raise self._exchange.failure

    def _force_end(self, failure: VpdistError, keys: KeyStore) -> int:
        """Called by the exchange's thread before it ends this process; returns the exit code."""
        self._end(str(failure))
        if self._is_reporting_rank():
            self._write(f"{failure}; {RESUMABLE}\n" if isinstance(failure, Interrupted) else f"{failure}\n")
        return self._on_forced_exit(failure, keys)

    def _is_reporting_rank(self) -> bool:
        """Whether this rank reports to the user: rank 0, or if that is lost, the lowest survivor."""
        failure = self._exchange.failure
        world_size = self._runtime.world_size
        return self._runtime.rank == (failure.reporting_rank(world_size) if isinstance(failure, PeerLost) else 0)

    def _write(self, text: str) -> None:
        if self._stream is not None:
            with suppress(OSError, ValueError):  # the terminal was closed; the log has the text
                self._stream.write(text)
                self._stream.flush()
