import threading

import pytest
from torch.distributed import HashStore

from vpdist.losses import Loss, Losses
from vpdist.runtime import KeyStore

CENSUS_S = 0.5


@pytest.fixture
def ranks() -> list[Losses]:
    """Three ranks that share a key store."""
    store = HashStore()
    return [Losses(KeyStore(store, lambda: store), "p", rank, 3, CENSUS_S, stopping=lambda: False) for rank in range(3)]


def hear_beside(rank: Losses, heard: list[Loss]) -> threading.Thread:
    thread = threading.Thread(target=lambda: heard.append(rank.hear()))
    thread.start()
    return thread


def test_who_does_not_answer_the_census_is_lost_and_all_survivors_say_so(ranks: list[Losses]) -> None:
    heard: list[Loss] = []
    thread = hear_beside(ranks[2], heard)
    loss = ranks[0].report("connection closed")
    thread.join()
    assert loss == Loss((1,), "rank 1 lost", orderly=False)
    assert heard == [loss]
    assert ranks[1].noticed()


def test_several_lost_ranks_are_all_named(ranks: list[Losses]) -> None:
    assert ranks[1].report("connection closed").message == "ranks 0 and 2 lost"


def test_a_rank_that_left_word_is_named_with_its_reason(ranks: list[Losses]) -> None:
    heard: list[Loss] = []
    ranks[1].say_farewell("x.fa: no records")
    thread = hear_beside(ranks[2], heard)
    loss = ranks[0].report("connection closed")
    thread.join()
    assert loss == Loss((1,), "rank 1 stopped: x.fa: no records", orderly=True)


def test_a_broken_connection_is_told_as_such_where_everyone_is_alive(ranks: list[Losses]) -> None:
    heard: list[Loss] = []
    threads = [hear_beside(ranks[rank], heard) for rank in (1, 2)]
    loss = ranks[0].report("timed out")
    for thread in threads:
        thread.join()
    assert loss == Loss((), "a connection between ranks broke: timed out", orderly=False)
    assert heard == [loss, loss]


def test_only_the_first_loss_counts(ranks: list[Losses]) -> None:
    assert not ranks[1].noticed()
    first = ranks[0].give_up(2, "rank 2 lost: silent for 1800 s")
    assert first.ranks == (2,)
    assert ranks[1].give_up(0, "rank 0 lost: silent for 1801 s") == first


def test_a_rank_that_hears_no_verdict_still_knows_of_the_loss(ranks: list[Losses]) -> None:
    assert ranks[1].hear().message == "a rank was lost"
