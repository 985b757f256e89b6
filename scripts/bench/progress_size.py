"""`python -m scripts.bench.progress_size [--ranks 2 16 512 1024] [--hours 24]`: bytes of progress.jsonl in a day.

Snapshots of runs that are made up (simulated_ranks.py), as often as a run makes them, go through the recorder of real
ones. With fewer hours than a day its bytes are those written, and for the hours that are left the rate of the last
half. The file is read back at the end: its last line must have the last totals.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.bench.goals import Row, conditions, printed, table
from scripts.bench.simulated_ranks import snapshots
from vpdist.display.progress_file import Recorder
from vpdist.display.progress_lines import read_file

RANKS = (2, 16, 512, 1024)
DAY_HOURS = 24.0
MOST_MB = 100.0


def written(path: Path, ranks: int, hours: float) -> tuple[int, int, int]:
    """Record so many hours; returns the bytes written in the first half of them, in all, and the lines."""
    recorder = Recorder(path)
    half = 0
    last = None
    for last in snapshots(ranks, hours):
        recorder.record(last)
        if last.elapsed <= hours * 1800:
            half = path.stat().st_size
    recorder.close()
    read = [snapshot.totals["work_mflop"] for snapshot in read_file(path)]
    lines = len(read)
    assert last is not None
    if lines < 2 or not 0.9 * last.totals["work_mflop"] < read[-1] <= last.totals["work_mflop"]:
        raise RuntimeError(f"{path}: what was read back is not what was recorded")
    return half, path.stat().st_size, lines


def rows(ranks: Sequence[int] = RANKS, hours: float = DAY_HOURS) -> Iterator[Row]:
    for n in ranks:
        with tempfile.TemporaryDirectory() as name:
            half, whole, lines = written(Path(name) / "progress.jsonl", n, hours)
        rate = (whole - half) / (hours / 2)
        note = f"{lines:,} lines in {hours:g} h: {whole / 1e6:.1f} MB"
        if hours < DAY_HOURS:
            note += ", the rest of the day at the rate of their second half"
        figure = (whole + rate * max(0.0, DAY_HOURS - hours)) / 1e6
        yield Row(f"progress.jsonl, a day of {n:,} ranks", figure, "MB", at_most=MOST_MB, note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--hours", type=float, default=DAY_HOURS)
    arguments = parser.parse_args()
    print(conditions(), flush=True)
    print(table(printed(rows(arguments.ranks, arguments.hours))))


if __name__ == "__main__":
    main()
