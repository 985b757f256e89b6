"""Objects at an address as streams of bytes: read ahead within a bound, tried again, resumed where it broke.

Enters: an address. Leaves: a stream that can be sought in, or the object's identity. Promises: memory for
READ_AHEAD_PIECES pieces and nothing on disk; all bytes are of one version of the object, or InputError is raised; a
body that ends early is asked for again from there.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue
from typing import Any

import xxhash

from vpdist.errors import InputError
from vpdist.sequences.object_transports import Changed, ObjectState, Transport, transport_of
from vpdist.storage.object_stores import RETRIES, Refused, Retries, TryAgain, beside, tried
from vpdist.urls import Url

logger = logging.getLogger(__name__)

READ_AHEAD_PIECES = 32
"""Of a quarter of a MiB."""
FIRST_BYTES = 1 << 17
"""What is asked for first after the object is opened or sought in: often no more is needed."""
BUFFER_BYTES = 1 << 17
POLL_S = 0.2
SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ObjectIdentity:
    """What an object is known by."""

    url: str
    """Without secrets."""
    size: int
    """Bytes."""
    version: str
    """Its ETag, or what the store has in its place."""
    samples: str
    """Digest of its size and of the bytes at its beginning, middle and end."""

    @property
    def state(self) -> ObjectState:
        return ObjectState(self.size, self.version)


def object_state(url: str | Url, retries: Retries = RETRIES) -> ObjectState:
    """Size and version of an object: one request. Raises InputError, UsageError where a library is missing."""
    return beside(lambda patient: _Source(url, patient).state, retries)


def object_identity(url: str | Url, retries: Retries = RETRIES) -> ObjectIdentity:
    """Size, version and a digest of samples of an object: up to four requests. Raises InputError, UsageError."""
    return beside(lambda patient: _identity(_Source(url, patient)), retries)


def _identity(source: _Source) -> ObjectIdentity:
    size, digest = source.state.size, xxhash.xxh3_128(str(source.state.size).encode())
    if size <= 3 * SAMPLE_BYTES:
        starts = {0: size}
    else:
        starts = {start: start + SAMPLE_BYTES for start in (0, size // 2, size - SAMPLE_BYTES)}
    for start, end in starts.items():
        for piece in source.resumed(start, end, lambda: False):
            digest.update(piece)
    return ObjectIdentity(str(source.url), size, source.state.version, digest.hexdigest())


class _Source:
    """An object, as it was when this was made."""

    def __init__(self, url: str | Url, retries: Retries) -> None:
        self.url = url if isinstance(url, Url) else Url(url)
        self._retries = retries
        try:
            self._transport: Transport = transport_of(self.url, retries)
            self.state = tried(self._transport.state, retries)
        except TryAgain as error:
            raise self._error(f"cannot be read: {error} (asked {retries.tries} times)") from error
        except Refused as error:
            raise self._error(f"cannot be read: {error}") from error

    def _error(self, reason: str, position: int | None = None) -> InputError:
        return InputError(reason, path=str(self.url), position=None if position is None else f"byte {position + 1:,}")

    def resumed(self, start: int, end: int, stopped: Callable[[], bool]) -> Iterator[bytes]:
        """Bytes `start` to `end`, whatever breaks on the way, unless `stopped()`. Once some have come the store has
        more tries. Raises InputError."""
        retries = self._retries
        pauses = retries.pauses()
        while start < end and not stopped():
            before = start
            try:
                for piece in self._transport.pieces(start, end, self.state):
                    start += len(piece)
                    yield piece
                reason = "the body ends too early"
            except TryAgain as error:
                reason = str(error)
            except Refused as error:
                raise self._error(f"cannot be read on: {error}", start) from error
            except Changed as error:
                raise self._changed(start) from error
            if start >= end:
                return
            if start > before:
                retries = self._retries.patient()
                pauses = retries.pauses()
            pause_s = next(pauses, None)
            if pause_s is None:
                raise self._error(f"cannot be read on: {reason} (asked {retries.tries} times)", start)
            logger.info("%s, byte %d: %s; trying again in %.0f s", self.url, start + 1, reason, pause_s)
            self._retries.sleep(pause_s)

    def _changed(self, position: int) -> InputError:
        """What to raise where the object is another one by now."""
        try:
            now = tried(self._transport.state, self._retries)
            what = version_change(self.state, now)
        except (TryAgain, Refused) as error:
            what = f"it was ETag {self.state.version}; now: {error}"
        return self._error(f"has changed while it was read: {what}; nothing of it is used", position)


def version_change(before: ObjectState, now: ObjectState) -> str:
    """What to tell of two versions of an object."""
    return (
        f"ETag {before.version or 'unknown'} was {before.size:,} bytes, ETag {now.version or 'unknown'} is {now.size:,}"
    )


class ObjectReader(io.RawIOBase):
    """An object as a file, which can be sought in. A thread reads ahead, so that whoever reads can be told to end while
    a host is silent.

    Raises InputError when it is read: no such object, access refused, a host that is given up, an object that has
    changed; UsageError where a library is missing.
    """

    def __init__(self, url: str | Url, retries: Retries) -> None:
        self._url, self._retries, self._position = url, retries, 0
        self._opened: _Source | None = None
        self._stop: threading.Event | None = None
        self._pieces: Queue[bytes | Exception] = Queue(1)
        self._rest = memoryview(b"")
        self._asked_until = 0
        self.waiting: Callable[[], None] = retries.waiting or (lambda: None)
        """Called while no bytes come; may raise."""

    @property
    def _source(self) -> _Source:
        if self._opened is None:
            patient = replace(self._retries, waiting=self.waiting)
            self._opened = beside(lambda retries: _Source(self._url, retries), patient)
        return self._opened

    @property
    def state(self) -> ObjectState:
        """Size and version of what is read. Asks for them the first time, and raises InputError, UsageError."""
        return self._source.state

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.state.size}[whence]
        if base + offset != self._position:
            self._end_request()
            self._position = base + offset
        return self._position

    def close(self) -> None:
        self._end_request()
        super().close()

    def readinto(self, buffer: Any) -> int:
        if self._position >= self.state.size:
            return 0
        while not self._rest:
            self._rest = memoryview(self._next_piece())
        n_bytes = min(len(buffer), len(self._rest))
        buffer[:n_bytes] = self._rest[:n_bytes]
        self._rest = self._rest[n_bytes:]
        self._position += n_bytes
        return n_bytes

    def _next_piece(self) -> bytes:
        """What follows. Raises InputError, and what `waiting` raises."""
        if self._stop is None or self._position == self._asked_until:
            self._begin_request(FIRST_BYTES if self._stop is None else self.state.size)
        while True:
            try:
                piece = self._pieces.get(timeout=POLL_S)
            except Empty:
                self.waiting()
                continue
            if isinstance(piece, bytes):
                return piece
            self._end_request()
            raise piece

    def _begin_request(self, n_bytes: int) -> None:
        self._end_request()
        self._asked_until = min(self._position + n_bytes, self.state.size)
        self._pieces, self._stop = Queue(READ_AHEAD_PIECES), threading.Event()
        arguments = (self._source, self._position, self._asked_until, self._pieces, self._stop)
        threading.Thread(target=_read_ahead, args=arguments, name="read ahead", daemon=True).start()

    def _end_request(self) -> None:
        if self._stop is not None:
            self._stop.set()
        self._stop, self._rest = None, memoryview(b"")


def _read_ahead(source: _Source, start: int, end: int, pieces: Queue[bytes | Exception], stop: threading.Event) -> None:
    """Put the bytes of a range into `pieces`, or the error by which that ends, until `stop`."""

    def put(item: bytes | Exception) -> None:
        while not stop.is_set():
            with suppress(Full):
                pieces.put(item, timeout=POLL_S)
                return

    try:
        for piece in source.resumed(start, end, stop.is_set):
            put(piece)
            if stop.is_set():
                return
    except Exception as error:  # noqa: BLE001 - raised by the thread that reads
        put(error)
