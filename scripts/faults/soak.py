"""`python -m scripts.faults.soak --work soak [--fragments 1000000] [--minutes 30] [--ranks 2]`: observe a long run.

Memory, files and descriptors must stay flat, and the rate at the end must be that of the beginning. Makes random coding
reads and small random encoders, runs `predict` on them, and stops it with SIGTERM after so many minutes of embedding,
done or not. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from scripts.bench.goals import Row, conditions, table
from scripts.demo.make_models import layers_and_width, make_classifier, make_dnabert_s, make_esm2
from scripts.faults.launched_runs import Job, Launch, standalone
from vpdist.display.progress_lines import read_file

READ_BASES = 150
FRAGMENTS_PER_READ = 1.4
"""A coding read has its own frame open, and now and then another one by chance."""
SECONDS_BETWEEN = 1.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """Resources that the processes and the folder of a run use at one moment."""

    time: float
    memory_bytes: int
    """Resident, all ranks."""
    descriptors: int
    threads: int
    files: int
    """In the run folder, without the parts."""


def write_reads(path: Path, n_reads: int, seed: int = 0) -> Path:
    """Random codons without stops."""
    rng = np.random.default_rng(seed)
    codons = ["".join(triple) for triple in itertools.product("TCAG", repeat=3)]
    letters = np.array([codon for codon in codons if codon not in ("TAA", "TAG", "TGA")], dtype="S3")
    with open(path, "wb") as file:
        for first in range(0, n_reads, 10_000):
            drawn = rng.choice(letters, (min(10_000, n_reads - first), READ_BASES // 3))
            for number, row in enumerate(drawn, first):
                file.write(b">read%d\n%s\n" % (number, row.tobytes()))
    return path


def measure(launch: Launch) -> Measurement | None:
    """The present use, or None while ranks start and end."""
    try:
        ranks = [psutil.Process(pid) for pid in launch.ranks().values()]
        return Measurement(
            time.time(),
            sum(rank.memory_info().rss for rank in ranks),
            sum(rank.num_fds() for rank in ranks),
            sum(rank.num_threads() for rank in ranks),
            sum(1 for path in launch.output.rglob("*") if path.parent.name != "parts" or path.name.startswith(".")),
        )
    except (psutil.NoSuchProcess, FileNotFoundError):
        return None


def embedding(folder: Path) -> list[tuple[float, int]]:
    """(time, tokens done) of every snapshot of the stage that embeds."""
    path = folder / "progress.jsonl"
    snapshots = read_file(path) if path.exists() else ()
    return [
        (snapshot.time, sum(row.tokens for row in snapshot.rows))
        for snapshot in snapshots
        if all(row.stage == "embed" and row.state == "running" for row in snapshot.rows)
    ]


def long_enough(measurements: list[Measurement], minutes: float) -> bool:
    """Whether measurements span more than `minutes`."""
    return measurements[-1].time - measurements[0].time > 60 * minutes


def watch(job: Job, folder: Path, ranks: int, minutes: float) -> list[Measurement]:
    """Run the job and measure it while all ranks embed; stop it after so many minutes."""
    measurements: list[Measurement] = []
    stopped = False
    with Launch(job, folder, standalone(ranks)) as launch:
        while launch.agent.poll() is None:
            if len(list((folder / "at_work").glob("rank*"))) == ranks:
                if (measurement := measure(launch)) is not None:
                    measurements.append(measurement)
            elif measurements:
                break  # a rank is done, and uses less from now on
            if measurements and long_enough(measurements, minutes):
                launch.signal(launch.agent.pid, signal.SIGTERM)
                stopped = True
                break
            time.sleep(SECONDS_BETWEEN)
        launch.end(3600)
        if launch.agent.returncode and not (stopped and "stopped by SIGTERM" in launch.console_text()):
            raise RuntimeError(launch.console_text())
    return measurements


def rate(progress: list[tuple[float, int]], begin: float, end: float) -> float:
    """Tokens per second between two moments."""
    within = [(when, tokens) for when, tokens in progress if begin <= when <= end]
    if not within or within[-1][0] == within[0][0]:
        return float("nan")
    return (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])


def judge(measurements: list[Measurement], progress: list[tuple[float, int]]) -> list[Row]:
    """Compare the last tenth of the run with the first (rate) or the second (the rest, when everything is loaded)."""
    begin, end = measurements[0].time, measurements[-1].time
    tenth = (end - begin) / 10

    def median(name: str, number: int) -> float:
        """Of one tenth; the median ignores a file that is open for a moment."""
        first = begin + (number - 1) * tenth
        return float(np.median([getattr(each, name) for each in measurements if first <= each.time <= first + tenth]))

    rows = [Row("embedding watched", end - begin, "s"), Row("tokens", progress[-1][1], "")]
    first, last = rate(progress, begin, begin + tenth), rate(progress, end - tenth, end)
    rows.append(Row("tokens/s, first tenth", first, ""))
    ratio = last / first if first else float("nan")
    rows.append(Row("tokens/s, last tenth / first", ratio, "", at_least=0.95, at_most=1.05))
    rows.append(Row("memory, second tenth", median("memory_bytes", 2) / 2**20, "MiB"))
    for name, at_most in (("memory_bytes", 1.05), ("descriptors", 1.0), ("threads", 1.0), ("files", 1.0)):
        ratio = median(name, 10) / median(name, 2)
        rows.append(Row(f"{name.removesuffix('_bytes')}, last tenth / second", ratio, "", at_most=at_most))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--fragments", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--nucleotide", default="2x96", help="LAYERSxWIDTH")
    parser.add_argument("--protein", default="4x128", help="LAYERSxWIDTH")
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True)
    reads = write_reads(work / "reads.fa", max(1, round(arguments.fragments / FRAGMENTS_PER_READ)))
    models = work / "models"
    make_dnabert_s(models / "dnabert-s", *layers_and_width(arguments.nucleotide), 0, safetensors=True)
    make_esm2(models / "esm-2", *layers_and_width(arguments.protein), 1)
    classifier = make_classifier(work / "classifier.safetensors", models, hidden=16)
    job = Job.of(reads, models, classifier, "--threads", "1", "--dtype", "float32", "--progress", "none")
    measurements = watch(job, work / "run", arguments.ranks, arguments.minutes)
    rows = judge(measurements, embedding(work / "run"))
    print(f"{table(rows)}\n\n{conditions()}")
    sys.exit(1 if any(row.verdict == "missed" for row in rows) else 0)


if __name__ == "__main__":
    main()
