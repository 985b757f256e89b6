"""Which ranks were lost, agreed among the survivors through the key store.

The first rank to notice calls the roll: a rank that does not answer is lost. All survivors take over what it found, so
that they name the same ranks. A rank that exits in order publishes its reason, and is named with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from vpdist.distributed.runtime import KeyStore
from vpdist.errors import PeerLost

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class AgreedLoss:
    """What the survivors know of a loss."""

    ranks: tuple[int, ...]
    message: str
    orderly: bool
    """Whether all lost ranks published why they exit; then there is time to report it in full."""


class LostRanks:
    """One rank's view. Every method but the constructor raises PeerLost where the store itself is gone."""

    def __init__(
        self, keys: KeyStore, prefix: str, rank: int, world_size: int, roll_call_s: float, stopping: Callable[[], bool]
    ) -> None:
        """Keys lie under `prefix`. Survivors have `roll_call_s` seconds to answer; once `stopping()`, none wait."""
        self._alarm, self._agreed = f"{prefix}/alarm", f"{prefix}/agreed"
        self._here, self._exit_reason = f"{prefix}/here", f"{prefix}/exit_reason"
        self._keys, self._rank, self._world_size = keys, rank, world_size
        self._roll_call_s, self._stopping = roll_call_s, stopping

    def noticed(self) -> bool:
        """Whether some rank has noticed a loss."""
        return self._keys.get(self._alarm) is not None

    def report(self, reason: str) -> AgreedLoss:
        """This rank's connection broke for `reason`: find out, with the others, who is lost."""
        return self._call_roll(reason) if self._keys.add(self._alarm) == 1 else self.await_agreed_loss()

    def declare_lost(self, rank: int, message: str) -> AgreedLoss:
        """Declare `rank` lost, unless another loss was declared before."""
        if self._keys.add(self._alarm) == 1:
            return self._publish(AgreedLoss((rank,), message, orderly=False))
        return self.await_agreed_loss()

    def await_agreed_loss(self) -> AgreedLoss:
        """Answer the roll call, and learn who did not."""
        self._keys.set(f"{self._here}/{self._rank}", "1")
        until = time.monotonic() + 2 * self._roll_call_s
        while time.monotonic() < until and not self._stopping():
            if (agreed := self._keys.get(self._agreed)) is not None:
                fields = json.loads(agreed)
                return AgreedLoss(tuple(fields["ranks"]), fields["message"], fields["orderly"])
            time.sleep(POLL_S)
        return AgreedLoss((), "a rank was lost", orderly=False)

    def publish_exit_reason(self, message: str) -> None:
        """Tell the others why this rank exits before it is done."""
        try:
            self._keys.set(f"{self._exit_reason}/{self._rank}", message)
        except PeerLost:
            return  # the store is gone with its host: nobody is left to be told

    def _call_roll(self, reason: str) -> AgreedLoss:
        missing = set(range(self._world_size)) - {self._rank}
        until = time.monotonic() + self._roll_call_s
        while missing and time.monotonic() < until and not self._stopping():
            missing -= {rank for rank in missing if self._keys.get(f"{self._here}/{rank}") is not None}
            time.sleep(POLL_S)
        ranks = tuple(sorted(missing))
        reasons = {rank: text for rank in ranks if (text := self._keys.get(f"{self._exit_reason}/{rank}")) is not None}
        if reasons:
            message = "; ".join(f"rank {rank} stopped: {text.decode()}" for rank, text in reasons.items())
        elif ranks:
            message = f"{'rank' if len(ranks) == 1 else 'ranks'} {' and '.join(map(str, ranks))} lost"
        else:
            message = f"a connection between ranks broke: {reason}"
        return self._publish(AgreedLoss(ranks, message, orderly=len(reasons) == len(ranks) > 0))

    def _publish(self, loss: AgreedLoss) -> AgreedLoss:
        self._keys.set(self._agreed, json.dumps(asdict(loss)))
        return loss
