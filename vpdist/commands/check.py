"""`vpdist check`: whether a model gives on this machine the scores that it gave when it was made.

Enters: a model with golden scores. Leaves: nothing; `predict` runs in a temporary folder, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
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
        rows, _ = _scores(request, synthetic_sequences())
        try:
            path.parent.mkdir(exist_ok=True)  # of the presets' tables
        except OSError as error:
            raise storage_error(path, error) from error
        write_golden(path, rows)
        return f"{path}: written, {len(rows)} sequences"
    if not path.exists():
        raise UsageError(f"{request.model}: has no golden scores ({path}); `vpdist check --write` makes them")
    golden = read_golden(path)
    found, dtype = _scores(request, {row.name: row.sequence for row in golden})
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


def _scores(request: CheckRequest, sequences: dict[str, str]) -> tuple[list[Golden], str]:
    """The scores of `sequences` and the number format of the encoders. Raises VpdistError with the exit code of
    `predict`."""
    with tempfile.TemporaryDirectory(prefix="vpdist-check-") as work:
        fasta, run = Path(work, "golden.fa"), RunFolder(Path(work, "run"))
        write_file(fasta, "".join(f">{name}\n{text}\n" for name, text in sequences.items()).encode())
        command = [sys.executable, "-m", "vpdist", "predict", str(fasta), "-o", str(run.path), "--model", request.model]
        command += ["--dtype", request.dtype, "--device", request.device, "--nproc", "1", "--progress", "none"]
        command += ["--no-embeddings", "--allow-short", *["--offline"] * request.offline]
        command += [] if request.threads is None else ["--threads", str(request.threads)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if ended.returncode:
            raise _ended_with(ended.returncode, ended.stderr)
        found = _golden(run.path, sequences)
        dtype = ((read_json(run.run) or {}).get("decisions") or {}).get("dtype")
    return found, str(dtype)


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
    last = told.strip().splitlines()[-1:] or ["no message"]
    error = VpdistError(f"vpdist predict ended with {code}: {last[0]}")
    error.exit_code = code if code > 0 else 128 - code
    return error
