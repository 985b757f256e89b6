"""`--files-from`: the names of inputs from a file, for more of them than a command line can hold."""

from __future__ import annotations

import os
from pathlib import Path

from vpdist.errors import InputError

LIST_LIMIT = 1 << 28
"""Bytes of a list at most."""


def read_list(path: Path, given: str) -> list[str]:
    """The names in `path`, see `named_in`. Raises InputError, also for a list that cannot be read."""
    try:
        with open(path, "rb") as file:
            content = file.read(LIST_LIMIT + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=given) from error
    return named_in(content, given)


def named_in(content: bytes, given: str) -> list[str]:
    """The names in a list, one a line, or as `find -print0` ends them; empty lines are none.

    Raises InputError, with the list named as `given`, for one that is too large or names nothing.
    """
    refuse_large(len(content), given)
    lines = content.split(end_of_names(content))
    names = [os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip()]
    if not names:
        raise InputError("names no files", path=given)
    return names


def end_of_names(content: bytes) -> bytes:
    """What ends each name of a list."""
    return b"\0" if b"\0" in content else b"\n"


def refuse_large(n_bytes: int, given: str) -> None:
    """Raises InputError for more bytes than a list has."""
    if n_bytes > LIST_LIMIT:
        raise InputError(f"has more than {LIST_LIMIT >> 20} MiB; is this a list of files?", path=given)
