"""The side channel: every rank's counters to all ranks, about once a second, beside the computation.

One thread per process communicates. It gathers the ranks' vectors through gloo, and sets a small key with the same
vector, because a collective cannot say who is late. The computing thread never waits for it. The exchange ends after
the first round in which every rank is done; it fails, naming the rank, when a rank vanishes or stays silent.
"""

from __future__ import annotations

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
from vpdist.environment import LAUNCHER_GONE
from vpdist.errors import Interrupted, PeerLost, VpdistError
from vpdist.monitoring.counters import ADDED, BEAT, COUNTER_INDEX, DONE, MEMORY, UTILISATION, WAITING, Snapshot
from vpdist.monitoring.gather import Gather, Steps
from vpdist.monitoring.intervals import Intervals
from vpdist.monitoring.liveness import Liveness
from vpdist.monitoring.telemetry import Telemetry

logger = logging.getLogger(__name__)


SESSION = itertools.count()
"""Numbers the exchanges of a process: ranks make them together, so the numbers agree."""


class Exchange:
    """One rank's end of the side channel, and its thread.

    `vector` (WIDTH,) int64 is written by the main thread alone. `failure` is what the main thread must raise;
    `finished` says that the exchange ended because every rank was done.
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
        """`on_snapshot` is called on rank 0 with every snapshot, `on_forced_exit` with the failure and the thread's own
        keys before this process is ended because its main thread hangs, both from the thread; the latter returns the
        exit code. `spent_us`: what other parts of progress cost."""
        self.failure: VpdistError | None = None
        self._lost: tuple[int, ...] = ()
        self.finished = False
        self._runtime, self._vector, self._intervals = runtime, vector, intervals
        self._on_snapshot, self._on_forced_exit, self._spent_us = on_snapshot, on_forced_exit, spent_us
        self._gather = Gather(runtime, intervals.stall_timeout_s + 60)
        self._keys = runtime.keys.clone()
        if runtime.world_size > 1 and not runtime.context.on_loopback:
            notice_silent_machines()
        self._prefix = f"progress/{next(SESSION)}"
        self._lost_ranks = LostRanks(
            self._keys, self._prefix, runtime.rank, runtime.world_size, intervals.roll_call_s, lambda: self._stopping
        )
        self._alone = runtime.world_size == 1
        self._telemetry = Telemetry(runtime.device)
        self._commands: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._exit_reason: str | None = None
        self._start_time = time.monotonic()
        self._liveness = Liveness(runtime.world_size, self._start_time, intervals.stalled_s)
        self._first = Liveness(1, self._start_time, intervals.stalled_s)
        self._grace_s = intervals.grace_s
        self._beat = 0
        self._steps: Steps | None = None
        self._work: dist.Work | None = None
        self._posted_at = -np.inf
        self._posted_added = 0
        self._batches_per_round = 1
        self._next: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="vpdist-exchange", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Have the thread look at the vector now. May be called from a signal's handler."""
        self._commands.put(None)

    def stop(self, exit_reason: str, timeout_s: float) -> None:
        """End the thread at once, whatever it waits for; `exit_reason` tells the peers why."""
        self._exit_reason = exit_reason
        self._stopping = True
        self.wake()
        self._thread.join(timeout_s)
        if self._steps is not None or self._thread.is_alive():
            self._gather.abandon()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # Everything below runs on the thread.
    def _run(self) -> None:
        try:
            self._emit("round")
            while not (self._stopping or self.finished or self.failure):
                self._sleep()
                self._take_part(time.monotonic())
            if self.finished:
                self._finish_together()
        except PeerLost as error:
            self._store_gone(error)
        except Exception as error:  # else this rank would compute on unheard, and be given up as silent
            logger.exception("the exchange of progress failed")
            self.failure = VpdistError(
                f"this is a bug, see the log files: the exchange of progress failed: {type(error).__name__}: {error}"
            )
        if self.failure is not None:
            self._end_hanging_main_thread(self.failure)
        elif self._exit_reason is not None and not self._alone:
            self._lost_ranks.publish_exit_reason(self._exit_reason)

    def _sleep(self) -> None:
        under_way, in_a_hurry = self._steps is not None, self._vector[DONE] or self._vector[WAITING]
        pause_s = 0.02 if under_way and in_a_hurry else 0.15
        try:
            self._commands.get(timeout=min(pause_s, self._intervals.waiting_s))
        except queue.Empty:
            return

    def _due(self, what: str, every_s: float, now: float) -> bool:
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + every_s
        return True

    def _take_part(self, now: float) -> None:
        intervals = self._intervals
        if self._due("orphan", 1.0, now) and self._runtime.context.orphaned:
            self.failure = Interrupted(LAUNCHER_GONE)
            return
        if self._due("beat", intervals.beat_s, now):
            self._telemetry.read()
            self._set_key()
        if not self._alone and self._due("alarm", intervals.alarm_s, now) and self._lost_ranks.noticed():
            self._fail(self._lost_ranks.await_agreed_loss())
            return
        try:
            if self._steps is None and self._wants_round(now):
                self._post(now)
            elif self._steps is not None and (self._work is None or self._work.is_completed()):
                self._advance()
        except RuntimeError as error:  # gloo's only class of error
            self._steps = None
            self._peer_gone(str(error))
            return
        if self._steps is not None and now - self._posted_at > intervals.overdue_s and self._due("look", 1.0, now):
            self._look_at_keys(now)

    def _wants_round(self, now: float) -> bool:
        intervals, since_s = self._intervals, now - self._posted_at
        if self._vector[DONE]:
            return True
        if since_s < intervals.waiting_s:
            return False
        enough = abs(self._vector[ADDED] - self._posted_added) >= self._batches_per_round  # less: a new stage
        return bool(self._vector[WAITING] or enough or since_s >= intervals.idle_s)

    def _present(self) -> np.ndarray:
        self._beat += 1
        vector = self._vector.copy()
        vector[BEAT], vector[MEMORY] = self._beat, self._telemetry.memory_bytes
        vector[UTILISATION] = self._telemetry.utilisation
        vector[COUNTER_INDEX["progress_us"]] = self._spent_us() + time.thread_time_ns() // 1000
        return vector

    def _post(self, now: float) -> None:
        vector = self._present()
        if vector[DONE]:
            self._set_key(vector)
        added, since_s = int(vector[ADDED]), now - self._posted_at
        if added > self._posted_added:
            per_s = (added - self._posted_added) / max(since_s, self._intervals.waiting_s)
            self._batches_per_round = max(1, round(per_s * self._intervals.round_s))
        self._posted_at, self._posted_added = now, added
        self._steps, self._work = self._gather.steps(torch.from_numpy(vector)), None
        self._advance()

    def _advance(self) -> None:
        """Go on with the round under way: to its next step, or to its end."""
        assert self._steps is not None
        try:
            if self._work is not None:
                self._work.wait()  # complete already; raises what went wrong
            self._work = next(self._steps)
        except StopIteration as end:
            self._steps = None
            matrix, now = end.value.numpy(), time.monotonic()
            self._liveness.observe(matrix, now)
            self.finished = bool(matrix[:, DONE].all())
            if self._runtime.rank == 0 and not self.finished:
                self._judge(self._liveness, now)
                self._emit("round")

    def _emit(self, source: str, ended: str | None = None) -> None:
        if self._runtime.rank != 0:
            return
        now = time.monotonic()
        elapsed = now - self._start_time
        self._on_snapshot(
            self._liveness.snapshot(now, time=time.time(), elapsed=elapsed, source=source, ended=ended, lost=self._lost)
        )

    # Keys

    def _set_key(self, vector: np.ndarray | None = None) -> None:
        if not self._alone:
            vector = self._present() if vector is None else vector
            self._keys.set(f"{self._prefix}/rank/{self._runtime.rank}", " ".join(map(str, vector.tolist())))

    def _read_keys(self, ranks: range) -> np.ndarray:
        rows = self._liveness.matrix[ranks.start : ranks.stop].copy()
        for rank in ranks:
            if (text := self._keys.get(f"{self._prefix}/rank/{rank}")) is not None:
                rows[rank - ranks.start] = np.array(text.split(), dtype=np.int64)
        return rows

    def _look_at_keys(self, now: float) -> None:
        """A round is overdue: who is silent? Rank 0 judges everyone, the others judge rank 0."""
        if self._runtime.rank == 0:
            liveness, ranks = self._liveness, range(self._runtime.world_size)
        else:
            liveness, ranks = self._first, range(1)
        liveness.observe(self._read_keys(ranks), now)
        self._judge(liveness, now)
        self._emit("keys")

    def _judge(self, liveness: Liveness, now: float) -> None:
        """A rank that holds the others up for too long is given up."""
        silent_s = liveness.silent_s(now)
        longest = int(silent_s.argmax())
        if silent_s[longest] > self._intervals.stall_timeout_s and not self._alone:
            reason = f"rank {longest} lost: silent for {silent_s[longest]:.0f} s"
            self._fail(self._lost_ranks.declare_lost(longest, reason))

    # The end

    def _peer_gone(self, reason: str) -> None:
        if self._keys.get(f"{self._prefix}/ended") is not None:  # a faster peer has seen everyone done and left
            self._liveness.observe(self._read_keys(range(self._runtime.world_size)), time.monotonic())
            self.finished = True
        else:
            self._fail(self._lost_ranks.report(reason))

    def _fail(self, loss: AgreedLoss) -> None:
        self._lost = loss.ranks
        self._grace_s = self._intervals.orderly_grace_s if loss.orderly else self._intervals.grace_s
        self.failure = PeerLost(loss.message, loss.ranks)

    def _store_gone(self, error: PeerLost) -> None:
        if self.finished:
            return
        if self._runtime.context.orphaned:
            self.failure = Interrupted(LAUNCHER_GONE)
        elif self._runtime.context.agent_store:
            self.failure = error
        else:
            self._fail(AgreedLoss((0,), "rank 0 lost", orderly=False))

    def _finish_together(self) -> None:
        """Every rank is done. The process that hosts the key store leaves last."""
        self._emit("round", ended="")
        if self._alone:
            return
        gone = self._keys.add(f"{self._prefix}/ended")
        until = time.monotonic() + 5.0
        while self._runtime.rank == 0 and gone < self._runtime.world_size and time.monotonic() < until:
            time.sleep(0.005)
            gone = self._keys.add(f"{self._prefix}/ended", 0)

    def _end_hanging_main_thread(self, failure: VpdistError) -> None:
        """The main thread raises the failure; should it hang somewhere, this process must end all the same."""
        if isinstance(failure, Interrupted):  # after a bug in this thread, nothing more is made of its snapshots
            self._emit("keys", ended=str(failure))
        until = time.monotonic() + self._grace_s
        while not self._stopping and time.monotonic() < until:
            time.sleep(0.05)
        if not self._stopping:
            logger.error("%s; the main thread did not stop within %.0f s", failure, self._grace_s)
            os._exit(self._on_forced_exit(failure, self._keys))
