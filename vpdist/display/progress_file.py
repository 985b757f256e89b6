"""RUN/progress.jsonl: snapshots as JSON lines, for `vpdist watch` and other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from vpdist.monitoring.counters import Snapshot
from vpdist.storage.atomic_files import open_regular


class Recorder:
    """Appends snapshots, flushed line by line; less often as the run gets longer."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the file cannot be opened."""
        self._file: IO[bytes] = open_regular(path, append=True)
        size = os.fstat(self._file.fileno()).st_size
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.write(b"\n")  # an earlier run was killed while it wrote a line
        self._recorded_s = -1e9
        self._states: tuple[object, ...] = ()

    def record(self, snapshot: Snapshot) -> None:
        """Append at most once a second (every 5 s in long, every ranks/64 s in large runs), and whenever a stage or a
        state changes or the run ends."""
        spacing_s = max(1.0, min(5.0, snapshot.elapsed / 600), len(snapshot.rows) / 64)
        if snapshot.stages_and_states == self._states and snapshot.elapsed - self._recorded_s < 0.9 * spacing_s:
            return
        self._recorded_s, self._states = snapshot.elapsed, snapshot.stages_and_states
        self._file.write(snapshot.to_json().encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
