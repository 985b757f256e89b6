"""Two nodes on one machine: two agents that meet by c10d, each in a network of its own where that is allowed.

Needs the right to make network namespaces (root); elsewhere both agents use the loopback.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from launches import TORCHRUN

FIRST, SECOND = "10.213.77.1", "10.213.77.2"


@dataclass(frozen=True, slots=True)
class Nodes:
    """How to start each node's agent."""

    prefixes: tuple[tuple[str, ...], tuple[str, ...]]
    """What precedes the command."""
    addresses: tuple[str, str]
    port: int
    namespaces: bool

    def launcher(self, node: int, *options: str, host: int = 0) -> tuple[str, ...]:
        """The agent of a node; the rendezvous lives on node `host`."""
        return (
            *self.prefixes[node],
            *(*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=two"),
            *(f"--rdzv-endpoint={self.addresses[host]}:{self.port}", f"--local-addr={self.addresses[node]}", *options),
        )

    def environment(self, node: int) -> dict[str, str]:
        """gloo takes the address of the host's name unless told; in a namespace that one leads nowhere."""
        return {"GLOO_SOCKET_IFNAME": f"vpdist{node}"} if self.namespaces else {}


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    """Two namespaces joined by a cable, removed at the end; or the loopback."""
    names = (f"vpdist-{free_port()}-0", f"vpdist-{free_port()}-1")
    try:
        _ip(f"netns add {names[0]}")
    except (OSError, subprocess.CalledProcessError):
        yield Nodes(((), ()), ("127.0.0.1", "127.0.0.1"), free_port(), namespaces=False)
        return
    try:
        _ip(f"netns add {names[1]}")
        _ip(f"link add vpdist0 netns {names[0]} type veth peer name vpdist1 netns {names[1]}")
        for node, (name, address) in enumerate(zip(names, (FIRST, SECOND), strict=True)):
            _ip(f"-n {name} addr add {address}/24 dev vpdist{node}")
            for device in ("lo", f"vpdist{node}"):
                _ip(f"-n {name} link set {device} up")
        prefixes = tuple(("ip", "netns", "exec", name) for name in names)
        yield Nodes((prefixes[0], prefixes[1]), (FIRST, SECOND), 29500, namespaces=True)
    finally:
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):  # the second may not exist
                _ip(f"netns del {name}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    with nodes() as two:
        sys.stdout.write(f"{two}\n")
