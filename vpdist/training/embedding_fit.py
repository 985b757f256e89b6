"""The summary of a training side's embeddings, fitted: mean, directions, variances, and a threshold by length.

Enters: embeddings of the training side, and of groups that were kept apart from it. Leaves: what a model keeps, by
which rows unlike all of these are told (results.embedding_summary).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch

from vpdist.results.embedding_summary import EmbeddingSummary
from vpdist.results.row_lengths import class_of_bases
from vpdist.training.judge import LENGTHS

MOST_ROWS = 8192
"""Rows of the training side from which it is fitted, drawn at random."""
DIRECTIONS = 64
"""At most; all other directions share one variance."""
QUANTILE = 0.99
"""Share of what was kept apart that is nearer than the threshold."""
LEAST = 200
"""Rows of a length class that were kept apart: fewer do not tell a quantile of 0.99, and the class has no threshold."""
CONSTANT = 1e-6
"""Standard deviations below this are those of a number that does not vary; it is divided by 1."""
AT_ONCE = 4096

Embedded = tuple[np.ndarray, ...]
"""Embeddings (m, d), an array by encoder."""


def draw(rows: np.ndarray, seed: int, most: int = MOST_ROWS) -> np.ndarray:
    """(m,) some of the rows, ascending, each once."""
    different = np.unique(rows)
    if len(different) <= most:
        return different
    return np.sort(np.random.default_rng(seed).choice(different, most, replace=False))


def summarise(embedded: Embedded, kinds: tuple[str, ...], chunk_length: int) -> EmbeddingSummary | None:
    """The summary of these rows, without thresholds; None for too few. The same bits on any machine's number of
    threads."""
    rows = torch.from_numpy(np.concatenate([array.astype(np.float64) for array in embedded], axis=1))
    n, d = rows.shape
    k = min(DIRECTIONS, d - 1, (n - 1) // 2)
    if k < 1:
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        mean, scale = rows.mean(dim=0), rows.std(dim=0, correction=0)
        scale[scale < CONSTANT] = 1.0
        apart = (rows - mean) / scale
        variances, directions = torch.linalg.eigh(apart.T @ apart / (n - 1))  # ascending
    finally:
        torch.set_num_threads(threads)
    directions = directions[:, -k:].flip(1)
    directions *= torch.where(directions.sum(dim=0) < 0, -1.0, 1.0)  # else the library chooses the sign
    noise = float(variances[:-k].clamp(min=0).mean())
    least = max(noise, CONSTANT)
    begins = np.array([0, *(length for length in LENGTHS if length <= chunk_length)], np.int32)
    return EmbeddingSummary(
        kinds=kinds,
        mean=mean.numpy().astype(np.float32),
        scale=scale.numpy().astype(np.float32),
        directions=np.ascontiguousarray(directions.T.numpy().astype(np.float32)),
        variances=np.maximum(variances[-k:].flip(0).numpy(), least).astype(np.float32),
        noise=np.array([least], np.float32),
        begins=begins,
        thresholds=np.full(len(begins), np.nan, np.float32),
    )


def distances(
    summary: EmbeddingSummary,
    rows: np.ndarray,
    embedded: Callable[[np.ndarray], Embedded],
    raise_if_ending: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """(m,) float32 of rows, read by `embedded` some thousands at once."""
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(rows), AT_ONCE):
        piece = embedded(rows[start : start + AT_ONCE])
        found.append(summary.distances(dict(zip(summary.kinds, piece, strict=True))))
        raise_if_ending()
    return np.concatenate(found)


def with_thresholds(summary: EmbeddingSummary, kept_apart: Iterable[tuple[np.ndarray, np.ndarray]]) -> EmbeddingSummary:
    """The summary with the threshold of each class of lengths in which enough was kept apart: of (distances, bases) the
    smallest distance that leaves at most 1 - QUANTILE of a further row's chance above it, the ceil(QUANTILE (n + 1))-th
    (split conformal; Vovk et al. 2005)."""
    pairs = list(kept_apart)
    found = np.concatenate([np.zeros(0, np.float32), *(distance for distance, _ in pairs)])
    bases = np.concatenate([np.zeros(0, np.int64), *(lengths for _, lengths in pairs)])
    known = np.isfinite(found)
    classes = class_of_bases(summary.begins, bases[known])
    thresholds = summary.thresholds.copy()
    for number in range(len(thresholds)):
        mine = np.sort(found[known][classes == number])
        if len(mine) >= LEAST:
            thresholds[number] = mine[min(len(mine), math.ceil(QUANTILE * (len(mine) + 1))) - 1]
    return replace(summary, thresholds=thresholds)
