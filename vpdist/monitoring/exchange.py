"""Every rank's counters to all ranks, about once a second, beside the computation.

One thread per process communicates. It gathers the ranks' vectors through gloo, and sets a key with the same vector,
because an overdue collective cannot tell which rank is late. The computing thread never waits for it. The exchange ends
after the first round in which every rank is done; it fails, naming the rank, when a rank is lost or stays silent.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

from vpdist.distributed.lost_ranks import AgreedLoss, LostRanks
from vpdist.distributed.runtime import KeyStore, Runtime
from vpdist.distributed.tcp_keepalive import notice_silent_machines
from vpdist.environment import LAUNCHER_ENDED
from vpdist.errors import Interrupted, PeerLost, VpdistError
from vpdist.monitoring.counters import COUNTER_INDEX, Cell, Snapshot
from vpdist.monitoring.emitter import Emitter
from vpdist.monitoring.facts import FactsOfAll
from vpdist.monitoring.gather import Gather, Steps
from vpdist.monitoring.intervals import Intervals
from vpdist.monitoring.liveness import Liveness
from vpdist.monitoring.telemetry import Telemetry

logger = logging.getLogger(__name__)

EXCHANGE_NUMBERS = itertools.count()
"""Ranks make their exchanges in the same order, so the numbers agree."""


class Exchange:
    """One rank's part in the exchange, and its thread.

    `vector` (WIDTH,) int64 is written by the main thread alone. `failure` is what the main thread must raise;
    `finished` is set when every rank was done. `emitter` makes snapshots.
    """

    def __init__(
        self,
        runtime: Runtime,
        vector: np.ndarray,
        intervals: Intervals,
        *,
        on_snapshot: Callable[[Snapshot], None],
        on_forced_exit: Callable[[VpdistError, KeyStore], int],
        spent_us: Callable[[], int],
    ) -> None:
        """`on_snapshot` is called on rank 0 with every snapshot. `on_forced_exit` is called with the failure and the
        thread's own keys before this process is ended because its main thread hangs, and returns the exit code. Both
        run on the thread. `spent_us` returns the cost of the other parts of monitoring."""
        self.failure: VpdistError | None = None
        self._lost: tuple[int, ...] = ()
        self.finished = False
        self._runtime, self._vector, self._intervals = runtime, vector, intervals
        self._on_forced_exit, self._spent_us = on_forced_exit, spent_us
        self._gather = Gather(runtime, intervals.stall_timeout_s + 60)
        self._keys = runtime.keys.clone()
        if runtime.world_size > 1 and not runtime.context.on_loopback:
            notice_silent_machines()
        self._prefix = prefix = f"progress/{next(EXCHANGE_NUMBERS)}"
        facts = FactsOfAll(runtime.world_size, runtime.rank, self._keys.get, self._keys.set, prefix)
        self.emitter = Emitter(facts, on_snapshot)
        self._lost_ranks = LostRanks(
            self._keys, self._prefix, runtime.rank, runtime.world_size, intervals.roll_call_s, lambda: self._stopping
        )
        self._alone = runtime.world_size == 1
        self._telemetry = Telemetry(runtime.device)
        self._commands: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._exit_reason: str | None = None
        self._liveness = Liveness(runtime.world_size, self.emitter.start_time, intervals.stalled_s)
        self._rank_0_liveness = Liveness(1, self.emitter.start_time, intervals.stalled_s)
        self._grace_s = intervals.grace_s
        self._steps: Steps | None = None
        self._work: dist.Work | None = None
        self._posted_at = -np.inf
        self._posted_added = self._beat = 0
        self._batches_per_round = 1
        self._next: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="vpdist-exchange", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Make the thread read the vector now. May be called from a signal's handler."""
        self._commands.put(None)

    def stop(self, exit_reason: str) -> None:
        """End the thread whatever it waits for; `exit_reason` is published to the other ranks."""
        self._exit_reason = exit_reason
        self._stopping = True
        self.wake()
        if not self.join(2.0) or self._steps is not None:
            self._gather.abandon()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; returns whether it has."""
        if self._thread.ident is not None:  # the system may have had no thread for it
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # Everything below runs on the thread.
    def _run(self) -> None:
        try:
            self._emit("round")
            while not (self._stopping or self.finished or self.failure):
                self._sleep()
                self._step(time.monotonic())
            if self.finished:
                self._end_after_all()
        except PeerLost as error:
            self._store_lost(error)
        except Exception as error:  # else this rank would compute on without reporting, and be declared lost
            logger.exception("the exchange of progress failed")
            self.failure = VpdistError(
                f"this is a bug, see the log files: exchanging progress failed: {type(error).__name__}: {error}"
            )
        if self.failure is not None:
            self._end_hanging_main_thread(self.failure)
        elif self._exit_reason is not None and not self._alone:
            self._lost_ranks.publish_exit_reason(self._exit_reason)

    def _sleep(self) -> None:
        idle = self._vector[Cell.DONE] or self._vector[Cell.WAITING]
        pause_s = 0.02 if self._steps is not None and idle else 0.15
        with contextlib.suppress(queue.Empty):
            self._commands.get(timeout=min(pause_s, self._intervals.waiting_s))

    def _due(self, action: str, every_s: float, now: float) -> bool:
        if now < self._next.get(action, 0.0):
            return False
        self._next[action] = now + every_s
        return True

    def _step(self, now: float) -> None:
        intervals = self._intervals
        if self._due("launcher", 1.0, now) and self._runtime.context.orphaned:
            self.failure = Interrupted(LAUNCHER_ENDED)
            return
        if self._due("beat", intervals.beat_s, now):
            self._telemetry.read()
            self.emitter.facts.exchange()
            self._set_key()
        if not self._alone and self._due("alarm", intervals.alarm_s, now) and self._lost_ranks.noticed():
            self._fail(self._lost_ranks.await_agreed_loss())
            return
        try:
            if self._steps is None and self._is_round_due(now):
                self._post(now)
            elif self._steps is not None and (self._work is None or self._work.is_completed()):
                self._advance()
        except RuntimeError as error:  # gloo's only class of error
            self._steps = None
            self._connection_lost(str(error))
            return
        if self._steps is not None and now - self._posted_at > intervals.overdue_s and self._due("keys", 1.0, now):
            self._check_silence(now)

    def _is_round_due(self, now: float) -> bool:
        intervals, since_s = self._intervals, now - self._posted_at
        if self._vector[Cell.DONE]:
            return True
        if since_s < intervals.waiting_s:
            return False
        new_batches = abs(self._vector[Cell.ADDED] - self._posted_added)  # negative: a new stage began
        enough = new_batches >= self._batches_per_round
        return bool(self._vector[Cell.WAITING] or enough or since_s >= intervals.idle_s)

    def _current_vector(self) -> np.ndarray:
        self._beat += 1
        vector = self._vector.copy()
        vector[Cell.BEAT] = self._beat
        self._telemetry.fill(vector)
        vector[COUNTER_INDEX["progress_us"]] = self._spent_us() + time.thread_time_ns() // 1000
        return vector

    def _post(self, now: float) -> None:
        vector = self._current_vector()
        if vector[Cell.DONE]:
            self._set_key(vector)
        added, since_s = int(vector[Cell.ADDED]), now - self._posted_at
        if added > self._posted_added:
            per_s = (added - self._posted_added) / max(since_s, self._intervals.waiting_s)
            self._batches_per_round = max(1, round(per_s * self._intervals.round_s))
        self._posted_at, self._posted_added = now, added
        self._steps, self._work = self._gather.steps(torch.from_numpy(vector)), None
        self._advance()

    def _advance(self) -> None:
        """Advance the current round to its next step, or to its end."""
        assert self._steps is not None
        try:
            if self._work is not None:
                self._work.wait()  # complete already; raises its error
            self._work = next(self._steps)
        except StopIteration as end:
            self._steps = None
            matrix, now = end.value.numpy(), time.monotonic()
            self._liveness.observe(matrix, now)
            self.finished = bool(matrix[:, Cell.DONE].all())
            if self._runtime.rank == 0 and not self.finished:
                self._declare_silent_lost(self._liveness, now)
                self._emit("round")

    def _emit(self, source: str, ended: str | None = None) -> None:
        if self._runtime.rank != 0:
            return
        self.emitter.emit(self._liveness, source, ended, self._lost)

    # Keys

    def _set_key(self, vector: np.ndarray | None = None) -> None:
        if not self._alone:
            vector = self._current_vector() if vector is None else vector
            self._keys.set(f"{self._prefix}/rank/{self._runtime.rank}", " ".join(map(str, vector.tolist())))

    def _read_keys(self, ranks: range) -> np.ndarray:
        rows = self._liveness.matrix[ranks.start : ranks.stop].copy()
        for rank in ranks:
            if (text := self._keys.get(f"{self._prefix}/rank/{rank}")) is not None:
                rows[rank - ranks.start] = np.array(text.split(), dtype=np.int64)
        return rows

    def _check_silence(self, now: float) -> None:
        """A round is overdue: read from the keys which rank is silent. Rank 0 checks all ranks, the others rank 0."""
        if self._runtime.rank == 0:
            liveness, ranks = self._liveness, range(self._runtime.world_size)
        else:
            liveness, ranks = self._rank_0_liveness, range(1)
        liveness.observe(self._read_keys(ranks), now)
        self._declare_silent_lost(liveness, now)
        self._emit("keys")

    def _declare_silent_lost(self, liveness: Liveness, now: float) -> None:
        """Declare a rank lost that has been silent for longer than the stall timeout."""
        silent_s = liveness.silent_s(now)
        longest = int(silent_s.argmax())
        if silent_s[longest] > self._intervals.stall_timeout_s and not self._alone:
            message = f"rank {longest} was lost: it sent no report for {silent_s[longest]:.0f} s"
            self._fail(self._lost_ranks.declare_lost(longest, message))

    # The end

    def _connection_lost(self, reason: str) -> None:
        if self._keys.get(f"{self._prefix}/ended") is not None:  # a faster rank has seen all ranks done, and exited
            self._liveness.observe(self._read_keys(range(self._runtime.world_size)), time.monotonic())
            self.finished = True
        else:
            self._fail(self._lost_ranks.report(reason))

    def _fail(self, loss: AgreedLoss) -> None:
        self._lost = loss.ranks
        self._grace_s = self._intervals.orderly_grace_s if loss.orderly else self._intervals.grace_s
        self.failure = PeerLost(loss.message, loss.ranks)

    def _store_lost(self, error: PeerLost) -> None:
        if self.finished:
            return
        if self._runtime.context.orphaned:
            self.failure = Interrupted(LAUNCHER_ENDED)
        elif self._runtime.context.agent_store:
            self.failure = error
        else:
            self._fail(AgreedLoss((0,), "rank 0 was lost", orderly=False))

    def _end_after_all(self) -> None:
        """Every rank is done. Rank 0, which may host the key store, leaves last."""
        self._emit("round", ended="")
        if self._alone:
            return
        ended = self._keys.add(f"{self._prefix}/ended")
        until = time.monotonic() + 5.0
        while self._runtime.rank == 0 and ended < self._runtime.world_size and time.monotonic() < until:
            time.sleep(0.005)
            ended = self._keys.add(f"{self._prefix}/ended", 0)

    def _end_hanging_main_thread(self, failure: VpdistError) -> None:
        """Give the main thread time to raise the failure; end this process if it does not."""
        if isinstance(failure, Interrupted):  # after a bug in this thread its snapshots are not used any more
            self._emit("keys", ended=str(failure))
        until = time.monotonic() + self._grace_s
        while not self._stopping and time.monotonic() < until:
            time.sleep(0.05)
        if not self._stopping:
            logger.error("%s; the main thread did not stop within %.0f s, ending the process", failure, self._grace_s)
            os._exit(self._on_forced_exit(failure, self._keys))
