"""One request for an object's state or for a range of its bytes, over HTTP, to S3, or to any store that fsspec knows.

Enters: an address. Leaves: the object's size and version, or pieces of the bytes asked for, of that version only. A
request may bring less than was asked for, by raising TryAgain or by ending early; whoever asks goes on from there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from vpdist.storage.downloads import TRANSIENT, first_line
from vpdist.storage.object_stores import Absent, Refused, Retries, TryAgain, answer, filesystem, translated_errors
from vpdist.urls import Url

PIECE_BYTES = 1 << 18
RANGE_BYTES = 1 << 23
"""Of a request to a store that answers with whole ranges."""
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})")
VERSION_FIELDS = ("ETag", "etag", "generation", "VersionId", "md5Hash", "LastModified", "mtime", "created")
"""In what fsspec tells of an object, the first of which is its version."""


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What a store tells of an object at one moment."""

    size: int
    """Bytes."""
    version: str
    """Its ETag where the store gives one, else another mark of its content or time; empty where nothing is told."""


class Changed(Exception):  # noqa: N818 - what the object did
    """The object has another version than the one that was asked for."""


class Transport(Protocol):
    """How one object is reached."""

    def state(self) -> ObjectState:
        """Raises TryAgain, Refused."""

    def pieces(self, start: int, end: int, state: ObjectState) -> Iterator[bytes]:
        """Bytes `start` to `end` of this version, in pieces. Raises TryAgain, Refused, Changed."""


def transport_of(url: Url, retries: Retries) -> Transport:
    """Raises UsageError where a library is missing or the scheme is unknown, Refused for a text that is no address."""
    if url.scheme in ("http", "https"):
        return HttpTransport(url, retries.silence_s)
    made, path = filesystem(url, retries)
    return S3Transport(made, path) if url.scheme == "s3" else StoreTransport(made, path, retries.silence_s)


class HttpTransport:
    """An object of a web server, which must answer requests for ranges."""

    def __init__(self, url: Url, silence_s: float) -> None:
        try:
            parts = urlsplit(url.whole)
            named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            named = False
        if not named:
            raise Refused("is not a valid address")
        self._url, self._silence_s = url.whole, silence_s

    def state(self) -> ObjectState:
        with self._answer({"Range": "bytes=0-0"}) as answer:
            return self._state(answer)

    def pieces(self, start: int, end: int, state: ObjectState) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if state.version.startswith('"'):  # a weak ETag never matches, nor does a time
            headers["If-Match"] = state.version
        with self._answer(headers) as answer:
            if answer.status_code == 412 or self._state(answer) != state:
                raise Changed
            _check_start(answer.headers.get("Content-Range", ""), start)
            for piece in answer.iter_raw():
                if len(piece) > end - start:
                    raise Refused("the host sends more than it was asked for")
                start += len(piece)
                yield piece

    def _state(self, answer: Any) -> ObjectState:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None:
            raise Refused(
                "the host does not answer requests for a range of bytes, or does not tell the size; download the file"
            )
        _refuse_compressed(answer.headers, found)
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        return ObjectState(int(found[3]), str(version))

    @contextmanager
    def _answer(self, headers: dict[str, str]) -> Iterator[Any]:
        """The answer to a request: 206, 412, or 416 of an object without bytes. Raises TryAgain, Refused."""
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import get_session

        transport_error = HfHubHTTPError.__bases__[0]  # of the HTTP library that huggingface_hub uses
        invalid_address = sys.modules[transport_error.__module__.partition(".")[0]].InvalidURL
        headers = {"Accept-Encoding": "identity", **headers}
        try:
            with get_session().stream(
                "GET", self._url, headers=headers, timeout=self._silence_s, follow_redirects=True
            ) as answer:
                if self._url[:6].lower() == "https:" and any(
                    each.url.scheme != "https" for each in (*answer.history, answer)
                ):
                    raise Refused("the host redirects from https to http")
                status = answer.status_code
                if status in (404, 410):
                    raise Absent(f"there is no such object (the host answers {status})")
                if status in TRANSIENT:
                    raise TryAgain(f"the host answers {status}")
                if status not in (200, 206, 412, 416):
                    raise Refused(f"the host answers {status}")
                yield answer
        except transport_error as error:
            raise TryAgain(first_line(error)) from error
        except (UnicodeError, invalid_address) as error:
            raise Refused(f"is not a valid address: {first_line(error)}") from error
        except ConnectionError as error:  # huggingface_hub's, where HF_HUB_OFFLINE is set
            raise Refused(first_line(error)) from error


