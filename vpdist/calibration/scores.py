"""The score of a sequence that is calibrated, and the class of its length.

A calibration holds for the scores of the mean over a sequence's scored chunks, and for no other consensus.
"""

from __future__ import annotations

import numpy as np

CALIBRATED_CONSENSUS = "mean"
CLASS_BASES = (150, 300, 500, 1000, 3000, 10_000)
"""Least scored bases of each length class; the last one has no end."""
LEAST_SCORE = 1e-6
"""Added to both scores of a sequence, so that neither is 0; below it a float32 softmax near 1 tells nothing apart."""
DECIMALS = 6
"""Of a log-odds: scores that are kept in a file and those that are compared with them are rounded alike."""


def log_odds(virus: np.ndarray, nonvirus: np.ndarray) -> np.ndarray:
    """(n,) float64 ln(virus / nonvirus) of sequences' scores, rounded; NaN where there is none."""
    return np.round(np.log((virus + LEAST_SCORE) / (nonvirus + LEAST_SCORE)), DECIMALS)


def class_of(bases: np.ndarray) -> np.ndarray:
    """(n,) index into CLASS_BASES of the class of so many scored bases; -1 for fewer than the least.

    How sure a mean is depends on the chunks in it, not on the sequence's length: with one scored chunk of 500 bases the
    slope is the same at 500, 1,000 and 3,000 bases, with two it is 1.5 times as steep (scripts/mini/calibration.py).
    """
    return np.searchsorted(CLASS_BASES, bases, side="right") - 1


def class_name(number: int) -> str:
    """A length class in words."""
    least = f"{CLASS_BASES[number]:,}"
    if number + 1 == len(CLASS_BASES):
        return f"{least} and more"
    return f"{least} to {CLASS_BASES[number + 1] - 1:,}"
