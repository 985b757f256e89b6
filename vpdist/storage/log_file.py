"""A rank's log file, which gets all output that is not meant for the console: nothing breaks a line of the display."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vpdist.environment import LaunchContext
from vpdist.storage.atomic_files import open_regular, storage_error
from vpdist.text import printable_lines
from vpdist.urls import without_secrets

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def output_to_log(path: Path, context: LaunchContext) -> Iterator[Callable[[], int]]:
    """Append standard output and error, of Python and of native libraries, and all logging to the file `path`.

    Yields a function that returns the microseconds spent on logging. Raises StorageError where it can't be opened."""
    try:
        with open_regular(path, append=True) as opened:
            descriptor = os.dup(opened.fileno())
        file = io.TextIOWrapper(_LogFile(descriptor, "a"), "utf-8", "backslashreplace", write_through=True)
    except OSError as error:
        raise storage_error(path, error) from error
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    handler = _TimedHandler(file)
    handler.setFormatter(_LogLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    traces_crashes = not faulthandler.is_enabled()
    if traces_crashes:
        faulthandler.enable(file)  # where in the code a crash of the process happened
    logger.info("rank %d of %d, process %d, started %s", context.rank, context.world_size, os.getpid(), time.ctime())
    try:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield lambda: handler.spent_ns // 1000
    finally:
        if traces_crashes:
            faulthandler.disable()
        logging.captureWarnings(False)
        root.removeHandler(handler)
        for descriptor, before in zip((1, 2), kept, strict=True):
            os.dup2(before, descriptor)
            os.close(before)
        file.close()


class _TimedHandler(logging.StreamHandler[io.TextIOWrapper]):
    """Measures the time that logging takes."""

    spent_ns = 0

    def emit(self, record: logging.LogRecord) -> None:
        begin_ns = time.perf_counter_ns()
        super().emit(record)
        self.spent_ns += time.perf_counter_ns() - begin_ns


class _LogFile(io.FileIO):
    """A log file that drops what a full disk refuses: the run must not fail because of its log."""

    def write(self, content: Any) -> int:
        with contextlib.suppress(OSError):
            super().write(content)
        return len(content)


class _LogLine(logging.Formatter):
    """Without secrets of addresses, and without control characters, which a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(without_secrets(super().format(record)))
