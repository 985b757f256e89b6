"""`python -m scripts.bench.display [--short] [--work bench]`: all figures of what people look at, beside their goals.

First sign of a command, size and start of the report, size of progress.jsonl in a day, what progress costs, and how
often the end lies inside the range that is told as time left. About 15 minutes on two idle cores; `--short`, which
`make bench` includes, leaves out what takes minutes: the large report, days, recorded runs. One table, also
written to WORK/display.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.bench import first_sign, progress_cost, progress_size, report_size
from scripts.bench.goals import Row, conditions, printed, table
from scripts.checks import recorded_runs, time_left

SHORT_HOURS = 3.0


def short_rows() -> Iterator[Row]:
    """What takes a minute together."""
    yield from first_sign.rows()
    yield from report_size.rows(report_size.SEQUENCES[:1])
    yield from progress_size.rows((512,), SHORT_HOURS)


def long_rows(work: Path) -> Iterator[Row]:
    """All figures."""
    yield from first_sign.rows()
    yield from report_size.rows()
    yield from progress_cost.rows(work)
    for name, run in recorded_runs.record(work / "recorded"):
        yield time_left.recorded_row(name, run)
    yield from time_left.simulated_rows(2)
    yield from progress_size.rows()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="only what takes a minute")
    parser.add_argument("--work", type=Path, default=Path("bench"), help="folder for sample, models, runs and figures")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rows = short_rows() if arguments.short else long_rows(arguments.work)
    text = f"{conditions()}\n\n{table(printed(rows))}\n\nin {time.monotonic() - started:.0f} s"
    print(text)
    (arguments.work / "display.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
