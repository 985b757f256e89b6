"""RUN/progress.jsonl: snapshots as JSON lines, for `vpdist watch` and other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from vpdist.display.progress_lines import changes_json
from vpdist.encoder_kinds import KINDS
from vpdist.monitoring.counters import COUNTERS, Snapshot
from vpdist.storage.atomic_files import open_regular

FIRST_BYTES, BYTES_PER_S = 4 << 20, 850
"""What the file may hold after a while: 78 MB after a day, whatever the number of ranks. The first minutes of a run are
recorded closely."""
WHOLE_RANKS = 8
"""Up to so many ranks every line is whole."""
OFTEN = (*(f"{kind}_tokens" for kind in KINDS), "work_mflop")
"""Counters whose changes are in every line; those of the others, and readings, are in every ALL_EVERY-th."""
ALL_EVERY, WHOLE_EVERY = 30, 240
LEAST_S, MOST_S = 1.0, 5.0
"""Time between lines that the file's size allows to be closer."""


class Recorder:
    """Appends snapshots, flushed line by line; less often as the run gets longer, and for many ranks."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the file cannot be opened."""
        self._file: IO[bytes] = open_regular(path, append=True)
        size = os.fstat(self._file.fileno()).st_size
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.write(b"\n")  # an earlier run was killed while it wrote a line
        self._recorded_s = -1e9
        self._states: tuple[object, ...] = ()
        self._read: Snapshot | None = None
        """What a reader knows."""
        self._lines = self._bytes = 0

    def record(self, snapshot: Snapshot) -> None:
        """Append about once a second, every 5 s in long runs, less often where the file would grow too fast; and
        whenever a stage or a state changes or the run ends."""
        changed = snapshot.stages_and_states != self._states
        spacing_s = max(LEAST_S, min(MOST_S, snapshot.elapsed / 600))
        too_soon = snapshot.elapsed - self._recorded_s < 0.9 * spacing_s
        if not changed and (too_soon or self._bytes > FIRST_BYTES + BYTES_PER_S * snapshot.elapsed):
            return
        self._recorded_s, self._states = snapshot.elapsed, snapshot.stages_and_states
        line = self._line(snapshot).encode() + b"\n"
        self._lines, self._bytes = self._lines + 1, self._bytes + len(line)
        self._file.write(line)
        self._file.flush()

    def _line(self, snapshot: Snapshot) -> str:
        before = self._read
        if (
            before is None
            or len(snapshot.rows) <= WHOLE_RANKS
            or snapshot.ended is not None
            or snapshot.facts != before.facts
            or self._lines % WHOLE_EVERY == 0
        ):
            self._read = snapshot
            return snapshot.to_json()
        all_of_them = self._lines % ALL_EVERY == 0
        line, self._read = changes_json(before, snapshot, COUNTERS if all_of_them else OFTEN, readings=all_of_them)
        return line

    def close(self) -> None:
        self._file.close()
