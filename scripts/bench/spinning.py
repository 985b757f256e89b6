"""`python -m scripts.bench.spinning CONTIGS --models MODELS --classifier C`: what threads cost that wait.

A thread of OpenMP that waits for the others spins first, so that it goes on without delay. Beside other programs it
takes the time that the others need. Every way to use the cores embeds the same contigs, alone and beside one busy
process per core: one thread, one thread per core with several bounds for spinning, one rank of one thread per core.
A default must not be slower than one thread beside other work, and lose nothing alone; a goal is printed for both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scripts.bench.goals import Row, conditions, table
from scripts.faults.launched_runs import Job

BUSY = "while True: pass"
LOSS_ALLOWED = 1.03
"""Of the time beside other work, over that of one thread; of the time alone, over the fastest way."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to use the cores."""

    name: str
    options: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


def ways(cores: int) -> list[Way]:
    """All that are compared; the first one is one thread, the second one what there is."""
    threads = ("--threads", str(cores), "--nproc", "1")
    bounds = [300, 1_000, 30_000]
    return [
        Way("one thread", ("--threads", "1", "--nproc", "1")),
        Way("threads", threads),
        Way("threads, OMP_WAIT_POLICY=passive", threads, {"OMP_WAIT_POLICY": "passive"}),
        *(Way(f"threads, GOMP_SPINCOUNT={n}", threads, {"GOMP_SPINCOUNT": str(n)}) for n in bounds),
        Way("ranks of one thread", ("--threads", "1", "--nproc", str(cores))),
    ]


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Meanwhile so many processes compute without pause."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def embed_s(job: Job, way: Way, folder: Path) -> float:
    """Seconds of the stage that embeds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, *job.arguments(folder), *way.options]
    ended = subprocess.run(command, env=kept | dict(way.variables), stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{way.name} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return float(json.loads((folder / "run.json").read_text())["stage_seconds"]["embed"])


def measure(job: Job, repeats: int, work: Path) -> dict[tuple[str, str], float]:
    """Median seconds of each way, alone and busy; the ways take turns, so that a change of the machine meets all."""
    cores = len(os.sched_getaffinity(0))
    seconds: dict[tuple[str, str], list[float]] = {}
    for state, n_busy in (("alone", 0), ("busy", cores)):
        with busy_processes(n_busy):
            for turn in range(repeats):
                for number, way in enumerate(ways(cores)):
                    taken = embed_s(job, way, work / f"{state}-{turn}-{number}")
                    seconds.setdefault((way.name, state), []).append(taken)
    return {key: statistics.median(values) for key, values in seconds.items()}


def rows(seconds: Mapping[tuple[str, str], float]) -> Sequence[Row]:
    """The table: alone against the fastest way, busy against one thread."""
    names = list(dict.fromkeys(name for name, _ in seconds))
    fastest, one_thread = min(seconds[name, "alone"] for name in names), seconds[names[0], "busy"]
    found = []
    for name in names:
        for state, reference in (("alone", fastest), ("busy", one_thread)):
            value = seconds[name, state]
            relation = f"{value:.1f} s alone" if state == "alone" else f"{value:.1f} s beside busy processes"
            what = f"{name}, {state}, over {'the fastest' if state == 'alone' else 'one thread'}"
            found.append(Row(what, value / reference, "", at_most=LOSS_ALLOWED, note=relation))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contigs", type=Path)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    job = Job.of(arguments.contigs, arguments.models, arguments.classifier, "--progress", "none")
    with tempfile.TemporaryDirectory() as work:
        print(table(rows(measure(job, arguments.repeats, Path(work)))))
    print(conditions())


if __name__ == "__main__":
    main()