def _refuse_compressed(headers: Mapping[str, str], content_range: re.Match[str]) -> None:
    """Raises Refused where a host compresses the range itself: its bytes would be counted as those of the object. One
    that stores the object compressed, and says so, sends as many bytes as the range has."""
    if headers.get("Content-Encoding", "identity").lower() == "identity" or content_range[1] is None:
        return
    if headers.get("Content-Length") != str(int(content_range[2]) - int(content_range[1]) + 1):
        raise Refused("the host compresses what it sends, though it was asked not to; download the file")


def _check_start(content_range: str, start: int) -> None:
    """Raises Refused unless an answer begins at the byte that was asked for."""
    found = _CONTENT_RANGE.fullmatch(content_range)
    if found is None or found[1] is None or int(found[1]) != start:
        raise Refused("the host answers with another range than the one asked for")


class S3Transport:
    """An object of S3, or of a store that speaks its language."""

    def __init__(self, store: Any, path: str) -> None:
        self._store = store
        self._bucket, self._key, _ = store.split_path(path)

    def state(self) -> ObjectState:
        with translated_errors():
            answer = self._store.call_s3("head_object", Bucket=self._bucket, Key=self._key)
            return ObjectState(int(answer["ContentLength"]), str(answer.get("ETag", "")))

    def pieces(self, start: int, end: int, state: ObjectState) -> Iterator[bytes]:
        from fsspec.asyn import sync

        with translated_errors():
            asked = {"Range": f"bytes={start}-{end - 1}"} | ({"IfMatch": state.version} if state.version else {})
            try:
                answer = self._store.call_s3("get_object", Bucket=self._bucket, Key=self._key, **asked)
            except OSError as error:
                told_by_s3 = getattr(error.__cause__, "response", {})
                if told_by_s3.get("ResponseMetadata", {}).get("HTTPStatusCode") in (412, 416):
                    raise Changed from error
                raise
            body = answer["Body"]
            try:
                if str(answer.get("ETag", "")) != state.version:
                    raise Changed
                _check_start(str(answer.get("ContentRange", "")), start)
                while start < end and (piece := sync(self._store.loop, body.read, min(PIECE_BYTES, end - start))):
                    start += len(piece)
                    yield piece
            finally:
                self._store.loop.call_soon_threadsafe(body.close)


class StoreTransport:
    """An object of any other store that fsspec knows. After each range the store is asked whether it is still the same
    object: then the range is of it, too."""

    def __init__(self, store: Any, path: str, silence_s: float) -> None:
        self._store, self._path, self._silence_s = store, path, silence_s

    def state(self) -> ObjectState:
        with translated_errors():
            self._store.invalidate_cache()
            found = answer(self._store, "info", self._path, silence_s=self._silence_s)
            if found.get("type") == "directory" or found.get("size") is None:
                raise Absent("is a folder, not an object")
            version = next((found[name] for name in VERSION_FIELDS if found.get(name)), "")
            return ObjectState(int(found["size"]), str(version))

    def pieces(self, start: int, end: int, state: ObjectState) -> Iterator[bytes]:
        while start < end:
            until = min(start + RANGE_BYTES, end)
            with translated_errors():
                content = answer(
                    *(self._store, "cat_file", self._path),
                    start=start,
                    end=until,
                    silence_s=self._silence_s,
                    n_bytes=until - start,
                )
            if self.state() != state:
                raise Changed
            if len(content) != until - start:
                raise TryAgain("the store sends less than was asked for")
            for first in range(0, len(content), PIECE_BYTES):
                yield content[first : first + PIECE_BYTES]
            start = until
