"""A key store whose values only those can set who know the launch's secret.

torch's store asks for no password: other users of the machine, under torchrun all who reach the node, can set keys. The
built-in launch gives its ranks a secret, a user may give one to all nodes (docs/multi-node.md); then a value carries an
HMAC-SHA256 (RFC 2104) of its key and its bytes, and one without it ends the run. Counters carry none: they are added to
in the store itself. Without a secret values are as they are.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from torch.distributed import PrefixStore, Store

from vpdist.environment import STORE_SECRET
from vpdist.errors import PeerLost

SIGNATURE_BYTES = hashlib.sha256().digest_size


class SignedStore:
    """Texts and counters under a prefix of torch's store. Methods raise DistError as the store's own do."""

    def __init__(self, store: Store, secret: str = "", prefix: str = "") -> None:
        self._store, self._secret, self._prefix = PrefixStore(prefix, store) if prefix else store, secret, prefix

    def set(self, key: str, text: str) -> None:
        """Set `key`, signed."""
        self._store.set(key, self._signature(key, text.encode()) + text.encode())  # type: ignore[arg-type]

    def get(self, key: str) -> bytes:
        """The value of `key`, waited for. Raises PeerLost where the secret has not signed it."""
        return self._checked(key, self._store.get(key))

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """The values of several keys; as `get`."""
        return [self._checked(key, value) for key, value in zip(keys, self._store.multi_get(list(keys)), strict=True)]

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys are set."""
        return bool(self._store.check(list(keys)))

    def add(self, key: str, amount: int) -> int:
        """Add to an atomic counter (0 at first) and return its new value."""
        return int(self._store.add(key, amount))

    def _signature(self, key: str, value: bytes) -> bytes:
        if not self._secret:
            return b""
        return hmac.digest(self._secret.encode(), f"{self._prefix}/{key}\0".encode() + value, "sha256")

    def _checked(self, key: str, signed: bytes) -> bytes:
        length = SIGNATURE_BYTES if self._secret else 0
        signature, value = signed[:length], signed[length:]
        if not hmac.compare_digest(signature, self._signature(key, value)):
            raise PeerLost(
                f"the ranks' key store holds a value of {key!r} that another program has set, or a rank with another "
                f"{STORE_SECRET} in its environment"
            )
        return value
