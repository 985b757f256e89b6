"""Connections to other machines that end when the machine at the other end falls silent.

A node that loses power or its cable closes no connection: by default the kernel waits for it for a quarter of an hour
when something was sent, and for ever when nothing was. gloo and the store offer no such option, so it is set on
the sockets that this process has. A process that is merely stopped is no silent machine: its kernel answers for it.
"""

from __future__ import annotations

import socket
from pathlib import Path

PROBE_S, PROBES = 5, 3
"""A connection is probed after so many seconds of silence, and ends after so many probes without an answer."""


def notice_silent_machines() -> int:
    """Set this on every TCP connection of this process; returns how many there are. Only on Linux; elsewhere 0."""
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return 0
    return sum(_watch(int(entry.name)) for entry in Path("/proc/self/fd").iterdir())


def _watch(descriptor: int) -> bool:
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:  # no socket, or closed by now
        return False
    try:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return False
        connection.getpeername()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, PROBE_S),
            (socket.TCP_KEEPINTVL, PROBE_S),
            (socket.TCP_KEEPCNT, PROBES),
            (socket.TCP_USER_TIMEOUT, 1000 * PROBE_S * (PROBES + 1)),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:  # it listens, or has lost its peer
        return False
    finally:
        connection.detach()  # it belongs to someone else
    return True
