"""RUN/progress.jsonl: every snapshot as one JSON line, flushed when written, for `vpdist watch` and other programs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import IO

from vpdist.monitoring.counters import Snapshot
from vpdist.storage.atomic_files import open_regular

logger = logging.getLogger(__name__)


class Recorder:
    """Appends snapshots to progress.jsonl, flushed line by line; thins them out as the run grows old."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file cannot be opened."""
        self._file: IO[bytes] = open_regular(path, append=True)
        size = os.fstat(self._file.fileno()).st_size
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.write(b"\n")  # a line that an earlier run was killed in
        self._recorded_s = -1e9
        self._outline: tuple[object, ...] = ()

    def record(self, snapshot: Snapshot) -> None:
        """Append, if it says something new: at most once a second (every 5 s in old, every ranks/64 s in large runs),
        and at once when a stage or a state changes or the run ends."""
        spacing_s = max(1.0, min(5.0, snapshot.elapsed / 600), len(snapshot.rows) / 64)
        if snapshot.outline == self._outline and snapshot.elapsed - self._recorded_s < 0.9 * spacing_s:
            return
        self._recorded_s, self._outline = snapshot.elapsed, snapshot.outline
        self._file.write(snapshot.to_json().encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def open_recorder(path: Path) -> Recorder | None:
    """A recorder, or None (logged) where the file cannot be opened."""
    try:
        return Recorder(path)
    except OSError as error:
        logger.warning("progress is not recorded: %s", error)
        return None
