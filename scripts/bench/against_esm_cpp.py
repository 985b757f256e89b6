"""`python -m scripts.bench.against_esm_cpp --python PYTHON`: ESM-2 in bfloat16 against esm.cpp 0.2.1 in INT8, on a CPU.

esm.cpp (PyPI: esm-cpp, Apache-2.0) needs numpy < 2, hence an environment of its own, whose Python is named:

    python3 -m venv ESM && ESM/bin/pip install esm-cpp==0.2.1
    make bench ESM_CPP=ESM/bin/python

Both compute the same proteins of 166 residues with the same random weights (30x640), on the same core in turn: packed,
as many at once as each by itself takes. Seconds are processor time, which other work on the machine changes little.
That both are the same model is seen from one protein's embedding.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from scripts.bench import encoders, esm_cpp_worker
from scripts.bench.esm_cpp_worker import SEQUENCES, TOKENS
from scripts.bench.goals import Row, conditions, table
from scripts.bench.whole_runs import native_bfloat16

SIZE = "30x640"
GOAL = 1.3
ROUNDS = 3
WHAT = f"ESM-2 {SIZE}, {TOKENS - 2} residues, bfloat16, against esm.cpp in INT8, one core each in turn"
ABSENT = "no Python with esm-cpp is named (make bench ESM_CPP=PYTHON)"
LEAST_COSINE = 0.99
"""Of one protein's embedding on both sides; below, they do not compute the same model."""


class WorkerError(Exception):
    """A side that could not be measured; the text is the last line that it wrote."""


class Worker:
    """One side, started and loaded."""

    def __init__(self, command: Sequence[str], engine: str, model: Path, core: int) -> None:
        """Starts it. Raises WorkerError where it cannot be started."""
        root = Path(__file__).resolve().parents[2]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the block
        try:
            self._process = subprocess.Popen(
                [*command, engine, str(model.resolve()), str(core)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                cwd=root,
            )
        except OSError as error:
            raise WorkerError(str(error)) from error

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def introduced(self) -> tuple[str, np.ndarray]:
        """Its version, and the embedding (width,) of the first protein. Raises WorkerError."""
        told = json.loads(self._line())
        return told["version"], np.array(told["embedding"])

    def seconds(self) -> float:
        """Have it compute all proteins; returns its processor time. Raises WorkerError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._last_words()) from error
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise WorkerError(self._last_words())

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or [f"it ended with status {status} and no word"]
        return lines[-1]


def rows(work: Path, python: str | None) -> list[Row]:
    """The row; without a figure where `python` is None, cannot import esm_cpp, or this processor has no bfloat16."""
    try:
        return [_compared(work, python)]
    except WorkerError as failed:
        return [Row(WHAT, None, "x", GOAL, note=f"{python}: {failed}")]


def _compared(work: Path, python: str | None) -> Row:
    if python is None:
        return Row(WHAT, None, "x", GOAL, note=ABSENT)
    if not native_bfloat16():
        return Row(WHAT, None, "x", GOAL, note="this processor has no instructions for bfloat16")
    model, core = encoders.models(work, [SIZE])[SIZE], min(os.sched_getaffinity(0))
    ours = [sys.executable, "-m", esm_cpp_worker.__name__]
    theirs = [str(Path(python).absolute()), str(Path(esm_cpp_worker.__file__).resolve())]
    with ExitStack() as stack:
        sides = [
            stack.enter_context(Worker(command, engine, model, core))
            for command, engine in ((theirs, "esm_cpp"), (ours, "vpdist"))
        ]
        told = [side.introduced() for side in sides]
        seconds = [[side.seconds() for side in sides] for _ in range(1 + ROUNDS)][1:]
    return judged([version for version, _ in told], [embedding for _, embedding in told], seconds)


def judged(versions: Sequence[str], embeddings: Sequence[np.ndarray], seconds: Sequence[Sequence[float]]) -> Row:
    """The row of what esm.cpp and vpdist, in this order, told and took in every round."""
    a, b = embeddings
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    if cosine < LEAST_COSINE:
        return Row(WHAT, None, "x", GOAL, note=f"not the same model: an embedding's cosine is {cosine:.4f}")
    theirs, ours = (statistics.median(SEQUENCES * TOKENS / each[side] for each in seconds) for side in (0, 1))
    note = f"{ours:,.0f} tokens/s; esm.cpp {versions[0]}: {theirs:,.0f}; an embedding's cosine {cosine:.4f}"
    return Row(WHAT, ours / theirs, "x", GOAL, note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="a Python that has esm-cpp")
    parser.add_argument("--work", type=Path, default=Path("bench/encoders"))
    arguments = parser.parse_args()
    print(conditions(), flush=True)
    print(table(rows(arguments.work, arguments.python)))


if __name__ == "__main__":
    main()
