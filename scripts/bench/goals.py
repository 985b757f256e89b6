"""The output of every benchmark: a table of figures, their goals and verdicts, and the conditions of measurement.

row = Row("plan for 10 million fragments", 6.1, "s", at_most=15)
print(conditions()); print(table([row]))
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import vpdist


@dataclass(frozen=True, slots=True)
class Row:
    """One figure and its goal: `at_least`, `at_most`, both, or neither if there is none."""

    what: str
    figure: float | None
    """None if it was not measured; `note` has the reason."""
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def goal(self) -> str:
        bounds = ((">=", self.at_least), ("<=", self.at_most))
        return " ".join(f"{sign} {_number(bound)}" for sign, bound in bounds if bound is not None)

    @property
    def verdict(self) -> str:
        """'reached', 'missed', '' without a goal, or 'not measured'."""
        if self.figure is None:
            return "not measured"
        if self.at_least is None and self.at_most is None:
            return ""
        low = self.at_least is None or self.figure >= self.at_least
        high = self.at_most is None or self.figure <= self.at_most
        return "reached" if low and high else "missed"


def printed(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, each also printed to standard error as soon as it is measured."""
    for row in rows:
        figure = "" if row.figure is None else f"{row.figure:.4g} {row.unit}"
        print(f"{row.what}: {figure} {row.verdict}".rstrip(), file=sys.stderr, flush=True)
        yield row


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | goal | figure | verdict | |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        figure = "" if row.figure is None else f"{_number(row.figure)} {row.unit}".rstrip()
        goal = f"{row.goal} {row.unit}".rstrip() if row.goal else ""
        lines.append(f"| {row.what} | {goal} | {figure} | {row.verdict} | {row.note} |")
    return "\n".join(lines)


def conditions() -> str:
    """Hardware, versions, commit and command of a measurement."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    lines = [
        f"{processor()}, {memory_gb:.0f} GB",
        f"vpdist {vpdist.__version__} ({commit()}), torch {torch.__version__}, Python {platform.python_version()}",
        f"command: {shlex.join(['python', *_program(), *sys.argv[1:]])}",
    ]
    if torch.cuda.is_available():
        lines.insert(1, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return "\n".join(lines)


def _program() -> list[str]:
    """How the running program was started: as a module, or from a file."""
    spec = sys.modules["__main__"].__spec__
    return ["-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]


def processor() -> str:
    """The processor's name, its number of cores, and those of its vector units that affect the figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    return f"{name}, {os.cpu_count()} cores, {' '.join(units)}"


def commit() -> str:
    """The commit of this checkout, with a + if files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "no git checkout"
    return described.stdout.strip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
