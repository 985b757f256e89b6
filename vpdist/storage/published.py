"""A run's parts in a store of objects: each is written, then a marker with its digest.

Enters: the address of a folder of a store. Leaves: what is published there: finished parts, and the run's record, by
which another machine takes up the same configuration. A part without a marker, or of another digest, is none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from vpdist.errors import StorageError
from vpdist.storage.atomic_files import JSON_LIMIT, RECORD_LIMIT
from vpdist.storage.object_stores import (
    Absent,
    Refused,
    Retries,
    TryAgain,
    answer,
    beside,
    filesystem,
    translated_errors,
    tried,
)
from vpdist.urls import LOCAL, Url

RECORD = "run.json"
MARKER = re.compile(r"unit-([0-9]{6,})\.h5\.done")
LARGEST_PART = 1 << 32
LARGEST_LIST = 1 << 25
"""Bytes of the store's answers that name all parts: they come a thousand names at a time, in one call."""
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Marker:
    """What is told of a published part."""

    plan: str
    """Identity of the plan that it is a part of."""
    size: int
    """Bytes."""
    digest: str
    """SHA-256 of its bytes, in hexadecimal digits."""

    @classmethod
    def of(cls, plan: str, content: bytes) -> Marker:
        return cls(plan, len(content), hashlib.sha256(content).hexdigest())

    def to_json(self) -> bytes:
        return json.dumps({"plan": self.plan, "size": self.size, "digest": self.digest}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Marker:
        """Raises ValueError for another content."""
        fields = json.loads(text)
        try:
            marker = cls(str(fields["plan"]), int(fields["size"]), str(fields["digest"]))
        except (KeyError, TypeError) as error:
            raise ValueError("is no marker") from error
        if not 0 < marker.size <= LARGEST_PART:
            raise ValueError(f"tells a size of {marker.size}")
        return marker


class StoreAway(StorageError):  # noqa: N818 - what the store is
    """A store does not answer, or cannot do what it is asked for now: another try may change that."""


class PublishedRun:
    """What is published at an address, and what is added to it. Its methods raise StoreAway where a store is given up,
    StorageError where it refuses, naming the object; UsageError where a library is missing."""

    def __init__(self, address: str, retries: Retries) -> None:
        self.url, self._retries = Url(address.rstrip("/")), retries
        self._store, self._folder = beside(lambda patient: filesystem(self.url, patient), retries)  # asks who it is

    def units(self) -> set[int]:
        """The units of which there is a marker."""

        def listed() -> list[str]:
            self._store.invalidate_cache()
            return list(self._answer("ls", f"{self._folder}/parts", detail=False, n_bytes=LARGEST_LIST))

        try:
            names = self._tried("parts", listed)
        except Absent:
            return set()
        found = (MARKER.fullmatch(name.rpartition("/")[2]) for name in names)
        return {int(marker[1]) for marker in found if marker is not None}

    def part(self, unit: int, plan: str) -> bytes | None:
        """A part, None where it is of another plan, or has not the digest of its marker."""
        try:
            text = self._read(f"{_name(unit)}.done", JSON_LIMIT)
            marker = Marker.from_json(text)
            content = self._read(_name(unit), marker.size + 1)
        except (Absent, ValueError):
            return None
        return content if marker == Marker.of(plan, content) else None

    def add(self, unit: int, plan: str, content: bytes) -> None:
        """Publish a part: the object, then its marker."""
        self._write(_name(unit), content)
        self._write(f"{_name(unit)}.done", Marker.of(plan, content).to_json())

    def record(self) -> dict[str, Any] | None:
        """What `write_record` has written, None where there is nothing."""
        try:
            fields = json.loads(self._read(RECORD, RECORD_LIMIT))
        except Absent:
            return None
        except ValueError as error:
            raise StorageError(f"{self.url}/{RECORD}: is not valid JSON: {error}") from error
        if not isinstance(fields, dict):
            raise StorageError(f"{self.url}/{RECORD}: does not hold a JSON object")
        return fields

    def write_record(self, fields: dict[str, Any]) -> None:
        self._write(RECORD, (json.dumps(fields, indent=2) + "\n").encode())

    def _read(self, name: str, most: int) -> bytes:
        """At most so many bytes of an object. Raises Absent, StorageError."""

        def read() -> bytes:
            self._store.invalidate_cache()  # which would tell the size of another object
            path = f"{self._folder}/{name}"
            n_bytes = min(int(self._answer("info", path)["size"]), most)
            return bytes(self._answer("cat_file", path, start=0, end=n_bytes, n_bytes=n_bytes)) if n_bytes else b""

        return self._tried(name, read)

    def _write(self, name: str, content: bytes) -> None:
        path = f"{self._folder}/{name}"

        def write() -> None:
            if self.url.scheme in LOCAL:  # where folders must be made
                self._store.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._answer("pipe_file", path, content, n_bytes=len(content))

        try:
            self._tried(name, write)
        except Absent as error:
            raise StorageError(f"{self.url}/{name}: cannot be written: {error}") from error

    def _answer(self, method: str, path: str, *arguments: Any, **named: Any) -> Any:
        return answer(self._store, method, path, *arguments, silence_s=self._retries.silence_s, **named)

    def _tried(self, name: str, what: Callable[[], Made]) -> Made:
        def translated() -> Made:
            with translated_errors():
                return what()

        try:
            return beside(lambda patient: tried(translated, patient), self._retries)
        except Absent:
            raise
        except Refused as error:
            raise StorageError(f"{self.url}/{name}: {error}") from error
        except TryAgain as error:
            raise StoreAway(f"{self.url}/{name}: {error}") from error


def _name(unit: int) -> str:
    return f"parts/unit-{unit:06d}.h5"
