"""The rendezvous of the built-in launch: one agent, one key store, on loopback only.

torch's own rendezvous binds its store to all interfaces, and the store asks nobody for a password.
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
"""Name of this kind of rendezvous in torch's registry, and no address."""
ADDRESS = "127.0.0.1"
BACKLOG = 1024
"""Connections that may wait: each rank opens a few, all at once."""


class LoopbackRendezvous(RendezvousHandler):
    """Where one agent and its ranks meet. The store lives as long as this object, so across restarts of the ranks."""

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
        """Ranks use this store, too."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        store = PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(ADDRESS, self._port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Nobody else could join."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True
