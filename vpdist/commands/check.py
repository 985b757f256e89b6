"""Whether a model gives on this machine the scores that it gave when it was made, for `vpdist check`.

Enters: a model with golden scores. Leaves: nothing; `predict` runs in a temporary folder, in a process of its own.
check_installation.py has what `vpdist check` tries beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpdist.errors import UsageError, VpdistError, WeightsError
from vpdist.models.find import find_model
from vpdist.models.golden_scores import (
    TOLERANCE,
    Golden,
    differences,
    golden_path,
    read_golden,
    synthetic_sequences,
    write_golden,
)
from vpdist.results.table_files import NA, opened_table
from vpdist.storage.atomic_files import read_json, storage_error, write_file
from vpdist.storage.downloads import SILENT, Listener
from vpdist.storage.run_folder import RunFolder

MOST_LINES = 10
LOOK_S = 0.1
"""Between two looks at a `predict` that is watched."""
VPDIST = (sys.executable, "-m", "vpdist")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """What `vpdist check` takes."""

    model: str
    dtype: str
    device: str
    threads: int | None
    offline: bool
    write: bool


def check(request: CheckRequest, listener: Listener = SILENT) -> str:
    """Compare the model's scores with its golden ones, or with `write` make these; returns the line for the user.

    Raises WeightsError where they differ, with the sequences that do; UsageError where there are none; what `predict`
    ends with.
    """
    bundle = find_model(request.model, offline=request.offline, listener=listener)
    path = golden_path(bundle, request.model)
    if request.write:
        if request.dtype != "float32":
            raise UsageError(f"--write: golden scores are computed in float32, not in {request.dtype}")
        rows, _ = predicted(request, synthetic_sequences())
        try:
            path.parent.mkdir(exist_ok=True)  # of the presets' tables
        except OSError as error:
            raise storage_error(path, error) from error
        write_golden(path, rows)
        return f"{path}: written, {len(rows)} sequences"
    if not path.exists():
        raise UsageError(f"{request.model}: has no golden scores ({path}); `vpdist check --write` makes them")
    return compare(request, path)


def compare(
    request: CheckRequest,
    path: Path,
    *,
    ranks: int = 1,
    launcher: Sequence[str] = VPDIST,
    folder: Path | None = None,
    watch: Callable[[int], None] | None = None,
) -> str:
    """Compare the scores of `predict` with the golden ones in `path`; the line for the user.

    Args:
        request: the model, and how to compute.
        path: a file of golden scores.
        ranks: how many the command itself starts; under another `launcher`, that does.
        launcher: what comes before `predict`.
        folder: where the run folder is made for the time being; the system's folder for temporary files by default.
        watch: called with the process's id every LOOK_S seconds while it runs.

    Raises WeightsError where they differ, with the sequences that do; what `predict` ends with.
    """
    golden = read_golden(path)
    sequences = {row.name: row.sequence for row in golden}
    found, dtype = predicted(request, sequences, ranks=ranks, launcher=launcher, folder=folder, watch=watch)
    tolerance = TOLERANCE[dtype]
    largest, lines = differences(golden, found, tolerance)
    if lines:
        left = [f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
        raise WeightsError(
            f"{request.model}: gives other scores than the golden ones in {path} (by over {tolerance:g}, {dtype}):\n"
            + "\n".join(lines[:MOST_LINES] + left)
        )
    return (
        f"{request.model}: {len(golden)} sequences have their golden scores; largest difference {largest:.1e} "
        f"(at most {tolerance:g} in {dtype})"
    )


def predicted(
    request: CheckRequest,
    sequences: dict[str, str],
    *,
    ranks: int = 1,
    launcher: Sequence[str] = VPDIST,
    folder: Path | None = None,
    watch: Callable[[int], None] | None = None,
) -> tuple[list[Golden], str]:
    """The scores of `sequences` and the number format of the encoders; arguments as of `compare`. Raises VpdistError
    with the exit code of `predict`, and StorageError where `folder` cannot be written."""
    try:
        work = tempfile.TemporaryDirectory(prefix="vpdist-check-", dir=folder)
    except OSError as error:
        raise storage_error(folder or Path(tempfile.gettempdir()), error) from error
    with work as name:
        fasta, run = Path(name, "golden.fa"), RunFolder(Path(name, "run"))
        write_file(fasta, "".join(f">{name}\n{text}\n" for name, text in sequences.items()).encode())
        command = [*launcher, "predict", str(fasta), "-o", str(run.path), "--model", request.model]
        command += ["--dtype", request.dtype, "--device", request.device, "--progress", "none"]
        command += ["--no-embeddings", "--allow-short", *["--offline"] * request.offline]
        command += ["--nproc", str(ranks)] if launcher == VPDIST else []
        command += [] if request.threads is None else ["--threads", str(request.threads)]
        code, told = _ended(command, watch)
        if code:
            recorded = (read_json(run.status) or {}).get("exit_code")  # a launcher's own code says less
            raise _ended_with(recorded if isinstance(recorded, int) and recorded else code, told)
        found = _golden(run.path, sequences)
        record = read_json(run.run) or {}
    return found, str((record.get("decisions") or {}).get("dtype"))


def _ended(command: Sequence[str], watch: Callable[[int], None] | None) -> tuple[int, str]:
    """The code with which a command has ended, and what it told on standard error."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            while True:
                try:
                    _, told = process.communicate(timeout=None if watch is None else LOOK_S)
                    return process.returncode, told
                except subprocess.TimeoutExpired:
                    if watch is not None:
                        watch(process.pid)
        except BaseException:
            process.terminate()  # it ends its ranks
            raise


def _golden(run: Path, sequences: dict[str, str]) -> list[Golden]:
    """The rows of sequences.tsv. Raises StorageError."""
    with opened_table(run, "sequences") as table:
        name, chunks, *scores = table.positions("seq_name", "n_scored_chunks", "virus_score", "nonvirus_score")
        return [
            Golden(
                row[name],
                sequence,
                int(row[chunks]),
                *(float("nan") if row[at] == NA else float(row[at]) for at in scores),
            )
            for row, sequence in zip(table, sequences.values(), strict=True)
        ]


def _ended_with(code: int, told: str) -> VpdistError:
    """The error of a `predict` that ended with another code than 0."""
    lines = told.strip().splitlines() or ["no message"]
    said = [line for line in lines if "vpdist: " in line] or lines  # torchrun's agent tells of its workers after it
    error = VpdistError(f"vpdist predict ended with {code}: {said[-1]}")
    error.exit_code = code if code > 0 else 128 - code
    return error
