"""Texts of any length in the key store; what is said when its host has ended."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest
from torch.distributed import HashStore, PrefixStore, Store, TCPStore

from tests.launched import PATIENCE_S
from vpdist.distributed.runtime import PIECE, KeyStore
from vpdist.errors import PeerLost
from vpdist.session.coordination import publish_first_failure, published_failure

HOST = """
import sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""


def tcp_store() -> Store:
    return TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=PATIENCE_S), wait_for_workers=False)


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


@pytest.mark.parametrize(("on_rank_0", "lost"), [(True, (0,)), (False, ())], ids=["rank 0", "the agent"])
def test_a_host_that_has_ended_is_named_so_that_one_rank_reports_it(on_rank_0: bool, lost: tuple[int, ...]) -> None:
    with subprocess.Popen([sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        store = TCPStore("127.0.0.1", int(host.stdout.readline()), is_master=False)
        keys = KeyStore(store, lambda: store, on_rank_0=on_rank_0).clone()
        assert keys.add("counter") == 1
        host.kill()
        host.wait()
        with pytest.raises(PeerLost) as raised:
            keys.add("counter")
    assert raised.value.ranks == lost
    assert ("rank 0 was lost" in str(raised.value)) == on_rank_0


def test_keys_of_a_run_inside_of_another_are_apart_and_a_failure_is_seen_by_both() -> None:
    store = HashStore()
    outer = KeyStore(store, lambda: store)
    inner = outer.under("inside")
    outer.set("tables", "outer")
    assert inner.get("tables") is None
    inner.set("tables", "inner")
    inner.set("long", "x" * (PIECE + 1))
    assert (outer.get("tables"), inner.get("tables")) == (b"outer", b"inner")
    assert inner.clone().get("long") == b"x" * (PIECE + 1)
    assert (outer.add("barrier"), inner.add("barrier"), inner.under("more").add("barrier")) == (1, 1, 1)
    publish_first_failure(inner, 3, 6, "the disk is full")
    for keys in (outer, inner, inner.under("more")):
        failure = published_failure(keys)
        assert failure is not None
        assert (failure.rank, failure.exit_code) == (3, 6)
