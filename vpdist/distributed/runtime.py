"""What a rank has in common with the others: process group and key store; and its device.

gloo is initialised first and adopted by accelerate's PartialState. That is asked about processes only: told of a GPU it
would make an NCCL group for a launch of one rank, and raise on several consumer GPUs with older drivers; vpdist needs
no NCCL. The key store holds small texts and atomic counters; nothing is pickled. Keys begin with the attempt's id,
because workers share their agent's store and would else read addresses of ended processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.distributed import HashStore, PrefixStore, Store, TCPStore

from vpdist.distributed.attempt import Attempt, agree
from vpdist.distributed.device import CPU, device_of_rank
from vpdist.distributed.signed_store import SignedStore
from vpdist.environment import LAUNCHER_ENDED, LaunchContext, described_to_accelerate, keep_connections_on_loopback
from vpdist.errors import Interrupted, PeerLost, UsageError

T = TypeVar("T")

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
CONNECT_TIMEOUT = timedelta(seconds=2)
"""Between two tries to connect to the store, this process checks whether it must end."""


PIECE = 1 << 20
"""Letters of a text in one value: torch's store closes the connection over a value of more than 8 MiB."""


class KeyStore:
    """Small texts and counters that every rank can read and set. Not thread-safe: `clone` it for another thread.

    Every method raises PeerLost if the process that hosts the store has ended, and for a forged value (SignedStore).
    """

    def __init__(
        self,
        store: Store | SignedStore,
        connect: Callable[[], Store | SignedStore],
        *,
        on_rank_0: bool = False,
        prefix: str = "",
    ) -> None:
        """`on_rank_0`: rank 0 hosts the store, no agent does; if it does not answer, that rank is the lost one.
        `prefix`: all keys begin with it."""
        self._store, self._connect, self._on_rank_0, self._prefix = store, connect, on_rank_0, prefix

    def clone(self) -> KeyStore:
        """Another connection to the same keys."""
        return KeyStore(self._call(self._connect), self._connect, on_rank_0=self._on_rank_0, prefix=self._prefix)

    def under(self, name: str) -> KeyStore:
        """The same connection for keys of their own, as a run inside of another one needs."""
        return KeyStore(self._store, self._connect, on_rank_0=self._on_rank_0, prefix=f"{self._prefix}{name}/")

    @property
    def whole(self) -> KeyStore:
        """The same connection for all keys of the launch."""
        return KeyStore(self._store, self._connect, on_rank_0=self._on_rank_0)

    def set(self, key: str, text: str) -> None:
        """Set `key` to a text, which does not begin with NUL. A long one is divided, as the store has a limit."""
        key = self._prefix + key
        if len(text) > PIECE:
            pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
            for number, piece in enumerate(pieces):
                self._call(partial(self._store.set, f"{key}/piece/{number}", piece))
            text = f"\0{len(pieces)}"
        self._call(lambda: self._store.set(key, text))

    def get(self, key: str) -> bytes | None:
        """The value of `key`, or None if it is not set. Never waits."""
        key = self._prefix + key
        value = self._call(lambda: self._store.get(key) if self._store.check([key]) else None)
        if value is None or not value.startswith(b"\0"):
            return value
        return b"".join(
            self._call(partial(self._store.get, f"{key}/piece/{number}")) for number in range(int(value[1:]))
        )

    def add(self, key: str, amount: int = 1) -> int:
        """Add to an atomic counter (0 at first) and return its new value."""
        return self._call(lambda: self._store.add(self._prefix + key, amount))

    def _call(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except dist.DistError as error:
            if self._on_rank_0:
                raise PeerLost("rank 0 was lost", (0,)) from error
            raise PeerLost(
                f"the key store does not answer (the launcher's agent, which hosts it, has ended): {error}"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A rank's launch context, device and key store."""

    context: LaunchContext
    device: torch.device
    keys: KeyStore
    attempt: int = 0
    """How often the launcher has started the ranks before; the same on every rank."""

    @property
    def rank(self) -> int:
        return self.context.rank

    @property
    def world_size(self) -> int:
        return self.context.world_size


def start(context: LaunchContext, raise_if_ending: Callable[[], None] = lambda: None) -> Runtime:
    """Join the process group, if there is one; the device is the CPU until `on_device` has chosen another.

    `raise_if_ending` is called while this process waits for the others. Raises PeerLost if the other ranks cannot be
    reached, Interrupted if the launcher ends meanwhile.
    """

    def check_launcher() -> None:
        raise_if_ending()
        if context.orphaned:
            raise Interrupted(LAUNCHER_ENDED)

    keys, attempt = _join(context, check_launcher)
    with described_to_accelerate(context):
        state = PartialState(cpu=True)
    if state.num_processes != context.world_size:
        raise UsageError(f"WORLD_SIZE is {context.world_size}, but accelerate finds {state.num_processes} processes")
    return Runtime(context=context, device=CPU, keys=keys, attempt=attempt.number)


def on_device(runtime: Runtime, device: str) -> Runtime:
    """The runtime on this rank's device for --device auto, cpu or cuda. Raises UsageError as `device_of_rank`."""
    return replace(runtime, device=device_of_rank(runtime.context, device))


def alone(context: LaunchContext, device: str = "auto") -> Runtime:
    """A runtime of world size 1, whatever the launcher has started: for what rank 0 does by itself.

    Raises UsageError as `device_of_rank`.
    """
    return Runtime(
        context=LaunchContext(launched=context.launched),
        device=device_of_rank(context, device),
        keys=_local_keys(),
        attempt=context.restart,
    )


def _local_keys() -> KeyStore:
    local = HashStore()
    return KeyStore(local, lambda: local)


def _join(context: LaunchContext, raise_if_ending: Callable[[], None]) -> tuple[KeyStore, Attempt]:
    if context.world_size == 1:
        return _local_keys(), Attempt("", context.restart)
    if context.on_loopback:
        keep_connections_on_loopback()
    try:
        shared = _connect(context, raise_if_ending, host=context.rank == 0 and not context.agent_store)
        attempt = agree(
            SignedStore(shared, context.store_secret), context, raise_if_ending, RENDEZVOUS_TIMEOUT.total_seconds()
        )
        store = PrefixStore(f"vpdist/{attempt.id}", shared)
        dist.init_process_group(
            "gloo", store=store, rank=context.rank, world_size=context.world_size, timeout=RENDEZVOUS_TIMEOUT
        )
    except (dist.DistError, RuntimeError, PeerLost, ValueError) as error:  # ValueError: signed, but not for this rank
        raise PeerLost(
            f"rank {context.rank} could not join the other {context.world_size - 1} ranks through "
            f"{context.master_address}:{context.master_port}: {error}"
        ) from error

    def signed(store: Store) -> SignedStore:
        return SignedStore(store, context.store_secret, f"vpdist/{attempt.id}")

    keys = KeyStore(
        signed(shared),
        lambda: signed(_connect(context, raise_if_ending)),
        on_rank_0=not context.agent_store,
    )
    return keys, attempt


def _connect(context: LaunchContext, raise_if_ending: Callable[[], None], *, host: bool = False) -> Store:
    """A connection to the store, which the agent or else rank 0 hosts. Raises DistError if it does not answer."""
    until = time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    while True:
        raise_if_ending()
        try:
            store = TCPStore(
                context.master_address,
                context.master_port,
                is_master=host,
                timeout=CONNECT_TIMEOUT,
                wait_for_workers=False,
                multi_tenant=True,
            )
        except dist.DistError as error:
            if host:
                raise UsageError(
                    f"rank 0 cannot listen on port {context.master_port} of {context.master_address}: is it taken by "
                    f"another program? Set MASTER_PORT to a free one on all ranks; {error}"
                ) from error
            if time.monotonic() > until:
                raise
        else:
            store.set_timeout(RENDEZVOUS_TIMEOUT)
            return store


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
