"""The side channel: every rank's counters to all ranks, about once a second, beside the computation.

One thread per process communicates. It gathers the ranks' vectors through gloo, and sets a small key with the same
vector, because a collective cannot say who is late. The computing thread never waits for it. The exchange ends after
the first round in which every rank is done; it fails, naming the rank, when a rank vanishes or stays silent.
No other module uses torch.distributed's collectives.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Generator
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from vpdist.counters import (
    ADDED,
    BEAT,
    COUNTER_INDEX,
    DONE,
    MEMORY,
    UTILISATION,
    WAITING,
    WIDTH,
    Liveness,
    Snapshot,
)
from vpdist.environment import LAUNCHER_GONE
from vpdist.errors import Interrupted, PeerLost, VpdistError
from vpdist.losses import Loss, Losses
from vpdist.runtime import KeyStore, Runtime
from vpdist.sockets import notice_silent_machines
from vpdist.telemetry import Telemetry
from vpdist.timing import Timing

logger = logging.getLogger(__name__)

Steps = Generator[dist.Work, None, torch.Tensor]
"""A round under way: yields what it waits for, returns all ranks' vectors (ranks, WIDTH)."""

SESSION = itertools.count()
"""Numbers the exchanges of a process: ranks make them together, so the numbers agree."""


class Gather:
    """Rounds of all_gather. With several nodes: within each node, among the nodes' first ranks, and back.

    To be made by all ranks together, on the main thread.
    """

    def __init__(self, runtime: Runtime, timeout_s: float) -> None:
        self._world_size = runtime.world_size
        self._groups: list[dist.ProcessGroup] = []
        if self._world_size == 1:
            return
        timeout = timedelta(seconds=timeout_s)
        nodes = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world_size)]
        dist.all_gather(nodes, torch.tensor([runtime.place.node]))
        ranks_of: dict[int, list[int]] = {}
        for rank, node in enumerate(nodes):
            ranks_of.setdefault(int(node), []).append(rank)
        if len(ranks_of) == 1:  # the group of all serves: every group's thread wakes a hundred times a second
            world = dist.group.WORLD
            assert world is not None
            world.set_timeout(timeout)
            self._groups.append(world)
            return
        mine = ranks_of[runtime.place.node]
        self._leader, self._leads = mine[0], mine[0] == runtime.rank
        self._rows_per_node = max(map(len, ranks_of.values()))
        members = list(ranks_of.values())
        self._members = [ranks + [-1] * (self._rows_per_node - len(ranks)) for ranks in members]
        # torch numbers a process's groups, and members must agree on the number: so everyone makes two.
        leaders = [ranks[0] for ranks in members] if self._leads else [runtime.rank]
        for ranks in (mine, leaders):
            self._groups.append(dist.new_group(ranks, timeout=timeout, backend="gloo", use_local_synchronization=True))

    def steps(self, vector: torch.Tensor) -> Steps:
        """One round, this rank's vector (WIDTH,) being its part. Raises RuntimeError when a peer is gone."""
        if not self._groups:
            return vector.reshape(1, -1)
        if self._world_size == self._groups[0].size():
            return (yield from _all_gather(vector, self._groups[0]))
        node_RW = yield from _all_gather(vector, self._groups[0])
        padded_RW = torch.zeros((self._rows_per_node, WIDTH), dtype=torch.int64)
        padded_RW[: len(node_RW)] = node_RW
        if self._leads:
            nodes_NRW = yield from _all_gather(padded_RW, self._groups[1])
            everyone = torch.zeros((self._world_size, WIDTH), dtype=torch.int64)
            for ranks, rows_RW in zip(self._members, nodes_NRW, strict=True):
                present = [rank for rank in ranks if rank >= 0]
                everyone[present] = rows_RW[: len(present)]
        else:
            everyone = torch.empty((self._world_size, WIDTH), dtype=torch.int64)
        yield dist.broadcast(everyone, src=self._leader, group=self._groups[0], async_op=True)
        return everyone

    def abandon(self) -> None:
        """Leave a round under way: keep the groups from being destroyed, which would wait for the missing peer."""
        for group in self._groups:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def _all_gather(part: torch.Tensor, group: dist.ProcessGroup) -> Steps:
    whole = torch.empty((group.size(), *part.shape), dtype=torch.int64)
    yield dist.all_gather(list(whole), part, group=group, async_op=True)
    return whole


