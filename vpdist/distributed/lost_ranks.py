"""Which ranks were lost, agreed among the survivors through the key store.

The first rank to notice a loss makes a roll call: a rank that does not answer is lost. All survivors adopt its result,
so that they name the same ranks. A rank that exits by itself publishes its reason, which the message then contains.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from vpdist.distributed.runtime import KeyStore
from vpdist.errors import PeerLost

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class AgreedLoss:
    """A loss that all survivors agree on."""

    ranks: tuple[int, ...]
    message: str
    orderly: bool
    """Whether all lost ranks published why they exit; then survivors have more time to report it."""


class LostRanks:
    """One rank's view. If the key store itself does not answer, methods but `publish_exit_reason` raise PeerLost."""

    def __init__(
        self, keys: KeyStore, prefix: str, rank: int, world_size: int, roll_call_s: float, stopping: Callable[[], bool]
    ) -> None:
        """Keys begin with `prefix`. Survivors have `roll_call_s` seconds to answer; waits end once `stopping()`."""
        self._alarm, self._agreed = f"{prefix}/alarm", f"{prefix}/agreed"
        self._present, self._exit_reason = f"{prefix}/present", f"{prefix}/exit_reason"
        self._keys, self._rank, self._world_size = keys, rank, world_size
        self._roll_call_s, self._stopping = roll_call_s, stopping

    def noticed(self) -> bool:
        """Whether some rank has noticed a loss."""
        return self._keys.get(self._alarm) is not None

    def report(self, reason: str) -> AgreedLoss:
        """This rank's connection broke for `reason`: find out, with the others, which ranks are lost."""
        return self._roll_call(reason) if self._keys.add(self._alarm) == 1 else self.await_agreed_loss()

    def declare_lost(self, rank: int, message: str) -> AgreedLoss:
        """Declare `rank` lost, unless another loss was declared before."""
        if self._keys.add(self._alarm) == 1:
            return self._publish(AgreedLoss((rank,), message, orderly=False))
        return self.await_agreed_loss()

    def await_agreed_loss(self) -> AgreedLoss:
        """Answer the roll call and wait for its result."""
        self._keys.set(f"{self._present}/{self._rank}", "1")
        until = time.monotonic() + 2 * self._roll_call_s
        while time.monotonic() < until and not self._stopping():
            if (agreed := self._keys.get(self._agreed)) is not None:
                fields = json.loads(agreed)
                return AgreedLoss(tuple(fields["ranks"]), fields["message"], fields["orderly"])
            time.sleep(POLL_S)
        return AgreedLoss((), "a rank was lost", orderly=False)

    def publish_exit_reason(self, message: str) -> None:
        """Publish why this rank exits before it is done."""
        with contextlib.suppress(PeerLost):  # the process that hosts the store has ended: no rank is left to read it
            self._keys.set(f"{self._exit_reason}/{self._rank}", message)

    def _roll_call(self, reason: str) -> AgreedLoss:
        missing = set(range(self._world_size)) - {self._rank}
        until = time.monotonic() + self._roll_call_s
        while missing and time.monotonic() < until and not self._stopping():
            missing -= {rank for rank in missing if self._keys.get(f"{self._present}/{rank}") is not None}
            time.sleep(POLL_S)
        ranks = tuple(sorted(missing))
        reasons = {rank: text for rank in ranks if (text := self._keys.get(f"{self._exit_reason}/{rank}")) is not None}
        if reasons:
            message = "; ".join(f"rank {rank} stopped: {text.decode()}" for rank, text in reasons.items())
        elif ranks:
            message = (
                f"rank{'s' * (len(ranks) > 1)} {' and '.join(map(str, ranks))} {'were' if ranks[1:] else 'was'} lost"
            )
        else:
            message = f"a connection between ranks broke: {reason}"
        return self._publish(AgreedLoss(ranks, message, orderly=len(reasons) == len(ranks) > 0))

    def _publish(self, loss: AgreedLoss) -> AgreedLoss:
        self._keys.set(self._agreed, json.dumps(asdict(loss)))
        return loss
