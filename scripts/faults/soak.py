"""A long run, watched: memory, files and descriptors stay flat, and the rate at the end is that of the beginning.

    python -m scripts.faults.soak --work soak [--fragments 1000000] [--minutes 30] [--ranks 2] [--nucleotide 2x96]
        [--protein 4x128]

Makes random coding reads and small random encoders, runs `predict` on them, and stops it with SIGTERM when it has
embedded for that long; it need not be done by then. Ends with 1 where a goal is missed.
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
import torch

from scripts.bench.goals import Row, conditions, table
from scripts.demo.make_models import layers_and_width, make_dnabert_s, make_esm2
from scripts.faults.launched_runs import Job, Launch, standalone
from vpdist.encoders.shape import encoder_shape
from vpdist.monitoring.counters import Snapshot
from vpdist.results.classifier import Classifier, save_classifier

READ_BASES = 150
FRAGMENTS_PER_READ = 1.4
"""A coding read has its own frame open, and now and then another one by chance."""
SECONDS_BETWEEN = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The processes and the folder of a run at one moment."""

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


def sample(launch: Launch) -> Sample | None:
    """The present state, None while ranks come and go."""
    try:
        ranks = [psutil.Process(pid) for pid in launch.ranks().values()]
        return Sample(
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
    lines = path.read_text().splitlines() if path.exists() else []
    snapshots = [Snapshot.from_json(line) for line in lines]
    return [
        (snapshot.time, sum(row.tokens for row in snapshot.rows))
        for snapshot in snapshots
        if all(row.stage == "embed" and row.state == "running" for row in snapshot.rows)
    ]


def long_enough(samples: list[Sample], minutes: float) -> bool:
    """Whether the run has been watched for as long as was asked."""
    return samples[-1].time - samples[0].time > 60 * minutes


def watch(job: Job, folder: Path, ranks: int, minutes: float) -> list[Sample]:
    """Run the job and sample it while all ranks embed; stop it after so many minutes of that."""
    samples: list[Sample] = []
    stopped = False
    with Launch(job, folder, standalone(ranks)) as launch:
        while launch.agent.poll() is None:
            if len(list((folder / "at_work").glob("rank*"))) == ranks:
                if (found := sample(launch)) is not None:
                    samples.append(found)
            elif samples:
                break  # a rank is done: from here on there is less of everything
            if samples and long_enough(samples, minutes):
                launch.signal(launch.agent.pid, signal.SIGTERM)
                stopped = True
                break
            time.sleep(SECONDS_BETWEEN)
        launch.end(3600)
        if launch.agent.returncode and not (stopped and "stopped by SIGTERM" in launch.told()):
            raise RuntimeError(launch.told())
    return samples


def rate(progress: list[tuple[float, int]], begin: float, end: float) -> float:
    """Tokens per second between two moments."""
    within = [(when, tokens) for when, tokens in progress if begin <= when <= end]
    if not within or within[-1][0] == within[0][0]:
        return float("nan")
    return (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])


def judge(samples: list[Sample], progress: list[tuple[float, int]]) -> list[Row]:
    """Figures of the last tenth beside those of the first (rate) or second (the rest: by then everything is loaded)."""
    begin, end = samples[0].time, samples[-1].time
    tenth = (end - begin) / 10

    def usual(name: str, number: int) -> float:
        """Median, since a part that is just being written is an open file more."""
        first = begin + (number - 1) * tenth
        return float(np.median([getattr(each, name) for each in samples if first <= each.time <= first + tenth]))

    rows = [Row("embedding watched", end - begin, "s"), Row("tokens", progress[-1][1], "")]
    first, last = rate(progress, begin, begin + tenth), rate(progress, end - tenth, end)
    rows.append(Row("tokens/s, first tenth", first, ""))
    ratio = last / first if first else float("nan")  # nothing was done at first
    rows.append(Row("tokens/s, last tenth / first", ratio, "", at_least=0.95, at_most=1.05))
    rows.append(Row("memory, second tenth", usual("memory_bytes", 2) / 2**20, "MiB"))
    for name, at_most in (("memory_bytes", 1.05), ("descriptors", 1.0), ("threads", 1.0), ("files", 1.0)):
        ratio = usual(name, 10) / usual(name, 2)
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
    nucleotide, protein = work / "models" / "dnabert-s", work / "models" / "esm-2"
    make_dnabert_s(nucleotide, *layers_and_width(arguments.nucleotide), 0, safetensors=True)
    make_esm2(protein, *layers_and_width(arguments.protein), 1)
    torch.manual_seed(0)
    width = sum(encoder_shape(folder).width for folder in (nucleotide, protein))
    save_classifier(Classifier(width, 16).eval(), work / "classifier.safetensors", {"chunk_length": "500"})
    options = ("--threads", "1", "--dtype", "float32", "--progress", "none")
    job = Job(reads, nucleotide, protein, work / "classifier.safetensors", options)
    samples = watch(job, work / "run", arguments.ranks, arguments.minutes)
    rows = judge(samples, embedding(work / "run"))
    print(f"{table(rows)}\n\n{conditions()}")
    sys.exit(1 if any(row.verdict == "missed" for row in rows) else 0)


if __name__ == "__main__":
    main()