class Exchange:
    """One rank's end of the side channel, and its thread.

    `vector` (WIDTH,) int64 is written by the main thread alone. `failure` is what the main thread must raise;
    `finished` says that the exchange ended because every rank was done.
    """

    def __init__(
        self,
        runtime: Runtime,
        vector: np.ndarray,
        timing: Timing,
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
        self._runtime, self._vector, self._timing = runtime, vector, timing
        self._on_snapshot, self._on_forced_exit, self._spent_us = on_snapshot, on_forced_exit, spent_us
        self._gather = Gather(runtime, timing.stall_timeout_s + 60)
        self._keys = runtime.keys.clone()
        if runtime.world_size > 1 and not runtime.place.on_loopback:
            notice_silent_machines()
        self._prefix = f"progress/{next(SESSION)}"
        self._losses = Losses(
            self._keys, self._prefix, runtime.rank, runtime.world_size, timing.census_s, stopping=lambda: self._stopping
        )
        self._alone = runtime.world_size == 1
        self._telemetry = Telemetry(runtime.device)
        self._commands: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._farewell: str | None = None
        self._start_time = time.monotonic()
        self._liveness = Liveness(runtime.world_size, self._start_time, timing.stalled_s)
        self._first = Liveness(1, self._start_time, timing.stalled_s)
        self._grace_s = timing.grace_s
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

    def stop(self, farewell: str, timeout_s: float) -> None:
        """End the thread at once, whatever it waits for; `farewell` tells the peers why."""
        self._farewell = farewell
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
                self._part_company()
        except PeerLost as error:
            self._store_gone(error)
        except Exception as error:  # else this rank would compute on unheard, and be given up as silent
            logger.exception("the exchange of progress failed")
            self.failure = VpdistError(
                f"this is a bug, see the log files: the exchange of progress failed: {type(error).__name__}: {error}"
            )
        if self.failure is not None:
            self._see_main_thread_off(self.failure)
        elif self._farewell is not None and not self._alone:
            self._losses.say_farewell(self._farewell)

    def _sleep(self) -> None:
        under_way, in_a_hurry = self._steps is not None, self._vector[DONE] or self._vector[WAITING]
        pause_s = 0.02 if under_way and in_a_hurry else 0.15
        try:
            self._commands.get(timeout=min(pause_s, self._timing.waiting_s))
        except queue.Empty:
            return

    def _due(self, what: str, every_s: float, now: float) -> bool:
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + every_s
        return True

    def _take_part(self, now: float) -> None:
        timing = self._timing
        if self._due("orphan", 1.0, now) and self._runtime.place.orphaned:
            self.failure = Interrupted(LAUNCHER_GONE)
            return
        if self._due("beat", timing.beat_s, now):
            self._telemetry.read()
            self._set_key()
        if not self._alone and self._due("alarm", timing.alarm_s, now) and self._losses.noticed():
            self._fail(self._losses.hear())
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
        if self._steps is not None and now - self._posted_at > timing.overdue_s and self._due("look", 1.0, now):
            self._look_at_keys(now)

    def _wants_round(self, now: float) -> bool:
        timing, since_s = self._timing, now - self._posted_at
        if self._vector[DONE]:
            return True
        if since_s < timing.waiting_s:
            return False
        enough = abs(self._vector[ADDED] - self._posted_added) >= self._batches_per_round  # less: a new stage
        return bool(self._vector[WAITING] or enough or since_s >= timing.idle_s)

    def _present(self) -> np.ndarray:
        self._beat += 1
        vector = self._vector.copy()
        vector[BEAT], vector[MEMORY], vector[UTILISATION] = (
            self._beat,
            self._telemetry.memory_bytes,
            self._telemetry.utilisation,
        )
        vector[COUNTER_INDEX["progress_us"]] = self._spent_us() + time.thread_time_ns() // 1000
        return vector

    def _post(self, now: float) -> None:
        vector = self._present()
        if vector[DONE]:
            self._set_key(vector)
        added, since_s = int(vector[ADDED]), now - self._posted_at
        if added > self._posted_added:
            per_s = (added - self._posted_added) / max(since_s, self._timing.waiting_s)
            self._batches_per_round = max(1, round(per_s * self._timing.round_s))
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
            matrix = end.value.numpy()
            now = time.monotonic()
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
            text = self._keys.get(f"{self._prefix}/rank/{rank}")
            if text is not None:
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
        if silent_s[longest] > self._timing.stall_timeout_s and not self._alone:
            message = f"rank {longest} lost: silent for {silent_s[longest]:.0f} s"
            self._fail(self._losses.give_up(longest, message))

    # The end

    def _peer_gone(self, reason: str) -> None:
        if self._keys.get(f"{self._prefix}/ended") is not None:  # a faster peer has seen everyone done and left
            self._liveness.observe(self._read_keys(range(self._runtime.world_size)), time.monotonic())
            self.finished = True
        else:
            self._fail(self._losses.report(reason))

    def _fail(self, loss: Loss) -> None:
        self._lost = loss.ranks
        self._grace_s = self._timing.orderly_grace_s if loss.orderly else self._timing.grace_s
        self.failure = PeerLost(loss.message, loss.ranks)

    def _store_gone(self, error: PeerLost) -> None:
        if self.finished:
            return
        if self._runtime.place.orphaned:
            self.failure = Interrupted(LAUNCHER_GONE)
        elif self._runtime.place.agent_store:
            self.failure = error
        else:
            self._fail(Loss((0,), "rank 0 lost", orderly=False))

    def _part_company(self) -> None:
        """Every rank is done. The process that hosts the key store leaves last."""
        self._emit("round", ended="")
        if self._alone:
            return
        gone = self._keys.add(f"{self._prefix}/ended")
        until = time.monotonic() + 5.0
        while self._runtime.rank == 0 and gone < self._runtime.world_size and time.monotonic() < until:
            time.sleep(0.005)
            gone = self._keys.add(f"{self._prefix}/ended", 0)

    def _see_main_thread_off(self, failure: VpdistError) -> None:
        """The main thread raises the failure; should it hang somewhere, this process must end all the same."""
        if isinstance(failure, Interrupted):  # after a bug in this thread, nothing more is made of its snapshots
            self._emit("keys", ended=str(failure))
        until = time.monotonic() + self._grace_s
        while not self._stopping and time.monotonic() < until:
            time.sleep(0.05)
        if not self._stopping:
            logger.error("%s; the main thread did not stop within %.0f s", failure, self._grace_s)
            os._exit(self._on_forced_exit(failure, self._keys))
