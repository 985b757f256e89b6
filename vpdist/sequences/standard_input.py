"""Standard input, which can be read once, and which `torchrun` gives to one worker only."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from vpdist.errors import InputError
from vpdist.sequences import decompression
from vpdist.storage.atomic_files import replacing


def piped_blocks(raise_if_ending: Callable[[], None]) -> Iterator[bytes]:
    """What is piped in, to its end. `raise_if_ending` is called at least twice a second, also while no data arrive, and
    may raise to stop.

    Raises InputError when standard input is a terminal or closed.
    """
    require_piped_input()
    source = sys.stdin.fileno()
    while True:
        raise_if_ending()
        if select.select([source], [], [], 0.5)[0]:
            block = os.read(source, decompression.BUFFER_BYTES)
            if not block:
                return
            yield block


def spool_stdin(target: Path, raise_if_ending: Callable[[], None]) -> Path:
    """Copy standard input to `target`, which appears when it is complete; returns `target`.

    Raises as `piped_blocks`; StorageError when the copy cannot be written.
    """
    require_piped_input()
    with replacing(target) as file:
        file.writelines(piped_blocks(raise_if_ending))
    return target


def require_piped_input() -> None:
    """Raises InputError when standard input is a terminal or closed."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise InputError("nothing is piped into standard input", path="-")
