"""File systems of objects, through fsspec: which library an address needs, and whose errors another try may change.

Enters: an address. Leaves: fsspec's file system and the object's path in it. Neither retries by itself: whoever asks
counts tries and waits.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from vpdist.errors import UsageError
from vpdist.storage.downloads import first_line
from vpdist.urls import Url, check_scheme

EXTRAS = {"s3": "s3", "gs": "gcs"}
"""The extra of vpdist that has the library of a scheme."""
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
FINAL_ERRORS = ("ParamValidationError", "InvalidEndpoint", "ProfileNotFound", "InvalidRegionError")
"""Of the libraries, by name."""
FINAL_NUMBERS = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.EREMCHG, errno.EISDIR)
"""Of errors of the system, as which s3fs tells what S3 answers."""

SLOWEST_BYTES_PER_S = 1 << 16
"""Rate of a store that is not yet given up."""
PATIENT_TRIES = 12
"""Requests in a row that may bring nothing where a store has worked before: with the pauses between them it may be away
for three and a half minutes at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and when a request is made again."""

    tries: int = 6
    """Requests in a row that may bring nothing."""
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0
    """Each pause is twice the one before, up to this."""
    silence_s: float = 15.0
    """Seconds until a host that sends nothing is asked again."""
    sleep: Callable[[float], None] = time.sleep
    waiting: Callable[[], None] | None = None
    """Called while a store is silent and between tries, see `beside`; may raise."""

    def pauses(self) -> Iterator[float]:
        """Seconds to wait after each try in a row that brings nothing, but the last one."""
        pause_s = self.first_pause_s
        for _ in range(self.tries - 1):
            yield pause_s
            pause_s = min(2 * pause_s, self.longest_pause_s)

    def patient(self) -> Retries:
        """For a store that has worked for this run, which an end would cost more than waiting."""
        return replace(self, tries=max(self.tries, PATIENT_TRIES))


RETRIES = Retries()


class TryAgain(Exception):  # noqa: N818 - what to do
    """A failure that another try may change; its text is the reason."""


class Refused(Exception):  # noqa: N818 - what the host did
    """A failure that another try will not change; its text is the reason."""


class Absent(Refused):
    """There is no such object."""


def filesystem(url: Url, retries: Retries = RETRIES) -> tuple[Any, str]:
    """fsspec's file system for an address, and the object's path in it.

    Credentials come from where the library of the store looks for them; fsspec's own settings (FSSPEC_S3_ANON, ...) and
    AWS_ENDPOINT_URL are in force. Raises UsageError where a library is missing, and for credentials in the
    address.
    """
    check_scheme(url.whole)
    if "@" in url.whole.partition("://")[2].partition("/")[0]:
        raise UsageError(f"{url}: has a user or a password; credentials go into the store's own settings")
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(url.scheme)
    except ImportError as error:
        extra = EXTRAS.get(url.scheme, "s3")
        raise UsageError(f"{url}: needs a library that is not here; pip install 'vpdist[{extra}]'") from error
    options = dict(kind._get_kwargs_from_urls(url.whole))
    if url.scheme == "s3":
        limits = {"connect_timeout": retries.silence_s, "read_timeout": retries.silence_s}
        options["config_kwargs"] = {**limits, "retries": {"total_max_attempts": 1}}
    made = fsspec.filesystem(url.scheme, **options)
    if url.scheme == "s3":
        made.retries = 1
    return made, str(kind._strip_protocol(url.whole))


def answer(store: Any, method: str, *arguments: Any, silence_s: float, n_bytes: int = 0, **named: Any) -> Any:
    """What a method of fsspec's file system returns, in `silence_s` and the time that so many bytes take at
    SLOWEST_BYTES_PER_S. Raises TryAgain after that, and ends the request; whatever the method raises.

    Libraries have limits of their own, or none. File systems of LOCAL schemes wait as any file does.
    """
    if not store.async_impl:
        return getattr(store, method)(*arguments, **named)
    from fsspec.asyn import sync
    from fsspec.exceptions import FSTimeoutError

    limit_s = silence_s + n_bytes / SLOWEST_BYTES_PER_S
    try:
        return sync(store.loop, getattr(store, f"_{method}"), *arguments, timeout=limit_s, **named)
    except FSTimeoutError as error:
        raise TryAgain("the store is silent") from error


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raises TryAgain or Refused for what a file system of fsspec raises."""
    try:
        yield
    except FileNotFoundError as error:
        raise Absent("there is no such object") from error
    except PermissionError as error:
        raise Refused(f"access is refused: {first_line(error)}") from error
    except (TryAgain, Refused, UsageError):
        raise
    except Exception as error:
        if _name(error) in NO_CREDENTIALS:
            raise Refused(f"there are no credentials for it: {first_line(error)}") from error
        if _name(error) in FINAL_ERRORS or getattr(error, "errno", None) in FINAL_NUMBERS:
            raise Refused(first_line(error)) from error
        if not _from_network(error):
            raise
        raise TryAgain(first_line(error)) from error


def _from_network(error: Exception) -> bool:
    """Whether an error is one of the system, or of a library that talks with a store."""
    libraries = {"aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "requests"}
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.partition(".")[0] in libraries


def _name(error: Exception) -> str:
    return type(error).__name__


Made = TypeVar("Made")
POLL_S = 0.2


def beside(what: Callable[[Retries], Made], retries: Retries) -> Made:
    """What `what` returns, which makes requests. It is called in a thread of its own where `retries.waiting` must be
    called meanwhile, in this one; when that raises, the thread is left to the end of its requests."""
    waiting = retries.waiting
    if waiting is None:
        return what(retries)
    made: Future[Made] = Future()

    def work() -> None:
        try:
            made.set_result(what(replace(retries, waiting=None)))
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits
            made.set_exception(error)

    threading.Thread(target=work, name="request", daemon=True).start()
    while not wait([made], POLL_S).done:
        waiting()
    return made.result()


def tried(what: Callable[[], Made], retries: Retries) -> Made:
    """What `what` returns, after as many tries as it takes. Raises TryAgain after the last one, Refused."""
    for pause_s in retries.pauses():
        try:
            return what()
        except TryAgain:
            retries.sleep(pause_s)
    return what()
