"""`python -m scripts.bench.first_sign`: how soon a command says something, and how long its small answers take.

Every figure is the median of several processes of their own, from their start to the first line or to their end. The
first one is not counted: it brings programs and libraries into the page cache and compiles them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.bench.goals import Row, conditions, printed, table

REPEATS = 5
SECONDS = 600.0
"""After which a command counts as hanging."""
FIRST_SIGN, WRONG_PATH = "first line of vpdist predict", "vpdist predict of a file that is not there, to its end"
ANSWERS = (
    (WRONG_PATH, ("predict", "missing.fa", "-o", "RUN", "--model", "mini"), 3, 1.0),
    ("vpdist --help", ("--help",), 0, None),
    ("vpdist predict --help", ("predict", "--help"), 0, None),
    ("vpdist -V", ("-V",), 0, None),
)
"""What, the command, its exit code, and the goal in seconds."""


def environment() -> dict[str, str]:
    """Compiled modules are kept, as where vpdist is installed, and the repository is found from any folder."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    folders = [str(Path(__file__).parents[2]), variables.get("PYTHONPATH", "")]
    return variables | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vpdist", *arguments]


def first_line_s(folder: Path) -> float:
    """Seconds until `vpdist predict` has written its first whole line; the run is then let go on to its end."""
    (folder / "contigs.fa").write_text(">made_up\n" + "ATGGCTTTGCCAAAGGGT" * 100 + "\n")
    arguments = ("predict", "contigs.fa", "-o", "RUN", "--model", "mini", "--restart", "--nproc", "1")
    started = time.perf_counter()
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        seconds = time.perf_counter() - started
        rest = process.communicate(timeout=SECONDS)[1]
    if process.returncode != 0 or not line.startswith(b"vpdist "):
        raise RuntimeError(f"vpdist predict ended with {process.returncode}: {(line + rest).decode(errors='replace')}")
    return seconds


def answer_s(folder: Path, arguments: Sequence[str], code: int) -> float:
    """Seconds from the start of a command to its end, which must be with this exit code."""
    started = time.perf_counter()
    ended = subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, timeout=SECONDS, check=False
    )
    seconds = time.perf_counter() - started
    if ended.returncode != code:
        told = ended.stderr.decode(errors="replace")
        raise RuntimeError(f"vpdist {' '.join(arguments)} ended with {ended.returncode}, not {code}: {told}")
    return seconds


def rows(repeats: int = REPEATS) -> Iterator[Row]:
    """The figures, each as soon as it is measured."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield _row(FIRST_SIGN, [first_line_s(folder) for _ in range(repeats + 1)], 1.0)
        for what, arguments, code, goal in ANSWERS:
            yield _row(what, [answer_s(folder, arguments, code) for _ in range(repeats + 1)], goal)


def _row(what: str, seconds: Sequence[float], at_most: float | None) -> Row:
    counted = seconds[1:]
    note = f"median of {len(counted)}, {min(counted):.2f} to {max(counted):.2f}"
    return Row(what, statistics.median(counted), "s", at_most=at_most, note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    print(conditions(), flush=True)
    print(table(printed(rows(arguments.repeats))))


if __name__ == "__main__":
    main()
