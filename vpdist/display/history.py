"""The snapshots that a run has recorded so far, and those that follow.

Enters: an open progress.jsonl. Leaves: the last part of its history at once, then each new snapshot.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import IO

from vpdist.display.progress_lines import Reader
from vpdist.monitoring.counters import Snapshot

TAIL_BYTES, MOST_BYTES = 1 << 20, 1 << 24
"""Of the file's end that are read at first, and at most, to find a whole line."""
SHOWN = 120
"""Snapshots of the history from which rates are made."""


@dataclass(slots=True)
class History:
    """Reads a progress.jsonl that may still grow."""

    file: IO[bytes]
    _reader: Reader = field(default_factory=Reader)
    _part: bytes = b""

    def tail(self) -> list[Snapshot]:
        """The newest snapshots of the newest command, the oldest of them first; empty where there are none."""
        size = os.fstat(self.file.fileno()).st_size
        for n_bytes in (TAIL_BYTES, MOST_BYTES):
            self.file.seek(max(0, size - n_bytes))
            self._reader, self._part = Reader(), b""
            found = self.more()
            if found or n_bytes >= size:
                break
        begins = [at for at in range(1, len(found)) if found[at].elapsed < found[at - 1].elapsed]
        return found[begins[-1] if begins else 0 :][-SHOWN:]

    def more(self) -> list[Snapshot]:
        """Snapshots that were recorded since the last call."""
        *lines, part = (self._part + self.file.read()).split(b"\n")
        self._part = part[-MOST_BYTES:]
        made = (self._reader.read(line.decode(errors="replace")) for line in lines if line)
        return [snapshot for snapshot in made if snapshot is not None]

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been recorded."""
        return os.fstat(self.file.fileno()).st_size == 0
