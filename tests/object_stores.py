"""Stores of objects for tests: a faulty one, and moto's S3; no real network, no pauses."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.faults.object_server import ObjectServer
from vpdist.storage.object_stores import Retries

SOON = Retries(tries=4, first_pause_s=1.0, longest_pause_s=3.0, silence_s=600.0, sleep=lambda pause_s: None)
"""No pauses; and a slow machine is not silent."""
SECRET = "5ec4e7"


_endpoint_in_use = ""


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let S3 be at `endpoint`, in this process and in those that it starts."""
    global _endpoint_in_use
    values = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET}
    for name, value in {**values, "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    if endpoint != _endpoint_in_use:  # a client takes half a second to make
        from s3fs import S3FileSystem

        S3FileSystem.clear_instance_cache()
        _endpoint_in_use = endpoint


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """A faulty store."""
    pytest.importorskip("s3fs")
    with ObjectServer() as server:
        yield server


@pytest.fixture
def objects(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """The faulty store, empty and without faults; S3 is there, too."""
    use_endpoint(monkeypatch, object_server.endpoint)
    yield object_server
    object_server.clear()


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """Where moto's server is."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """moto's S3 with an empty bucket `bucket`; its endpoint."""
    use_endpoint(monkeypatch, moto_endpoint)
    import fsspec

    urllib.request.urlopen(urllib.request.Request(f"{moto_endpoint}/moto-api/reset", method="POST")).close()
    fsspec.filesystem("s3").mkdir("bucket")
    return moto_endpoint


def put(url: str, content: bytes | Path) -> None:
    """Write an object through fsspec."""
    import fsspec

    with fsspec.open(url, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.read_bytes())
