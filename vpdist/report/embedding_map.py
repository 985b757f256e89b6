"""A map of sequences by their embeddings: the first two principal components.

Enters: the parts of a run. Leaves: two numbers for each sequence that is shown and has an embedding. Each kind of
encoder has the same weight: its numbers are divided by their total standard deviation, as widths and ranges differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpdist.encoder_kinds import KINDS
from vpdist.errors import StorageError, UsageError
from vpdist.report.packed import SCALE, Column
from vpdist.results import embedded_run
from vpdist.results.embedded_run import EmbeddedRun
from vpdist.results.gathered import SEQUENCE, Gathered, gathered
from vpdist.storage.run_folder import RunFolder

MOST_POINTS = 20_000
MOST_FITTED = 4_000
"""Sequences that the components are made from; the others are projected."""
MOST_BYTES = 20 << 30
"""Of embeddings, in parts: reading more takes minutes."""


@dataclass(frozen=True, slots=True)
class Map:
    """Places of some sequences."""

    columns: dict[str, Column]
    """`mapi` (number of the sequence among those shown), `mapx`, `mapy` (0 to SCALE); empty where there is no map."""
    told: str
    """What it shows, or why there is none."""


def embedding_map(folder: RunFolder, record: np.ndarray, beside: Path) -> Map:
    """The map of the sequences with these record numbers (m,); `beside`: where a temporary file may lie.

    What cannot be read is told instead of drawn: a report is worth having without its map. Raises StorageError where
    the disk has no room.
    """
    try:
        run = embedded_run.finished_run(folder, KINDS)
    except (UsageError, StorageError) as reason:
        return Map({}, f"There is no map: {reason}")
    size = run.plan.n_rows * sum(run.widths) * run.dtype.itemsize
    if size > MOST_BYTES:
        return Map({}, f"There is no map: the run has {size / 1e9:.0f} GB of embeddings; `vpdist export` writes them.")
    with gathered(folder, run, SEQUENCE, beside) as rows:
        usable = np.flatnonzero(rows.n_embedded[record] > 0)
        if len(usable) < 3:
            return Map({}, "There is no map: fewer than three sequences have an embedding.")
        chosen = usable[np.unique(np.linspace(0, len(usable) - 1, MOST_POINTS).astype(int))]
        places, shares = _components(_weighted(rows, record[chosen]))
    columns: dict[str, Column] = {"mapi": chosen.astype(np.uint32)}
    columns |= {f"map{axis}": _scaled(places[:, k]) for k, axis in enumerate("xy")}
    return Map(columns, _told(run, len(chosen), len(usable), shares))


def _told(run: EmbeddedRun, drawn: int, of: int, shares: np.ndarray) -> str:
    some = f"{drawn:,} of {of:,} sequences, evenly spread" if drawn < of else f"{of:,} sequences"
    return (
        f"First two principal components of the mean embeddings ({' and '.join(run.kinds)}) of {some}; they hold "
        f"{100 * shares[0]:.0f} % and {100 * shares[1]:.0f} % of the variance."
    )


def _weighted(rows: Gathered, record: np.ndarray) -> np.ndarray:
    """(m, all widths) float32, every kind with a total variance of 1."""
    pieces = []
    for matrix in rows.embeddings.values():
        piece = np.asarray(matrix[record], np.float32)
        piece = piece - piece.mean(0)
        spread = float(np.sqrt(np.square(piece, dtype=np.float64).sum() / max(1, len(piece))))
        pieces.append(piece / np.float32(spread or 1.0))
    return np.concatenate(pieces, axis=1)


def _components(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m, 2) places and (2,) shares of the variance. The sign of a component is such that its largest number is
    positive: the same numbers give the same map."""
    fitted = matrix[np.unique(np.linspace(0, len(matrix) - 1, MOST_FITTED).astype(int))].astype(np.float64)
    fitted -= fitted.mean(0)
    if len(fitted) <= fitted.shape[1]:  # the smaller of both products has the same components
        values, vectors = np.linalg.eigh(fitted @ fitted.T)
        axes = fitted.T @ vectors[:, [-1, -2]]
    else:
        values, vectors = np.linalg.eigh(fitted.T @ fitted)
        axes = vectors[:, [-1, -2]]
    axes = axes / np.maximum(np.linalg.norm(axes, axis=0), np.finfo(float).tiny)
    axes *= np.where(axes[np.abs(axes).argmax(0), [0, 1]] < 0, -1, 1)
    total = float(values.clip(0).sum())
    return matrix @ axes.astype(np.float32), values[[-1, -2]].clip(0) / (total or 1.0)


def _scaled(values: np.ndarray) -> np.ndarray:
    """(m,) uint16, from the smallest to the largest."""
    least, most = float(values.min()), float(values.max())
    return np.rint((values - least) / ((most - least) or 1.0) * SCALE).astype(np.uint16)
