"""`python -m scripts.archive.simulate [--large]`: the steps of a run that hold something of every fragment, alone.

Each step gets made columns (lengths and hashes, no tokens) in a process of its own: its memory and seconds of a
processor at several sizes, a line through them, and what that line says of 1e9. The standard form takes under five
minutes on two cores; --large adds planning of 3e7 and 1e8 fragments (5 GB).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

from scripts.bench.goals import conditions
from vpdist.planning.room import MOST_FRAGMENTS
from vpdist.text import bytes_text

GOAL = 1e9
WITHIN_S, WITHIN_BYTES = 60.0, 8e9


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name in `simulate_worker.py`, what it holds something of, and the sizes to measure."""

    name: str
    what: str
    per: str
    sizes: tuple[int, ...]
    large: tuple[int, ...] = ()


MILLIONS = (1_000_000, 10_000_000)
STEPS = (
    Step("plan", "keys to units, plan written", "fragment", MILLIONS, (30_000_000, 100_000_000)),
    Step("map", "the plan mapped and checked, every rank", "fragment", MILLIONS),
    Step("scores", "scores for tables, `classify`, `verify`", "fragment", MILLIONS),
    Step("names", "hashes of names", "record", (1_000_000, 3_000_000)),
    Step("flags", "flags of chunks, counts of records, scores", "chunk", MILLIONS),
    Step("blocks", "digests and counts of blocks, rank 0", "block", (30_000, 300_000)),
    Step("manifest", "lines of a manifest", "object", (100_000, 1_000_000)),
    Step("listing", "parts of a folder listed", "part", (10_000, 50_000)),
)


@dataclass(frozen=True, slots=True)
class Line:
    """Bytes and seconds of a step as lines: fixed, and per item."""

    step: Step
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    bytes: tuple[int, ...]

    @property
    def bytes_each(self) -> float:
        return slope(self.sizes, self.bytes)

    @property
    def seconds_each(self) -> float:
        return slope(self.sizes, self.seconds)

    def largest(self) -> float:
        """Items within a minute and 8 GB, by the lines."""
        bounds = [WITHIN_S / self.seconds_each if self.seconds_each > 0 else np.inf]
        bounds.append(WITHIN_BYTES / self.bytes_each if self.bytes_each > 0 else np.inf)
        return min(bounds)


def slope(sizes: tuple[int, ...], values: tuple[float, ...]) -> float:
    """Of the line of least squares, relative to each size so that small ones count, too; 0 where it falls."""
    x, y = np.array(sizes, float), np.array(values, float)
    return max(0.0, float(np.polyfit(x, y, 1, w=1 / x)[0]))


def measure(step: Step, size: int) -> tuple[float, int]:
    """Seconds and bytes beyond the program. Raises CalledProcessError."""
    command = [sys.executable, "-m", "scripts.archive.simulate_worker", step.name, str(size)]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return done["seconds"], done["bytes"]


def measured(*, large: bool, only: str = "") -> list[Line]:
    """All steps whose name contains `only`."""
    lines = []
    for step in STEPS:
        if only in step.name:
            sizes = step.sizes + (step.large if large else ())
            seconds, sizes_bytes = zip(*(measure(step, size) for size in sizes), strict=True)
            lines.append(Line(step, sizes, seconds, sizes_bytes))
            print(row(lines[-1]), file=sys.stderr, flush=True)
    return lines


def row(line: Line) -> str:
    """A row of the table."""
    at = line.sizes[-1]
    said = f"{line.seconds[-1]:.1f} s, {bytes_text(line.bytes[-1])} at {at:,}"
    goal = f"{line.seconds_each * GOAL:,.0f} s, {bytes_text(round(line.bytes_each * GOAL))}"
    each = f"{line.bytes_each:.1f} B, {line.seconds_each * 1e6:.3f} µs a {line.step.per}"
    return f"| {line.step.name}: {line.step.what} | {each} | {said} | {goal} | {line.largest():.2g} |"


def table(lines: list[Line]) -> str:
    """What was measured, as Markdown."""
    head = "| step | each | measured | 1e9, by the line | most in 60 s and 8 GB |\n| --- | --- | --- | --- | --- |"
    return "\n".join([head, *map(row, lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also planning of 1e8 fragments, which takes 5 GB")
    parser.add_argument("--only", default="", metavar="NAME", help="only steps with NAME in their name")
    arguments = parser.parse_args()
    print(conditions(), flush=True)
    lines = measured(large=arguments.large, only=arguments.only)
    print(table(lines))
    print(f"A plan has at most {MOST_FRAGMENTS:,} fragments: 1e9 are cut into {-(-(10**9) // MOST_FRAGMENTS)} shards.")


if __name__ == "__main__":
    main()
