"""A store of objects that never answers is asked again and given up, whatever limits its library has."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem

from scripts.faults.object_server import open_object
from tests import object_stores as stores
from vpdist.errors import InputError
from vpdist.sequences.remote_objects import object_state
from vpdist.storage import object_stores
from vpdist.storage.published import PublishedRun, StoreAway
from vpdist.storage.publisher import Publisher
from vpdist.urls import Url

SOON = replace(stores.SOON, silence_s=0.1, first_pause_s=0.0, longest_pause_s=0.0)
PATIENT = replace(SOON, silence_s=1.0, tries=100)
"""A slow machine is silent now and then, and asks again."""
CONTENT = bytes(range(256)) * 1000


class Silent(AsyncFileSystem):
    """A store whose library has no limits: one object, and methods that never return as often as `silent` says."""

    protocol, cachable = "gs", False
    silent: ClassVar[dict[str, int]] = {}
    """Calls of a method that are never answered, by its name."""
    asked: ClassVar[list[str]] = []
    ended: ClassVar[list[str]] = []
    """Of these, the calls that were ended from outside."""

    async def _called(self, name: str) -> None:
        self.asked.append(name)
        if self.silent.get(name, 0):
            self.silent[name] -= 1
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.ended.append(name)
                raise
            raise AssertionError(f"{name} was waited for")

    async def _info(self, path: str, **named: Any) -> dict[str, Any]:
        await self._called("info")
        return {"name": path, "size": len(CONTENT), "type": "file", "etag": "1"}

    async def _ls(self, path: str, detail: bool = True, **named: Any) -> list[str]:
        await self._called("ls")
        return []

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **named: Any) -> bytes:
        await self._called("cat_file")
        return CONTENT[start:end]

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **named: Any) -> None:
        await self._called("pipe_file")


@pytest.fixture(autouse=True)
def _silent_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_stores, "SLOWEST_BYTES_PER_S", 1 << 40)
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda scheme: Silent)
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme: Silent())
    for record in (Silent.silent, Silent.asked, Silent.ended):
        record.clear()


def test_reading_goes_on_after_a_store_was_silent() -> None:
    Silent.silent |= {"info": 1, "cat_file": 1}
    with open_object("gs://bucket/x.fa", PATIENT) as file:
        assert file.read() == CONTENT
    assert set(Silent.ended) == {"cat_file", "info"}


def test_a_store_that_is_silent_for_ever_is_given_up() -> None:
    Silent.silent["info"] = 1 << 30
    with pytest.raises(InputError, match=f"the store is silent .asked {SOON.tries} times"):
        object_state(Url("gs://bucket/x.fa"), SOON)
    assert Silent.asked == SOON.tries * ["info"]
    for method, ask in (
        ("ls", lambda run: run.units()),
        ("info", lambda run: run.part(1, "plan")),
        ("pipe_file", lambda run: run.add(1, "plan", b"part")),
    ):
        Silent.silent[method] = 1 << 30
        with pytest.raises(StoreAway, match="the store is silent"):
            ask(PublishedRun("gs://bucket/run", SOON))


def test_parts_are_published_after_a_store_was_silent() -> None:
    Silent.silent["pipe_file"] = 2
    with Publisher("gs://bucket/run", "plan", lambda unit: b"part", SOON) as publishing:
        publishing.add(0)
        until = time.monotonic() + 600
        while not publishing.idle:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert publishing.failed == {}
    assert Silent.ended[:2] == ["pipe_file", "pipe_file"]
