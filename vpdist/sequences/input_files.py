"""An input as a stream of bytes, whether it is a file or an object at an address; neither is copied to the disk."""

from __future__ import annotations

import io
from collections.abc import Callable

from vpdist.sequences.remote_objects import ObjectReader, object_state, open_object
from vpdist.storage.object_stores import RETRIES, Retries
from vpdist.urls import InputPath, Url


def opened_input(path: InputPath) -> io.BufferedReader:
    """The bytes of an input, which can be sought in. Raises OSError for a file, InputError for an object."""
    return open_object(path) if isinstance(path, Url) else open(path, "rb")


def input_size(path: InputPath, retries: Retries = RETRIES) -> int:
    """Bytes. Raises OSError for a file, InputError for an object."""
    return object_state(path, retries).size if isinstance(path, Url) else path.stat().st_size


def call_while_waiting(file: object, waiting: Callable[[], None]) -> None:
    """Let `waiting` be called, which may raise, while no bytes of an object come; nothing for a file."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, ObjectReader):
        raw.waiting = waiting
