"""An input as a stream of bytes, whether it is a file or an object at an address; neither is copied to the disk."""

from __future__ import annotations

import io
from collections.abc import Callable

from vpdist.sequences.remote_objects import BUFFER_BYTES, ObjectReader, object_state
from vpdist.storage.object_stores import RETRIES, Retries
from vpdist.urls import InputPath, Url


def opened_input(path: InputPath, like: object = None) -> io.BufferedReader:
    """The bytes of an input, which can be sought in; of an object nothing is asked before it is read. What is called
    while none come is that of the input `like`. Raises OSError for a file; reading raises InputError for an object."""
    if not isinstance(path, Url):
        return open(path, "rb")
    reader, first = ObjectReader(path, RETRIES), getattr(like, "raw", None)
    if isinstance(first, ObjectReader):
        reader.waiting = first.waiting
    return io.BufferedReader(reader, BUFFER_BYTES)


def input_size(path: InputPath, retries: Retries = RETRIES) -> int:
    """Bytes. Raises OSError for a file, InputError for an object."""
    return object_state(path, retries).size if isinstance(path, Url) else path.stat().st_size


def call_while_waiting(file: object, waiting: Callable[[], None]) -> None:
    """Let `waiting` be called, which may raise, while no bytes of an object come; nothing for a file."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, ObjectReader):
        raw.waiting = waiting
