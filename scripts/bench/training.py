"""`python -m scripts.bench.training`: time and memory of a fit on 1 and 2 ranks, for embeddings of any size.

    python -m scripts.bench.training --rows 200000 --width 750 --batch-size 1024

Rows are random numbers in float16; what is timed are whole epochs, validation and the state on disk included. Told is
also how long it takes to find the groups of random sequences.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

from vpdist.distributed import runtime
from vpdist.distributed.sums import Sums
from vpdist.environment import launch_context
from vpdist.session.coordination import Control
from vpdist.session.signals import StopRequest
from vpdist.train_settings import LabelledFile, TrainSettings
from vpdist.training.fit import Examples, Fit
from vpdist.training.groups import find_groups
from vpdist.training.labelled import Labelled, read_labelled
from vpdist.training.rows import Rows

PIECE = 1 << 16
app = typer.Typer(add_completion=False)


def write_matrix(path: Path, rows: int, width: int) -> None:
    """Random numbers in float16, in the format .npy."""
    rng = np.random.default_rng(0)
    matrix = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    for start in range(0, rows, PIECE):
        matrix[start : start + PIECE] = rng.standard_normal(matrix[start : start + PIECE].shape, np.float32)
    matrix.flush()


def worker(folder: Path, settings: TrainSettings) -> None:
    """One rank: fit, and rank 0 prints seconds of each epoch and memory as JSON."""
    control = Control(runtime.start(launch_context()), StopRequest(on_second_signal=lambda stopped: stopped.exit_code))
    matrix = np.load(folder / "rows.npy", mmap_mode="r")
    virus = np.arange(len(matrix)) % 2 == 0
    cut = len(matrix) * 9 // 10
    rows = np.arange(len(matrix))
    sides = Examples(rows[:cut], virus[:cut]), Examples(rows[cut:], virus[cut:])
    sums = Sums(control.runtime, 600.0, control.raise_if_ending)
    state = folder / f"ranks-{control.runtime.world_size}" / "fit" / "state.safetensors"
    fit = Fit(control, sums, Rows(matrix, (matrix.shape[1],)), *sides, settings, state, "k")
    started = time.perf_counter()
    fit.run()
    if control.is_first:
        memory = psutil.Process().memory_info()
        own = (memory.rss - memory.shared) / 2**20
        print(json.dumps({"epoch_s": (time.perf_counter() - started) / settings.epochs, "own_mib": own}), flush=True)
    control.barrier("done")
    runtime.stop()


def groups_seconds(folder: Path, bases: int) -> float:
    """Seconds to read `bases` random bases in sequences of 3,000 and to find their groups."""
    rng = np.random.default_rng(1)
    paths = []
    for name in ("virus", "other"):
        path = folder / f"{name}.fa"
        with path.open("w") as file:
            for number in range(bases // 6000):
                letters = rng.choice(np.frombuffer(b"ACGT", np.uint8), 3000).tobytes().decode()
                file.write(f">{name}_{number}\n{letters}\n")
        paths.append(LabelledFile(str(path), name == "virus", name))
    labelled = Labelled(folder / "model", tuple(paths))
    started = time.perf_counter()
    find_groups(labelled, read_labelled(labelled))
    return time.perf_counter() - started


@app.command()
def main(
    rows: Annotated[int, typer.Option(help="Fragments.")] = 50_000,
    width: Annotated[int, typer.Option(help="Numbers of an embedding, both encoders.")] = 750,
    batch_size: Annotated[int, typer.Option(help="As in vpdist train.")] = 1024,
    epochs: Annotated[int, typer.Option(help="Timed together.")] = 3,
    bases: Annotated[int, typer.Option(help="Bases whose groups are found.")] = 6_000_000,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time fits on 1 and 2 ranks."""
    settings = TrainSettings(epochs=epochs, patience=epochs, batch_size=batch_size, optimizer="adamw")
    if folder is not None:
        worker(folder, settings)
        return
    with tempfile.TemporaryDirectory() as temporary:
        write_matrix(Path(temporary) / "rows.npy", rows, width)
        for ranks in (1, 2):
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--no-python"]
            options = ["--batch-size", str(batch_size), "--epochs", str(epochs), "--folder", temporary]
            command = [sys.executable, *launcher, sys.executable, "-m", "scripts.bench.training", *options]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(told.splitlines()[-1])
            operations = 4 * rows * 0.9 * width * settings.hidden / found["epoch_s"] / 1e9
            print(
                f"{ranks} rank(s): {found['epoch_s']:.2f} s an epoch of {rows:,} x {width}, batches of {batch_size:,}; "
                f"{operations:.0f} GFLOP/s in the first layer, {found['own_mib']:.0f} MiB of its own on rank 0"
            )
        print(f"groups of {bases:,} bases: {groups_seconds(Path(temporary), bases):.1f} s")


if __name__ == "__main__":
    app()
