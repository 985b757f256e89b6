"""TCP keep-alive: connections to a machine that does not respond are closed.

A node that loses power or network closes no connection: by default the kernel waits 15 minutes if something was sent,
and for ever if nothing was. gloo and the key store have no option for it, so it is set on the sockets of this process;
a silent node is then noticed after about 20 s. The kernel of a machine whose process is only stopped does respond.
"""

from __future__ import annotations

import socket
from pathlib import Path

PROBE_S, PROBES = 5, 3
"""A connection is probed after so many seconds without traffic, and closed after so many probes without an answer."""


def notice_silent_machines() -> int:
    """Set keep-alive on every TCP connection of this process; returns the number of connections."""
    return sum(_keep_alive(int(entry.name)) for entry in Path("/proc/self/fd").iterdir())


def _keep_alive(descriptor: int) -> bool:
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:  # not a socket, or closed meanwhile
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
    except OSError:  # it listens, or has lost its connection
        return False
    finally:
        connection.detach()  # gloo or the store closes it
    return True
