"""Accuracy and AUROC of scores, given the truth."""

from __future__ import annotations

import numpy as np


def auroc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Share of (positive, negative) pairs in which the positive scores higher; ties count half. NaN without pairs."""
    order = np.sort(scores)
    # Mean rank of each score among all, equal scores sharing theirs (Mann and Whitney 1947).
    ranks = (np.searchsorted(order, scores, "left") + np.searchsorted(order, scores, "right") + 1) / 2
    positives = int(positive.sum())
    pairs = positives * (len(positive) - positives)
    if not pairs:
        return float("nan")
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / pairs)


def accuracy(positive: np.ndarray, scores: np.ndarray) -> float:
    """Share of calls that are right when a score of at least 0 is a positive call."""
    return float(np.mean((scores >= 0) == positive))
