"""Workers of one attempt find each other, whatever an earlier attempt has left in the store."""

import threading
from collections.abc import Callable

import pytest
from torch.distributed import HashStore, Store

from tests.launched import PATIENCE_S, wait_until
from vpdist.distributed.attempt import Attempt, agree
from vpdist.environment import LaunchContext
from vpdist.errors import Interrupted, PeerLost


def nothing() -> None:
    """No reason to give up."""


POLLS = 5
"""After so many polls a worker would have found an attempt that it belongs to."""


class Worker(threading.Thread):
    """One rank, on a thread."""

    def __init__(
        self,
        store: Store,
        rank: int,
        restart: int = 0,
        raise_if_ending: Callable[[], None] = nothing,
        timeout_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(daemon=True)
        self.context = LaunchContext(rank=rank, world_size=3, restart=restart)
        self.store, self.timeout_s = store, timeout_s
        self._check, self._polls = raise_if_ending, 0
        self.attempt: Attempt | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.attempt = agree(self.store, self.context, self._look, self.timeout_s)
        except (PeerLost, Interrupted) as error:
            self.error = error

    def _look(self) -> None:
        self._polls += 1
        self._check()

    def waits(self) -> bool:
        """Whether it has polled POLLS more times and found no attempt."""
        until = self._polls + POLLS
        wait_until(lambda: self._polls > until or not self.is_alive(), "another poll of a waiting worker")
        return self.is_alive()


def all_of(*workers: Worker) -> list[Attempt | None]:
    for worker in workers:
        worker.join(PATIENCE_S)
    return [worker.attempt for worker in workers]


def test_all_ranks_agree_and_rank_0_may_come_last() -> None:
    store = HashStore()
    others = [Worker(store, 1), Worker(store, 2)]
    attempts = all_of(Worker(store, 0), *others)
    assert attempts[0] is not None
    assert attempts == [attempts[0]] * 3
    assert attempts[0].number == 0


@pytest.mark.parametrize(
    "restarts", [(1, 1, 1), (0, 1, 1), (0, 0, 0)], ids=["restarted", "rank 0 joined", "membership"]
)
def test_what_an_earlier_attempt_left_is_not_taken_for_this_one(restarts: tuple[int, int, int]) -> None:
    store = HashStore()
    (earlier, *_) = all_of(*(Worker(store, rank) for rank in range(3)))
    others = [Worker(store, rank, restarts[rank]) for rank in (1, 2)]
    assert all(worker.waits() for worker in others)  # for a new id, though there is an old one
    attempts = all_of(Worker(store, 0, restarts[0]), *others)
    assert attempts[0] is not None
    assert attempts == [attempts[0]] * 3
    assert earlier is not None
    assert attempts[0].id != earlier.id
    assert attempts[0].number == 1


def test_a_store_that_is_new_takes_the_number_of_restarts_from_whoever_knows_it() -> None:
    store = HashStore()
    attempts = all_of(Worker(store, 0), Worker(store, 1, restart=2), Worker(store, 2))
    assert [attempt and attempt.number for attempt in attempts] == [2, 2, 2]


def test_of_two_processes_that_claim_a_rank_one_waits_until_the_next_attempt() -> None:
    store = HashStore()
    rivals = [Worker(store, 1), Worker(store, 1)]
    first = all_of(Worker(store, 0), Worker(store, 2))
    wait_until(lambda: not all(rival.is_alive() for rival in rivals), "the end of one of two rivals")
    assert sum(rival.is_alive() and rival.waits() for rival in rivals) == 1
    assert first[0] in [rival.attempt for rival in rivals]
    second = all_of(Worker(store, 0), Worker(store, 2))
    for rival in rivals:
        rival.join(PATIENCE_S)
    assert {rival.attempt for rival in rivals} == {first[0], second[0]}


def test_waiting_ends_with_patience_or_on_request() -> None:
    def stop() -> None:
        raise Interrupted("stopped")

    impatient, stopped = Worker(HashStore(), 0, timeout_s=0.2), Worker(HashStore(), 1, raise_if_ending=stop)
    all_of(impatient, stopped)
    assert isinstance(impatient.error, PeerLost)
    assert isinstance(stopped.error, Interrupted)
    assert not isinstance(stopped.error, PeerLost)
