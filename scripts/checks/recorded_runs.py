"""Recordings of real runs for `scripts.checks.time_left`: both schedules, even ranks and one that is slow.

Each is a launch of `predict` on two ranks with small random encoders. The slow rank is stopped and continued all the
time from the moment on at which the run tells its process, so it has a bit more than half of its pace.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from scripts.bench.first_sign import command, environment
from scripts.demo import make_models, make_sample
from vpdist.display.progress_lines import read_file

CASES = tuple((schedule, slow) for schedule in ("static", "dynamic") for slow in (False, True))
SEED = 1117
"""Of the sample; not the demo's, on whose runs the display was tuned."""
STOPPED_S, RUNNING_S = 0.12, 0.15
SLOW_RANK = 1
COMMAND_S = 7200.0


def name_of(schedule: str, slow: bool) -> str:
    return f"{schedule}, {'one slow rank' if slow else 'even ranks'}"


def record(
    out: Path, *, seed: int = SEED, contigs: int = 1000, cases: Sequence[tuple[str, bool]] = CASES
) -> Iterator[tuple[str, Path]]:
    """The name and the folder of each run, as soon as it has ended. What is there under `out` is replaced.

    Raises RuntimeError where a run fails, or where the slow rank was never stopped.
    """
    out.mkdir(parents=True, exist_ok=True)
    make_sample.main(out / "sample", seed=seed, training=contigs // 2, contigs=contigs, reads=2 * contigs)
    make_models.main(out / "models")
    classifier = make_models.make_classifier(out / "classifier.safetensors", out / "models", hidden=64)
    inputs = [str(out / "sample" / name) for name in ("virus.fa", "other.fa", "sample.fa.gz")]
    fixed = ["--nproc", "2", "--threads", "1", "--device", "cpu", "--dtype", "float32"]
    fixed += ["--restart", "--progress", "log"]
    models = make_models.model_options(out / "models", classifier)
    for schedule, slow in cases:
        run = out / f"{schedule}-{'slow' if slow else 'even'}"
        launch(command("predict", *inputs, "-o", str(run), "--schedule", schedule, *fixed, *models), run, slow=slow)
        yield name_of(schedule, slow), run


def launch(whole: Sequence[str], run: Path, *, slow: bool) -> int:
    """Run a command to its end; returns how often the slow rank was stopped. Raises RuntimeError."""
    (run / "progress.jsonl").unlink(missing_ok=True)  # of an earlier recording, whose processes are others
    log, stops = run.with_suffix(".log"), 0
    with open(log, "wb") as output:
        process = subprocess.Popen(whole, env=environment(), stdout=output, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + COMMAND_S
        rank: psutil.Process | None = None
        while process.poll() is None:
            if time.monotonic() > until:
                raise RuntimeError(f"the run did not end within {COMMAND_S:.0f} s, see {log}")
            rank = rank or (_rank_of(run, process.pid) if slow else None)
            if rank is None:
                time.sleep(0.1)
                continue
            stops += _stopped_for_a_while(rank)
            time.sleep(RUNNING_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0 or (slow and stops == 0):
        raise RuntimeError(
            f"the run ended with {process.returncode}, the slow rank was stopped {stops} times, see {log}"
        )
    return stops


def _stopped_for_a_while(rank: psutil.Process) -> bool:
    """Stop the process and let it go on; False where it has ended."""
    try:
        rank.suspend()
        try:
            time.sleep(STOPPED_S)
        finally:
            rank.resume()
    except psutil.NoSuchProcess:  # it was about to end
        return False
    return True


def _rank_of(run: Path, launcher: int) -> psutil.Process | None:
    """The process of the slow rank: told by the run, and one of the launcher's; None while that is not known."""
    try:
        told = {snapshot.facts[SLOW_RANK].pid for snapshot in read_file(run / "progress.jsonl") if snapshot.facts}
        ranks = psutil.Process(launcher).children(recursive=True)
    except (OSError, psutil.NoSuchProcess):
        return None
    return next((process for process in ranks if process.pid in told), None)
