"""How ranks agree without collectives: texts and counters in the key store, one failure for all.

A rank waits by polling, so it notices a lost peer, a request to stop, or a failure elsewhere while it waits. The first
failure is published; every rank ends with its exit code, and rank 0 alone tells people about it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from vpdist.distributed.runtime import KeyStore, Runtime
from vpdist.environment import LAUNCHER_GONE
from vpdist.errors import Interrupted, PeerLost, VpdistError
from vpdist.session.progress import Progress
from vpdist.session.signals import StopRequest
from vpdist.storage.run_lock import Lock

POLL_S, MOST_POLL_S, POLL_PER_RANK_S = 0.01, 0.5, 0.002
"""Many ranks ask the store less often each, so that it answers a bounded number of questions per second."""
LOOK_FOR_FAILURE_S = 0.5
ACKNOWLEDGE_S = 5.0
FAILED, SEEN = "failed", "failed/seen"


class FailedElsewhere(VpdistError):  # noqa: N818 - it happened elsewhere
    """Another rank failed; carries its rank, exit code and message."""

    def __init__(self, rank: int, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.rank, self.exit_code = rank, exit_code


def published_failure(keys: KeyStore) -> FailedElsewhere | None:
    """The first failure that a rank has published. Raises PeerLost when the store is gone."""
    failure = keys.get(FAILED)
    if failure is None:
        return None
    fields = json.loads(failure)
    return FailedElsewhere(int(fields["rank"]), int(fields["exit_code"]), str(fields["message"]))


def publish_first_failure(keys: KeyStore, rank: int, exit_code: int, message: str) -> None:
    """Publish how `rank` failed, unless a failure is known already. Raises PeerLost when the store is gone."""
    if keys.get(FAILED) is None:
        keys.set(FAILED, json.dumps({"rank": rank, "exit_code": exit_code, "message": message}))


@dataclass(slots=True)
class Control:
    """One rank's means to agree with the others."""

    runtime: Runtime
    stop: StopRequest
    progress: Progress | None = None
    lock: Lock | None = None
    """The run folder's, on rank 0."""
    _looked: float = 0.0

    @property
    def is_first(self) -> bool:
        return self.runtime.rank == 0

    def raise_if_ending(self) -> None:
        """Raises Interrupted, PeerLost, FailedElsewhere or, the folder lost, StorageError when this rank should end."""
        self.stop.raise_if_requested()
        if self.lock is not None:
            self.lock.raise_if_lost()
        if self.progress is not None:
            self.progress.raise_if_failed()
        elif self.runtime.context.orphaned:
            raise Interrupted(LAUNCHER_GONE)
        now = time.monotonic()
        if self.runtime.world_size > 1 and now - self._looked > LOOK_FOR_FAILURE_S:
            self._looked = now
            failure = self.failure_elsewhere()
            if failure is not None:
                raise failure

    def publish(self, key: str, text: str) -> None:
        self.runtime.keys.set(key, text)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Poll until `ready` says so, answering progress rounds meanwhile."""
        if ready():
            return
        pause_s = POLL_S
        longest_s = min(MOST_POLL_S, POLL_S + self.runtime.world_size * POLL_PER_RANK_S)
        with self.progress.waiting() if self.progress is not None else nullcontext():
            while not ready():
                self.raise_if_ending()
                time.sleep(pause_s)
                pause_s = min(longest_s, 1.2 * pause_s)

    def wait_for(self, key: str) -> str:
        """The text that some rank publishes under `key`."""
        self.wait_until(lambda: self.runtime.keys.get(key) is not None)
        value = self.runtime.keys.get(key)
        if value is None:
            raise RuntimeError(f"key {key} has vanished from the store")
        return value.decode()

    def broadcast_from_rank_0(self, key: str, make: Callable[[], str]) -> str:
        """What rank 0 makes, on every rank."""
        if self.is_first:
            text = make()
            self.publish(key, text)
            return text
        return self.wait_for(key)

    def next_index(self, name: str) -> int:
        """The next number (0, 1, 2, ...) that no rank has drawn under this name."""
        return self.runtime.keys.add(f"next/{name}") - 1

    def barrier(self, name: str) -> None:
        """Wait until every rank has come here."""
        self.runtime.keys.add(f"met/{name}")
        self.wait_until(lambda: self.runtime.keys.add(f"met/{name}", 0) >= self.runtime.world_size)

    def share_dynamically(self, name: str, total: int, work: Callable[[int], None]) -> None:
        """Do `work(0)` to `work(total - 1)`, each on whichever rank is free, and wait until all are done."""
        while (item := self.next_index(name)) < total:
            self.raise_if_ending()
            work(item)
            self.runtime.keys.add(f"done/{name}")
        self.wait_until(lambda: self.runtime.keys.add(f"done/{name}", 0) >= total)

    def failure_elsewhere(self) -> FailedElsewhere | None:
        """The failure that another rank has published."""
        return published_failure(self.runtime.keys)

    def publish_failure(self, message: str | None, exit_code: int) -> None:
        """Tell all ranks that this one failed (no message: another one did); wait for rank 0 to have taken note, before
        a launcher ends this process."""
        if self.runtime.world_size == 1:
            return
        try:
            if message is not None:
                publish_first_failure(self.runtime.keys, self.runtime.rank, exit_code, message)
            until = time.monotonic() + ACKNOWLEDGE_S
            while not self.is_first and time.monotonic() < until and self.runtime.keys.get(SEEN) is None:
                time.sleep(POLL_S)
        except PeerLost:
            return  # the store is gone with its host: nobody is left to be told

    def acknowledge_failure(self) -> None:
        """Rank 0: the failure is on record, the others may end."""
        try:
            self.publish(SEEN, "1")
        except PeerLost:
            return  # the store is gone with its host
