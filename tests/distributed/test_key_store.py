"""Texts of any length in the key store."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
from torch.distributed import HashStore, PrefixStore, Store, TCPStore

from vpdist.distributed.runtime import PIECE, KeyStore


def tcp_store() -> Store:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return TCPStore("127.0.0.1", port, is_master=True, timeout=timedelta(seconds=30), wait_for_workers=False)


@pytest.mark.parametrize("make", [HashStore, tcp_store], ids=["alone", "with others"])
@pytest.mark.parametrize("length", [0, 1, PIECE, PIECE + 1, 12 << 20])
def test_a_text_of_any_length_comes_back(make, length: int) -> None:
    store = PrefixStore("attempt", make())
    keys = KeyStore(store, lambda: store)
    text = "\u00e9abc"[: length % 4] + "x" * (length - length % 4)
    assert keys.get("key") is None
    keys.set("key", text)
    assert keys.get("key") == text.encode()
    keys.set("key", "short again")
    assert keys.get("key") == b"short again"
    assert keys.add("counter") == 1
