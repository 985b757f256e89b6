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
        """One that holds its census quickly, once everyone who is to answer has done so."""
        return self._rank(rank, 1.0)

    def _rank(self, rank: int, roll_call_s: float) -> LostRanks:
        return LostRanks(self._keys, "p", rank, 3, roll_call_s, stopping=lambda: False)

    def hear_beside(self, rank: int, heard: list[AgreedLoss]) -> threading.Thread:
        """A rank that has said that it is alive, and waits for the verdict as long as it takes."""
        listener = self._rank(rank, PATIENCE_S)
        thread = threading.Thread(target=lambda: heard.append(listener.await_agreed_loss()))
        thread.start()
        wait_until(lambda: self._keys.get(f"p/here/{rank}") is not None, f"a sign of life from rank {rank}")
        return thread


@pytest.fixture
def ranks() -> Ranks:
    return Ranks()


def test_who_does_not_answer_the_census_is_lost_and_all_survivors_say_so(ranks: Ranks) -> None:
    heard: list[AgreedLoss] = []
    thread = ranks.hear_beside(2, heard)
    loss = ranks[0].report("connection closed")
    thread.join()
    assert loss == AgreedLoss((1,), "rank 1 lost", orderly=False)
    assert heard == [loss]
    assert ranks[1].noticed()


def test_several_lost_ranks_are_all_named(ranks: Ranks) -> None:
    assert ranks[1].report("connection closed").message == "ranks 0 and 2 lost"


def test_a_rank_that_left_word_is_named_with_its_reason(ranks: Ranks) -> None:
    heard: list[AgreedLoss] = []
    ranks[1].publish_exit_reason("x.fa: no records")
    thread = ranks.hear_beside(2, heard)
    loss = ranks[0].report("connection closed")
    thread.join()
    assert loss == AgreedLoss((1,), "rank 1 stopped: x.fa: no records", orderly=True)


def test_a_broken_connection_is_told_as_such_where_everyone_is_alive(ranks: Ranks) -> None:
    heard: list[AgreedLoss] = []
    threads = [ranks.hear_beside(rank, heard) for rank in (1, 2)]
    loss = ranks[0].report("timed out")
    for thread in threads:
        thread.join()
    assert loss == AgreedLoss((), "a connection between ranks broke: timed out", orderly=False)
    assert heard == [loss, loss]


def test_only_the_first_loss_counts(ranks: Ranks) -> None:
    assert not ranks[1].noticed()
    first = ranks[0].declare_lost(2, "rank 2 lost: silent for 1800 s")
    assert first.ranks == (2,)
    assert ranks[1].declare_lost(0, "rank 0 lost: silent for 1801 s") == first


def test_a_rank_that_hears_no_verdict_still_knows_of_the_loss(ranks: Ranks) -> None:
    assert ranks[1].await_agreed_loss().message == "a rank was lost"
