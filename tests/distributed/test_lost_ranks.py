import threading

import pytest
from torch.distributed import HashStore

from tests.launched import PATIENCE_S, wait_until
from vpdist.distributed.lost_ranks import AgreedLoss, LostRanks
from vpdist.distributed.runtime import KeyStore


class Ranks:
    """Three ranks that share a key store."""

    def __init__(self) -> None:
        store = HashStore()
        self._keys = KeyStore(store, lambda: store)

    def __getitem__(self, rank: int) -> LostRanks:
        """One with a short roll call, for when all that are to answer have done so."""
        return self._rank(rank, 1.0)

    def _rank(self, rank: int, roll_call_s: float) -> LostRanks:
        return LostRanks(self._keys, "p", rank, 3, roll_call_s, stopping=lambda: False)

    def answer_beside(self, rank: int, results: list[AgreedLoss]) -> threading.Thread:
        """A rank that has answered the roll call, and waits for its result as long as it takes."""
        survivor = self._rank(rank, PATIENCE_S)
        thread = threading.Thread(target=lambda: results.append(survivor.await_agreed_loss()))
        thread.start()
        wait_until(lambda: self._keys.get(f"p/present/{rank}") is not None, f"the answer of rank {rank}")
        return thread


@pytest.fixture
def ranks() -> Ranks:
    return Ranks()


def test_a_rank_that_does_not_answer_the_roll_call_is_lost_for_all_survivors(ranks: Ranks) -> None:
    results: list[AgreedLoss] = []
    thread = ranks.answer_beside(2, results)
    loss = ranks[0].report("connection closed")
    thread.join()
    assert loss == AgreedLoss((1,), "rank 1 was lost", orderly=False)
    assert results == [loss]
    assert ranks[1].noticed()


def test_several_lost_ranks_are_all_named(ranks: Ranks) -> None:
    assert ranks[1].report("connection closed").message == "ranks 0 and 2 were lost"


def test_a_rank_that_published_why_it_exits_is_named_with_its_reason(ranks: Ranks) -> None:
    results: list[AgreedLoss] = []
    ranks[1].publish_exit_reason("x.fa: no records")
    thread = ranks.answer_beside(2, results)
    loss = ranks[0].report("connection closed")
    thread.join()
    assert loss == AgreedLoss((1,), "rank 1 stopped: x.fa: no records", orderly=True)


def test_a_broken_connection_is_reported_as_such_if_all_ranks_answer(ranks: Ranks) -> None:
    results: list[AgreedLoss] = []
    threads = [ranks.answer_beside(rank, results) for rank in (1, 2)]
    loss = ranks[0].report("timed out")
    for thread in threads:
        thread.join()
    assert loss == AgreedLoss((), "a connection between ranks broke: timed out", orderly=False)
    assert results == [loss, loss]


def test_only_the_first_loss_counts(ranks: Ranks) -> None:
    assert not ranks[1].noticed()
    first = ranks[0].declare_lost(2, "rank 2 was lost")
    assert first.ranks == (2,)
    assert ranks[1].declare_lost(0, "rank 0 was lost") == first


def test_a_rank_without_the_roll_calls_result_still_knows_of_the_loss(ranks: Ranks) -> None:
    assert ranks[1].await_agreed_loss().message == "a rank was lost"
