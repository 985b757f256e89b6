"""The rendezvous of the built-in launch: one agent, one key store, on loopback only.

torch's own rendezvous binds its store, which needs no password, to all interfaces.
"""

from __future__ import annotations

import socket

from torch.distributed import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)

LOOPBACK = "loopback"
"""Name of this rendezvous in torch's registry."""
ADDRESS = "127.0.0.1"
BACKLOG = 1024
"""Connections that may wait to be accepted: all ranks open a few at the same time."""


class LoopbackRendezvous(RendezvousHandler):
    """The rendezvous of one agent and its ranks. The store lives as long as this object, so across restarts."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id
        with socket.socket() as listener:
            listener.bind((ADDRESS, 0))
            listener.listen(BACKLOG)
            self._port = int(listener.getsockname()[1])
            self._store = TCPStore(
                ADDRESS,
                self._port,
                is_master=True,
                wait_for_workers=False,
                multi_tenant=True,
                master_listen_fd=listener.detach(),  # the store closes it
            )

    def get_backend(self) -> str:
        return LOOPBACK

    @property
    def use_agent_store(self) -> bool:
        """Whether ranks use this store, too."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        store = PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(ADDRESS, self._port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Nothing to do: no other agent can join."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True
