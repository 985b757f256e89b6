"""Files from the network that appear whole and checked, or not at all: resumed, retried, compared with a digest.

Enters: an address, and the digest that the file must have. Leaves: the file under its final name. What was fetched so
far lies beside it under a name made of the digest, so that another command goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpdist.errors import StorageError, WeightsError
from vpdist.storage.atomic_files import open_regular, storage_error, sync_folder
from vpdist.text import bytes_text, printable, shortened
from vpdist.urls import without_secrets

TRIES = 6
"""Requests in a row that may bring nothing before a host is given up."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
SILENCE_S = 60.0
"""Seconds until a host that sends nothing is asked again."""
LOCK_POLL_S = 0.5
CHUNK_BYTES = 1 << 20
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of HTTP that another try may change."""
SPARE_BYTES = 64 << 20
"""Left free on the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What a file must be: SHA-256 of its bytes, or git's name of a blob (SHA-1 over `blob SIZE`, a zero byte, and the
    bytes)."""

    kind: str
    """sha256 or git."""
    value: str
    """Hexadecimal digits."""

    def of(self, path: Path, listener: Listener) -> str:
        """The digest of this kind of the file `path`. Raises OSError."""
        with open_regular(path, follow=True) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256() if self.kind == "sha256" else hashlib.sha1(b"blob %d\0" % size)
            while block := file.read(CHUNK_BYTES):
                digest.update(block)
                listener.advance(0)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file to fetch."""

    url: str
    target: Path
    digest: Digest
    size: int | None
    """Bytes; None where only the host's answer tells."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The address for messages: that of a mirror may have a password."""
        return without_secrets(self.url)

    @property
    def partial(self) -> Path:
        """Where its beginning lies until it is complete."""
        return self.target.with_name(f".{self.digest.value}.part")

    @property
    def fetched(self) -> int:
        """Bytes of it that are here."""
        try:
            return self.partial.stat().st_size
        except OSError:
            return 0


class Listener:
    """Who is told how a download goes; this one says nothing. Any of its methods may raise to end the download, which
    can be continued."""

    def begin(self, what: str, missing: int, n_files: int) -> None:
        """So many files with so many bytes altogether will be fetched."""

    def advance(self, n_bytes: int) -> None:
        """Bytes that have come; 0 every now and then while none come, and negative where they come again."""

    def tell(self, text: str) -> None:
        """A line for the user."""

    def end(self) -> None:
        """All is here, or the download has failed."""


SILENT = Listener()


