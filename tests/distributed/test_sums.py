"""Sums over ranks: what a rank does that waits for others which do not come."""

from typing import NoReturn

import pytest
import torch

from vpdist.distributed import sums
from vpdist.distributed.runtime import alone
from vpdist.distributed.sums import Sums
from vpdist.environment import LaunchContext
from vpdist.errors import Interrupted, PeerLost


class Waiting:
    """A collective that never completes."""

    def is_completed(self) -> bool:
        return False


def lost() -> NoReturn:
    raise PeerLost("rank 1 was lost", (1,))


def with_others(monkeypatch: pytest.MonkeyPatch, all_reduce: object, raise_if_ending: object) -> Sums:
    """Sums of a rank that has others, whose collective is `all_reduce`."""
    made = Sums(alone(LaunchContext(), "cpu"), 60.0, raise_if_ending)  # type: ignore[arg-type]
    monkeypatch.setattr(made, "_group", object())
    monkeypatch.setattr(sums.dist, "all_reduce", all_reduce)
    return made


def broken(tensor: torch.Tensor, **options: object) -> NoReturn:
    raise RuntimeError("connection closed by peer")


def test_a_single_rank_is_its_own_sum() -> None:
    tensor = torch.arange(3)
    assert Sums(alone(LaunchContext(), "cpu"), 60.0, lost).add(tensor) is tensor


def test_a_rank_that_must_end_while_it_waits_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> NoReturn:
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(sums, "CHECK_S", 0.0)
    with pytest.raises(Interrupted, match="SIGTERM"):
        with_others(monkeypatch, lambda tensor, **options: Waiting(), stop).add(torch.zeros(1))


def test_a_broken_connection_is_told_as_the_rank_that_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeerLost, match="rank 1 was lost"):
        with_others(monkeypatch, broken, lost).add(torch.zeros(1))


def test_a_broken_connection_of_which_nobody_knows_the_reason_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "LOSS_NOTICED_S", 0.0)
    with pytest.raises(RuntimeError, match="connection closed by peer"):
        with_others(monkeypatch, broken, lambda: None).add(torch.zeros(1))
