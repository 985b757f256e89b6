"""How ranks agree without collectives: texts and counters in the key store, one failure for all.

A rank waits by polling, so that it notices a lost rank, a request to stop, or a failure of another rank meanwhile. The
first failure is published; every rank ends with its exit code, and rank 0 reports it to the user.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vpdist.distributed.runtime import KeyStore, Runtime
from vpdist.environment import LAUNCHER_ENDED
from vpdist.errors import EXIT_BUG, Interrupted, PeerLost, StorageError, VpdistError
from vpdist.session.progress import Progress
from vpdist.session.signals import StopRequest
from vpdist.storage.object_stores import RETRIES, Retries
from vpdist.storage.run_lock import Lock

VISIBLE_WITHIN_S = 60.0
"""Time that a network file system may take to show one rank what another has written."""
POLL_S, MOST_POLL_S, POLL_PER_RANK_S = 0.01, 0.5, 0.002
"""The more ranks there are, the less often each polls, so that the store's load is bounded."""
CHECK_FAILURE_S = 0.5
ACKNOWLEDGE_S = 5.0
FAILED, ACKNOWLEDGED = "failed", "failed/acknowledged"


class OtherRankFailed(VpdistError):  # noqa: N818 - this rank did not fail
    """Another rank failed: its rank, exit code and message."""

    def __init__(self, rank: int, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.rank, self.exit_code = rank, exit_code


def published_failure(keys: KeyStore) -> OtherRankFailed | None:
    """The first failure that a rank has published. Raises PeerLost if the key store does not answer."""
    failure = keys.whole.get(FAILED)
    if failure is None:
        return None
    try:
        fields = json.loads(failure)
        rank, code, message = int(fields["rank"]), int(fields["exit_code"]), str(fields["message"])
    except (ValueError, TypeError, KeyError):  # set by somebody else
        rank, code, message = (
            0,
            EXIT_BUG,
            f"the ranks' key store holds a failure that no rank has published: {failure!r}",
        )
    return OtherRankFailed(rank, code if 0 < code < 256 else EXIT_BUG, message)


def publish_first_failure(keys: KeyStore, rank: int, exit_code: int, message: str) -> None:
    """Publish how `rank` failed, unless a failure is published already. Raises PeerLost as above."""
    if keys.whole.get(FAILED) is None:
        keys.whole.set(FAILED, json.dumps({"rank": rank, "exit_code": exit_code, "message": message}))


@dataclass(slots=True)
class Control:
    """How one rank agrees with the others."""

    runtime: Runtime
    stop: StopRequest
    progress: Progress | None = None
    lock: Lock | None = None
    """The run folder's, on rank 0."""
    _checked: float = 0.0

    @property
    def is_first(self) -> bool:
        return self.runtime.rank == 0

    def raise_if_ending(self) -> None:
        """Raises Interrupted, PeerLost, OtherRankFailed or (lock lost) StorageError if this rank must end."""
        self.stop.raise_if_requested()
        if self.lock is not None:
            self.lock.raise_if_lost()
        if self.progress is not None:
            self.progress.raise_if_failed()
        elif self.runtime.context.orphaned:
            raise Interrupted(LAUNCHER_ENDED)
        now = time.monotonic()
        if self.runtime.world_size > 1 and now - self._checked > CHECK_FAILURE_S:
            self._checked = now
            if (failure := published_failure(self.runtime.keys)) is not None:
                raise failure

    @property
    def retries(self) -> Retries:
        """How requests to stores of objects are made: waiting ends when this rank must end."""
        return replace(RETRIES, waiting=self.raise_if_ending)

    def publish(self, key: str, text: str) -> None:
        self.runtime.keys.set(key, text)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Poll until `ready()`. Raises what `raise_if_ending` raises."""
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
        """The text that a rank publishes under `key`, once it has done so."""
        self.wait_until(lambda: self.runtime.keys.get(key) is not None)
        value = self.runtime.keys.get(key)
        if value is None:
            raise RuntimeError(f"key {key} has vanished from the store")
        return value.decode()

    def wait_for_file(self, path: Path) -> None:
        """Wait for a file that rank 0 has written; a network file system may show it late. Raises StorageError."""
        until = time.monotonic() + VISIBLE_WITHIN_S

        def exists() -> bool:
            if not path.exists() and time.monotonic() > until:
                raise StorageError(f"{path}: was written by rank 0 but is not visible to rank {self.runtime.rank}")
            return path.exists()

        self.wait_until(exists)

    def broadcast_from_rank_0(self, key: str, make: Callable[[], str]) -> str:
        """Return on every rank what `make()` returns on rank 0."""
        if self.is_first:
            text = make()
            self.publish(key, text)
            return text
        return self.wait_for(key)

    def next_index(self, name: str) -> int:
        """The next number (0, 1, 2, ...) that no rank has got under this name."""
        return self.runtime.keys.add(f"next/{name}") - 1

    def barrier(self, name: str) -> None:
        """Wait until every rank has called this."""
        self.runtime.keys.add(f"barrier/{name}")
        self.wait_until(lambda: self.runtime.keys.add(f"barrier/{name}", 0) >= self.runtime.world_size)

    def share_dynamically(self, name: str, total: int, work: Callable[[int], None]) -> None:
        """Call `work(0)` to `work(total - 1)`, each on the next free rank, and wait until all are done."""
        while (item := self.next_index(name)) < total:
            self.raise_if_ending()
            work(item)
            self.runtime.keys.add(f"done/{name}")
        self.wait_until(lambda: self.runtime.keys.add(f"done/{name}", 0) >= total)

    def publish_failure(self, message: str | None, exit_code: int) -> None:
        """Publish that this rank failed (no message: another one did), and wait until rank 0 has read it: a launcher
        ends all ranks soon after the first one exits."""
        if self.runtime.world_size == 1:
            return
        with suppress(PeerLost):  # the process that hosts the store has ended: no rank is left to read it
            if message is not None:
                publish_first_failure(self.runtime.keys, self.runtime.rank, exit_code, message)
            until = time.monotonic() + ACKNOWLEDGE_S
            while not self.is_first and time.monotonic() < until and self.runtime.keys.whole.get(ACKNOWLEDGED) is None:
                time.sleep(POLL_S)

    def acknowledge_failure(self) -> None:
        """On rank 0: the failure is recorded, the other ranks may end."""
        with suppress(PeerLost):  # the process that hosts the store has ended
            self.runtime.keys.whole.set(ACKNOWLEDGED, "1")