@contextmanager
def one_at_a_time(lock: Path, what: str, listener: Listener) -> Iterator[None]:
    """While this process alone fetches `what`; others wait here. A process that is killed holds it no longer.

    Raises StorageError where the lock's file cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held, told = FileLock(lock), False
        while True:
            try:
                held.acquire(timeout=LOCK_POLL_S, poll_interval=LOCK_POLL_S / 5)
                break
            except Timeout:
                listener.advance(0)
                if not told:
                    listener.tell(f"{what}: another process downloads it; waiting")
                told = True
    except OSError as error:
        raise storage_error(lock, error) from error
    try:
        yield
    finally:
        held.release()


def fetch_all(what: str, files: Sequence[RemoteFile], listener: Listener) -> None:
    """Fetch those of `files` that are not there yet, after the disk was asked for room; sizes are told beforehand.

    Raises StorageError where the disk has no room, WeightsError as `fetch`.
    """
    missing = [file for file in files if not file.target.exists()]
    if not missing:
        return
    n_bytes = sum(max(0, (file.size or 0) - file.fetched) for file in missing)
    _refuse_full_disk(what, missing[0].target, n_bytes)
    listener.begin(what, n_bytes, len(missing))
    try:
        for file in missing:
            fetch(file, listener)
    finally:
        listener.end()


def _refuse_full_disk(what: str, target: Path, n_bytes: int) -> None:
    existing = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if n_bytes + SPARE_BYTES > free:
        raise StorageError(
            f"{existing}: {what} takes {bytes_text(n_bytes)} more, but only {bytes_text(free)} are free; make room, or "
            f"name another folder in HF_HOME"
        )


def fetch(file: RemoteFile, listener: Listener = SILENT, sleep: Callable[[float], None] = time.sleep) -> None:
    """Fetch one file, going on from what is here. Waits longer after each try that brings nothing.

    Raises WeightsError where the host refuses it or sends another file, StorageError where it cannot be written.
    """
    try:
        file.target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_bytes(file, listener, sleep)
        found = file.digest.of(file.partial, listener)
        if found != file.digest.value:
            listener.advance(-file.fetched)
            file.partial.unlink()
            raise WeightsError(
                f"{file.shown}: the host has sent another file: its {file.digest.kind} digest is {found}, not "
                f"{file.digest.value}; nothing of it was kept"
            )
        with open_regular(file.partial, append=True) as whole:
            os.fsync(whole.fileno())
        os.replace(file.partial, file.target)
        sync_folder(file.target.parent)
    except ConnectionError as error:  # huggingface_hub's, where HF_HUB_OFFLINE is set
        raise WeightsError(f"{file.shown}: cannot be downloaded: {first_line(error)}") from error
    except OSError as error:
        raise storage_error(file.target, error) from error


def _fetch_bytes(file: RemoteFile, listener: Listener, sleep: Callable[[float], None]) -> None:
    """Bring `partial` to its full size."""
    from huggingface_hub.errors import HfHubHTTPError

    transport_error = HfHubHTTPError.__bases__[0]  # of the HTTP library that huggingface_hub uses
    failed, pause_s = 0, FIRST_PAUSE_S
    while file.size is None or file.fetched != file.size:
        before = file.fetched
        try:
            if _request(file, listener):
                return
            reason = "the connection was closed too early"
        except transport_error as error:
            reason = first_line(error)
        except TryAgain as error:
            reason = str(error)
        if file.fetched > before:
            failed, pause_s = 0, FIRST_PAUSE_S
        failed += 1
        if failed >= TRIES:
            raise WeightsError(f"{file.shown}: cannot be downloaded: {reason}; give the same command again to go on")
        listener.tell(f"{file.shown}: {reason}; trying again in {pause_s:.0f} s")
        listener.advance(0)
        sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class TryAgain(Exception):  # noqa: N818 - what to do
    """An answer that another try may change."""


def _request(file: RemoteFile, listener: Listener) -> bool:
    """One request for what is missing, appended to `partial`; returns whether that is complete.

    Raises TryAgain, the transport's errors, WeightsError for an answer that another try will not change.
    """
    from huggingface_hub.utils import get_session

    start = file.fetched
    headers = {"Accept-Encoding": "identity", **file.headers} | ({"Range": f"bytes={start}-"} if start else {})
    with get_session().stream("GET", file.url, headers=headers, timeout=SILENCE_S, follow_redirects=True) as response:
        if response.status_code in TRANSIENT:
            raise TryAgain(f"the host answers {response.status_code}")
        if response.status_code == 416 or (start and not _goes_on(response, start)):
            listener.advance(-start)
            file.partial.unlink()
            start = 0
            if response.status_code != 200:
                raise TryAgain("the host does not go on from what is here; beginning again")
        if response.status_code not in (200, 206):
            raise WeightsError(f"{file.shown}: cannot be downloaded: the host answers {response.status_code}")
        length = response.headers.get("Content-Length", "")
        size = file.size if file.size is not None else start + int(length) if length.isdigit() else None
        with open_regular(file.partial, append=True) as partial:
            for chunk in response.iter_bytes():
                start += len(chunk)
                if size is not None and start > size:
                    file.partial.unlink()
                    raise WeightsError(f"{file.shown}: the host sends more than the {size:,} bytes of the file")
                partial.write(chunk)
                listener.advance(len(chunk))
    return size is None or start == size


def _goes_on(response: Any, start: int) -> bool:
    """Whether an answer begins at byte `start`."""
    told = response.headers.get("Content-Range", "")
    return (response.status_code == 206 and str(told).startswith(f"bytes {start}-")) or response.status_code >= 400


def first_line(error: Exception) -> str:
    """The first line of an error's text without secrets of addresses, or its name where it has none."""
    lines = without_secrets(str(error)).strip().splitlines()
    return shortened(printable(lines[0]), 300) if lines else type(error).__name__
