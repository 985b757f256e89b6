"""`vpdist watch`: the bars of a run in any terminal, from the run folder's progress.jsonl.

It only reads that file and does not import torch, so it starts fast, on any machine that has access to the run folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO

from vpdist.display.choose import choose_display
from vpdist.display.log_lines import LogLines
from vpdist.errors import StorageError
from vpdist.monitoring.counters import Snapshot
from vpdist.storage.atomic_files import open_regular
from vpdist.text import clock_text

LINES_TRIED = 1000
"""Of the newest lines, in which a snapshot is looked for."""
LONGEST_LINE = 1 << 24
"""Bytes of a snapshot at most (thousands of ranks), and of the file's end that are read."""


def watch(run_folder: Path, stream: TextIO, follow: bool = True) -> None:
    """Show the run in `run_folder` until it ends: bars on a terminal, else log lines.

    Without `follow`, show its newest snapshot as log lines, once. Raises StorageError if there is no progress.jsonl.
    """
    path = run_folder / "progress.jsonl"
    try:
        file = open_regular(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be read, there is no run to watch: {error.strerror}") from error
    display = (choose_display("auto", stream) if follow else None) or LogLines(stream, first_s=0.0)
    with file:
        try:
            unknown = True  # whether there is anything to show
            for snapshot in _snapshots(file, follow):
                if snapshot is None and unknown and file.tell():
                    display.message(f"{path}: holds no progress of a run that this version can read, up to now")
                    unknown = False
                if snapshot is not None:
                    unknown = False
                    display.show(snapshot)
                    if snapshot.ended is not None:
                        display.message(_ending(snapshot))
                display.tick(time.time())
                if follow and not (snapshot and snapshot.ended is not None):
                    time.sleep(min(0.5, display.period_s))
        finally:
            display.close()


def _ending(snapshot: Snapshot) -> str:
    outcome = f"ended: {snapshot.ended}" if snapshot.ended else "done"
    totals = snapshot.totals
    counts = [f"{totals[name]} {name}" for name in ("records", "fragments", "units", "failures") if totals[name]]
    return f"{', '.join([outcome, *counts])}, after {clock_text(snapshot.elapsed)}"


def _snapshots(file: IO[bytes], follow: bool) -> Iterator[Snapshot | None]:
    """The newest snapshot, then further ones, None while there is none, until the run ends."""
    newest, part = None, b""
    file.seek(max(0, os.fstat(file.fileno()).st_size - LONGEST_LINE))
    while True:
        *lines, part = (part[-LONGEST_LINE:] + file.read(LONGEST_LINE)).split(b"\n")
        for line in reversed(lines[-LINES_TRIED:]):
            try:
                newest = Snapshot.from_json(line.decode())
                break
            except ValueError:  # incomplete, because an earlier run was killed
                continue
        yield newest if lines else None
        if not follow or (newest is not None and newest.ended is not None):
            return
