"""Connections have keep-alive set, so that a machine that does not respond is noticed."""

import os
import socket

from vpdist.distributed.tcp_keepalive import PROBE_S, PROBES, notice_silent_machines


def test_every_connection_has_keep_alive_and_nothing_else_is_touched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        unix, other = socket.socketpair()
        with peer, unix, other:
            before = sorted(os.listdir("/proc/self/fd"))
            assert notice_silent_machines() >= 2
            assert sorted(os.listdir("/proc/self/fd")) == before
            for connection in (client, peer):
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PROBE_S
                patience_ms = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                assert patience_ms == 1000 * PROBE_S * (PROBES + 1)
            assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
            client.sendall(b"still open")
            assert peer.recv(100) == b"still open"
