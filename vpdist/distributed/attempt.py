"""One attempt of a launch: an id that all of its workers agree on, and no worker of an earlier attempt.

A launcher tells a worker how often the worker's own agent has started anew; an agent that joins later counts from 0, a
change of membership is not counted at all, and the key store outlives its users. So rank 0 makes an id up, the others
answer under it, and rank 0 confirms the processes that have answered. Whoever is not confirmed waits for the next id.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch.distributed import Store

from vpdist.environment import LaunchContext
from vpdist.errors import PeerLost

POLL_S, MOST_POLL_S = 0.01, 0.25
NEWEST, COUNTED = "vpdist/attempt", "vpdist/attempts"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the workers of one attempt have in common."""

    id: str
    """Differs from every other attempt's."""
    number: int
    """How many attempts of the same launch came before, as far as the store or any agent knows."""


def agree(store: Store, context: LaunchContext, raise_if_ending: Callable[[], None], timeout_s: float) -> Attempt:
    """The attempt that this process belongs to; returns once all ranks have come.

    Args:
        store: what the ranks share, with whatever earlier attempts left in it.
        context: this process's context.
        raise_if_ending: called while waiting; may raise to give up.
        timeout_s: patience.

    Raises:
        PeerLost: not all ranks came in time.
        DistError: the store is gone.
    """
    me = secrets.token_hex(8)
    waiting = _Waiting(raise_if_ending, time.monotonic() + timeout_s)
    if context.rank == 0:
        return _convene(store, context, me, waiting)
    answered = ""
    while True:
        if store.check([NEWEST]):
            newest = store.get(NEWEST).decode()
            if newest != answered:
                store.set(_answer(newest, context.rank), f"{me} {context.restart}")
                answered = newest
            if store.check([_confirmed(newest)]):
                fields = json.loads(store.get(_confirmed(newest)))
                if fields["processes"].get(str(context.rank)) == me:
                    return Attempt(newest, fields["number"])
        waiting.a_moment()


def _convene(store: Store, context: LaunchContext, attempt: str, waiting: _Waiting) -> Attempt:
    """Rank 0: announce the attempt, hear everyone, confirm."""
    number = max(store.add(COUNTED, 1) - 1, context.restart)
    store.set(NEWEST, attempt)
    ranks = range(1, context.world_size)
    answers = [_answer(attempt, rank) for rank in ranks]
    while not store.check(answers):
        waiting.a_moment()
    processes = {}
    for rank, answer in zip(ranks, store.multi_get(answers), strict=True):
        processes[rank], restarts = answer.decode().split()
        number = max(number, int(restarts))
    store.set(_confirmed(attempt), json.dumps({"number": number, "processes": processes}))
    return Attempt(attempt, number)


def _answer(attempt: str, rank: int) -> str:
    return f"vpdist/{attempt}/here/{rank}"


def _confirmed(attempt: str) -> str:
    return f"vpdist/{attempt}/confirmed"


class _Waiting:
    def __init__(self, raise_if_ending: Callable[[], None], until: float) -> None:
        self._raise_if_ending, self._until, self._pause_s = raise_if_ending, until, POLL_S

    def a_moment(self) -> None:
        self._raise_if_ending()
        if time.monotonic() > self._until:
            raise PeerLost("not all ranks have come")
        time.sleep(self._pause_s)
        self._pause_s = min(MOST_POLL_S, 1.1 * self._pause_s)
