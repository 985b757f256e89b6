"""`python -m scripts.bench.progress_cost`: what counters, exchange, display and logs cost, as a share of a run.

Two measurements of real launches of `predict` on two ranks, whose terminal is a pseudo-terminal of 120 columns:
- by clocks: the run's own counter `progress_us` (processor time of the exchange's and the display's threads, time in
  `Progress.add` and in logging) over the processor time of all ranks beyond that of the same command on one short
  sequence, which has the imports and the start. All of the cost is counted, none of the start.
- by turns: processor time of `--progress bars` over `--progress none`, in pairs whose order alternates. It has what no
  clock of a thread sees, such as waiting for the interpreter's lock, but tells a half percent from noise only with
  many pairs on an idle machine, so it has no goal.
And for many ranks, which no small machine has, rank 0's time to make, record and draw snapshots that are made up, by
the clock of the thread that does it, over the time between them; the gather itself is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import resource
import statistics
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.first_sign import command, environment
from scripts.bench.goals import Row, conditions, printed, table
from scripts.bench.simulated_ranks import Simulated, interval_s
from scripts.bench.whole_runs import take_contigs
from scripts.demo import make_models, make_sample
from vpdist.display.progress_file import Recorder
from vpdist.display.terminal_bars import Bars

NUCLEOTIDE, PROTEIN = "12x768", "12x480"
FRAGMENTS, PAIRS, RANKS = 200, 3, 2
SIMULATED = (2, 16, 512, 1024)
STEPS = 40
MOST_PERCENT = 0.5
TERMINAL = (40, 120)
COMMAND_S = 3600.0


@dataclass(frozen=True, slots=True)
class Used:
    """Of one launch, over all of its processes."""

    cpu_s: float
    wall_s: float
    progress_s: float
    """That the ranks have counted; 0 where the run has no progress.jsonl."""


@contextmanager
def terminal() -> Iterator[int]:
    """The descriptor of a pseudo-terminal whose other side is read and thrown away."""
    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, TERMINAL)

    def drain() -> None:
        try:
            while os.read(outer, 1 << 16):
                pass
        except OSError:  # how Linux says that the inner side is closed
            return

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        yield inner
    finally:
        os.close(inner)
        reader.join()
        os.close(outer)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def launched(contigs: Path, run: Path, options: Sequence[str], mode: str) -> Used:
    """Run `predict`; raises RuntimeError unless it succeeds. No other child of this process may end meanwhile."""
    arguments = ("predict", str(contigs), "-o", str(run), "--nproc", str(RANKS), "--threads", "1", "--device", "cpu")
    whole = command(*arguments, "--restart", "--progress", mode, *options)
    before, started = _children_s(), time.perf_counter()
    with terminal() as stderr:
        variables = environment() | {"TERM": "xterm-256color"}
        ended = subprocess.run(
            whole, env=variables, stdout=subprocess.DEVNULL, stderr=stderr, timeout=COMMAND_S, check=False
        )
    cpu_s, wall_s = _children_s() - before, time.perf_counter() - started
    if ended.returncode != 0:
        raise RuntimeError(f"vpdist predict ended with {ended.returncode}; {run} has its log")
    recorded = (run / "progress.jsonl").read_text().splitlines()
    return Used(cpu_s, wall_s, json.loads(recorded[-1])["totals"]["progress_us"] / 1e6)


def real_rows(contigs: Path, options: Sequence[str], work: Path, pairs: int = PAIRS) -> Iterator[Row]:
    """By clocks and by turns; `options` name the models."""
    one = work / "one.fa"
    one.write_text(">made_up\n" + "ATGGCTTTGCCAAAGGGT" * 20 + "\n")
    start = launched(one, work / "start", options, "bars")
    compared: list[dict[str, Used]] = []
    for pair in range(pairs):
        order = ("bars", "none") if pair % 2 == 0 else ("none", "bars")
        compared.append({mode: launched(contigs, work / mode, options, mode) for mode in order})
    shares = [100 * each["bars"].progress_s / (each["bars"].cpu_s - start.cpu_s) for each in compared]
    seconds = statistics.median(each["bars"].cpu_s - start.cpu_s for each in compared)
    note = (
        f"median of {pairs}, {min(shares):.3f} to {max(shares):.3f}; {RANKS} ranks, {seconds:.1f} s of processor time"
    )
    what = "progress, by clocks, of the ranks' processor time"
    yield Row(what, statistics.median(shares), "%", at_most=MOST_PERCENT, note=note)
    for what, name in (("processor time", "cpu_s"), ("launch to end", "wall_s")):
        ratios = [getattr(each["bars"], name) / getattr(each["none"], name) for each in compared]
        note = f"median of {pairs} in turn, {min(ratios):.4f} to {max(ratios):.4f}"
        yield Row(f"--progress bars against none, {what}", statistics.median(ratios), "x", note=note)


def simulated_row(ranks: int, steps: int = STEPS) -> Row:
    """Rank 0's work for so many ranks, as a share of a core."""
    simulated, spent_s = Simulated(ranks), 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        terminal() as descriptor,
        open(descriptor, "w", encoding="utf-8", closefd=False) as stream,
    ):
        recorder, bars = Recorder(Path(folder) / "progress.jsonl"), Bars(stream)
        ticks = int(interval_s(ranks) / bars.period_s)
        for step in range(steps + 2):
            vectors = simulated.advance()
            began_s = time.thread_time()
            snapshot = simulated.step(vectors)
            recorder.record(snapshot)
            bars.show(snapshot)
            for tick in range(1, ticks + 1):
                bars.tick(snapshot.time + tick * bars.period_s)
            spent_s += time.thread_time() - began_s if step >= 2 else 0.0  # the first ones draw everything anew
        bars.close()
        recorder.close()
    share = 100 * spent_s / steps / interval_s(ranks)
    note = f"{1000 * spent_s / steps:.1f} ms each {interval_s(ranks):.3g} s"
    what = f"snapshots of {ranks:,} ranks (simulated), made, recorded and drawn, of a core of rank 0"
    return Row(what, share, "%", at_most=MOST_PERCENT, note=note)


def rows(
    work: Path, *, fragments: int = FRAGMENTS, pairs: int = PAIRS, nucleotide: str = NUCLEOTIDE, protein: str = PROTEIN
) -> Iterator[Row]:
    """All figures; sample and models are made in `work` if they are missing."""
    models, sample = work / "models", work / "sample"
    if not (models / "esm-2" / "config.json").exists():
        make_models.main(models, nucleotide=nucleotide, protein=protein)
    if not (sample / "sample.fa.gz").exists():
        make_sample.main(sample)
    classifier = make_models.make_classifier(work / "classifier.safetensors", models, hidden=512)
    contigs = take_contigs([sample / "sample.fa.gz"], work / "cost-contigs.fa", fragments)
    with tempfile.TemporaryDirectory(dir=work) as runs:
        yield from real_rows(contigs, make_models.model_options(models, classifier), Path(runs), pairs)
    for ranks in SIMULATED:
        yield simulated_row(ranks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fragments", type=int, default=FRAGMENTS)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--work", type=Path, default=Path("bench"), help="folder for sample, models and runs")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    print(conditions(), flush=True)
    print(table(printed(rows(arguments.work, fragments=arguments.fragments, pairs=arguments.pairs))))


if __name__ == "__main__":
    main()
