"""A finished run folder with made tables of any size, without parts: for what does not depend on how they came about."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vpdist.results import tables
from vpdist.sequences.six_frames import FRAMES, chunk_bounds

CHUNK_LENGTH = 500
DECISIONS = {
    "input": [["a.fa", 1, 1, "x"], ["b.fa", 1, 1, "y"]],
    "chunk_length": CHUNK_LENGTH,
    "min_length": 0,
    "nucleotide_model": "n",
    "protein_model": "p",
    "dtype": "float32",
    "embedding_dtype": "float32",
    "embeddings": True,
    "token_budget": 1024,
    "threads": 1,
    "device": "cpu",
    "classifier": "c",
}


def write_run(
    folder: Path, n: int, *, names: list[str] | None = None, further: dict[str, list[str]] | None = None, seed: int = 0
) -> Path:
    """A run of n sequences; `further`: columns at the end of sequences.tsv. Scores agree with each other as in a run."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    further = further or {}
    header = [*tables.COLUMNS["sequences"], *(name for name in further if name not in tables.COLUMNS["sequences"])]
    files = {name: ["\t".join(columns)] for name, columns in tables.COLUMNS.items()}
    files["sequences"] = ["\t".join(header)]
    for i in range(n):
        name = names[i] if names else f"NODE_{i + 1}_cov_{rng.integers(10, 999) / 10}"
        length = int(np.exp(rng.normal(7, 1))) + 3
        starts, ends = chunk_bounds(length, CHUNK_LENGTH)
        chunks = [
            _chunk(files, name, k, int(s), int(e), rng) for k, (s, e) in enumerate(zip(starts, ends, strict=True))
        ]
        scored = [chunk for chunk in chunks if chunk[0]]
        virus, nonvirus = (float(np.mean([chunk[side] for chunk in scored])) if scored else None for side in (1, 2))
        counts = (len(chunks), len(scored), sum(chunk[0] for chunk in chunks), sum(v >= w for _, v, w in scored))
        cells = (name, "ab"[i % 2] + ".fa", length, *counts, *_scores(virus, nonvirus))
        status = "ok" if scored else "no_open_frame"
        row = dict(zip(header, map(str, (*cells, status, f"sequence {i}")), strict=False))
        row |= {column: values[i] for column, values in further.items()}
        files["sequences"].append("\t".join(row.get(column, "NA") for column in header))
    for name, lines in files.items():
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    (folder / "run.json").write_text(json.dumps({"versions": {"vpdist": "0"}, "decisions": DECISIONS}))
    if "call" in further:
        (folder / "calibration.json").write_text("{}")
    (folder / "status.json").write_text(json.dumps({"state": "done", "exit_code": 0, "failing_rank": None}))
    return folder


def _chunk(
    files: dict[str, list[str]], name: str, k: int, start: int, end: int, rng: np.random.Generator
) -> tuple[int, float, float]:
    """Write a chunk and its fragments; returns how many those are, and its scores."""
    frames = np.flatnonzero(rng.random(6) < 0.2).tolist()
    virus = rng.beta(0.6, 0.9, len(frames)).tolist()
    for f, score in zip(frames, virus, strict=True):
        place = (f"{name}_chunk_{k + 1}{FRAMES[f]}", name, k + 1, start + 1, end, "+-"[f // 3], f % 3 + 1)
        files["fragments"].append("\t".join(map(str, (*place, *_scores(score, 1 - score)))))
    best = (max(virus), 1 - min(virus)) if frames else (None, None)
    cells = map(str, (name, k + 1, start + 1, end, len(frames), *_scores(*best)))
    row = dict(zip(tables.COLUMNS["chunks"], cells, strict=False))
    files["chunks"].append("\t".join(row.get(column, "NA") for column in tables.COLUMNS["chunks"]))
    return len(frames), best[0] or 0.0, best[1] or 0.0


def _scores(virus: float | None, nonvirus: float | None) -> tuple[str, str, str]:
    if virus is None or nonvirus is None:
        return ("NA", "NA", "NA")
    return (f"{virus:.6g}", f"{nonvirus:.6g}", "virus" if virus >= nonvirus else "non-virus")
