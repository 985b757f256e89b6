"""The share of viruses in a sample, from the likelihood ratios of its sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

LEAST_SEQUENCES = 200
"""Scored sequences without which the share is not estimated."""
PRIOR = 0.1
"""The share that is taken instead."""
MOST_BELIEVED = 0.95
"""An estimate above this says that the sample is of viruses alone, or of what the calibration does not know: the scores
do not tell which."""
NOT_BELIEVED = 0.5
"""The share that is taken in its place: then a call rests on its own score, and not on how many others look alike."""
HALVINGS = 40
DROP = 1.920729
"""Half of the 95 % point of chi-square with one degree of freedom: by so much the log-likelihood falls to the ends of
the interval (Wilks 1938)."""
GIVEN, ESTIMATED, ASSUMED = "given", "estimated", "assumed"


@dataclass(frozen=True, slots=True)
class Prevalence:
    """A share of viruses, and where it comes from."""

    value: float
    origin: str
    """GIVEN by the user, ESTIMATED, or ASSUMED, for want of sequences (without an estimate) or of belief in it."""
    estimate: float | None = None
    """From the sequences' scores."""
    low: float | None = None
    """Lower end of the 95 % interval of the estimate, as far as the calibration itself is right."""
    high: float | None = None


def prevalence(log_ratio: np.ndarray, given: float | None, most_believed: float = MOST_BELIEVED) -> Prevalence:
    """The share of viruses among sequences with these ln(f1 / f0) (NaN: not calibrated); an estimate above
    `most_believed` is told, but not taken."""
    known = log_ratio[~np.isnan(log_ratio)]
    if given is not None:
        return Prevalence(given, GIVEN)
    if len(known) < LEAST_SEQUENCES:
        return Prevalence(PRIOR, ASSUMED)
    found = estimate(known)
    return found if found.value <= most_believed else replace(found, value=NOT_BELIEVED, origin=ASSUMED)


def estimate(log_ratio: np.ndarray) -> Prevalence:
    """The share p with the largest likelihood: the fixed point p = mean(p r / (p r + 1 - p)) to which the iteration of
    Saerens et al. (2002) converges, found by halving, since the log-likelihood sum(ln(1 + p (r - 1))) is concave.

    At least half a sequence of all, and at most all but half: a share of 0 would say that no virus can be there.
    """
    excess = np.expm1(log_ratio)
    least = 0.5 / len(excess)

    def slope(share: float) -> float:
        return float((excess / (1.0 + share * excess)).sum())

    def likelihood(share: float) -> float:
        return float(np.log1p(share * excess).sum())

    value = _crossing(slope, least, 1.0 - least)
    top = likelihood(value)
    low = _crossing(lambda share: top - DROP - likelihood(share), 0.0, value)
    high = _crossing(lambda share: likelihood(share) - top + DROP, value, 1.0 - least)
    return Prevalence(value, ESTIMATED, value, low, high)


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that falls from positive to negative values crosses 0, within bounds."""
    if falling(low) <= 0:
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
