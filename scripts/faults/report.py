"""The cost of each fault: a row of the table in docs/faults.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts.faults.launched_runs import lost_and_twice, repeated, tables


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    fault: str
    tries: int
    lost: int
    repeated: str
    stop_s: tuple[float, ...]
    finish_s: tuple[float, ...]
    problems: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    """What took longer than promised. Tests print it only, since a busy machine may be the reason."""

    @property
    def missed(self) -> tuple[str, ...]:
        return self.problems + self.late


def late(stop_s: Iterable[float], within_s: float) -> tuple[str, ...]:
    """Each time to stop beyond the promised one."""
    return tuple(f"stopped after {each:.1f} s, {within_s:.0f} s are promised" for each in stop_s if each > within_s)


def median_and_worst(seconds: Iterable[float]) -> str:
    times = list(seconds)
    return f"{statistics.median(times):.1f} / {max(times):.1f}" if times else "-"


def as_markdown(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| fault | tries | lost | repeated | s to stop | s to finish |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        times = f"{median_and_worst(row.stop_s)} | {median_and_worst(row.finish_s)}"
        lines.append(f"| {row.fault} | {row.tries} | {row.lost} | {row.repeated} | {times} |")
    return "\n".join(lines)


def judged(
    name: str,
    folder: Path,
    undisturbed: list[bytes],
    stop_s: tuple[float, ...],
    finish_s: tuple[float, ...],
    problems: list[str],
    within_s: float = math.inf,
) -> Row:
    """The row of a run that must have ended with the tables of an undisturbed one."""
    lost = 0
    if not problems:
        lost = sum(lost_and_twice(folder))
        if tables(folder) != undisturbed:
            problems.append("the tables differ from those of an undisturbed run")
    return Row(name, 1, lost, str(repeated(folder).total()), stop_s, finish_s, tuple(problems), late(stop_s, within_s))


def merged(rows: list[Row]) -> Row:
    """Several tries of one fault as one row."""
    return Row(
        rows[0].fault,
        sum(row.tries for row in rows),
        sum(row.lost for row in rows),
        str(sum(int(row.repeated) for row in rows if row.repeated.isdigit())),
        tuple(second for row in rows for second in row.stop_s),
        tuple(second for row in rows for second in row.finish_s),
        tuple(problem for row in rows for problem in row.problems),
        tuple(each for row in rows for each in row.late),
    )
