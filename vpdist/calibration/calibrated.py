"""A calibration: per length class, from a score to the ratio of its likelihoods among viruses and among others.

ln(f1 / f0) = slope * score + bias, within limits; 1 / slope is the temperature of Guo et al. (2017), and slope and bias
are those of Platt (1999), fitted with equal weights of both labels, so that the ratio stands without any prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vpdist.calibration.scores import CLASS_BASES, class_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCalibration:
    """The calibration of one length class."""

    least_bases: int
    """One of CLASS_BASES."""
    slope: float
    """0 where scores tell nothing; never negative."""
    bias: float
    least: float
    """Of ln(f1 / f0), at most 0: what so few viruses can show."""
    most: float
    """At least 0: what so few others can show."""
    virus_sequences: int
    virus_groups: int
    other_sequences: int
    other_groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNulls:
    """Scores of sequences of one length class that are no viruses and that nothing was fitted on."""

    least_bases: int
    scores: tuple[float, ...]
    """Ascending."""


def class_among(bases: np.ndarray, classes: Sequence[ClassCalibration | ClassNulls]) -> np.ndarray:
    """(n,) index into CLASS_BASES of the class that judges so many scored bases: the last one there is also judges all
    that is longer. The more was scored, the less means vary, so that non-viruses score high less often than it says.
    How far that goes, `Calibration.reaches` says."""
    last = max((CLASS_BASES.index(each.least_bases) for each in classes), default=-1)
    return np.minimum(class_of(bases), last)


def nearness(bases: np.ndarray, begins: Sequence[int]) -> np.ndarray:
    """(n, c) how near so many scored bases (n,) are to where each of c classes begins: 1 there, 0 at its neighbours,
    linear in the logarithm in between; beyond the first and the last one as there."""
    at = np.log(np.clip(bases, begins[0], begins[-1]))
    return np.stack([np.interp(at, np.log(begins), row) for row in np.eye(len(begins))], axis=1)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The length classes that have a calibration; sequences of others have no probability."""

    classes: tuple[ClassCalibration, ...]
    joined: bool = False
    """Slope and bias of a class hold where it begins, and between there and the next one they change linearly with
    the logarithm of the scored bases: the more chunks a mean is over, the surer it is. Else they hold for all of it."""

    def reaches(self, bases: np.ndarray) -> np.ndarray:
        """(n,) bool: whether a sequence with so many scored bases may be judged: its class is the last one that has a
        calibration, the next one, or before. Beyond, the slope of the last one is so wrong that nothing is called."""
        return class_of(bases) <= self._furthest

    @property
    def most_bases(self) -> int | None:
        """The most scored bases that are judged; None without an end."""
        beyond = self._furthest + 1
        return CLASS_BASES[beyond] - 1 if beyond < len(CLASS_BASES) else None

    @property
    def _furthest(self) -> int:
        """The last class that is judged, as an index into CLASS_BASES."""
        return max((CLASS_BASES.index(each.least_bases) + 1 for each in self.classes), default=-1)

    def log_likelihood_ratio(self, score: np.ndarray, bases: np.ndarray) -> np.ndarray:
        """(n,) float64 ln(f1 / f0) of scores (n,) (`scores.log_odds`) of sequences with so many scored bases; NaN
        where there is no score or its class has no calibration."""
        ratio, number = np.full(len(score), np.nan), class_among(bases, self.classes)
        near = nearness(bases, [each.least_bases for each in self.classes]) if self.joined else None
        slopes, biases = (np.array([getattr(each, name) for each in self.classes]) for name in ("slope", "bias"))
        for each in self.classes:
            mine = number == CLASS_BASES.index(each.least_bases)
            slope, bias = each.slope, each.bias
            if near is not None:
                slope, bias = near[mine] @ slopes, near[mine] @ biases
            ratio[mine] = np.clip(slope * score[mine] + bias, each.least, each.most)
        return ratio


@dataclass(frozen=True, slots=True)
class NullScores:
    """The length classes that have null scores; sequences of others have no p-value."""

    classes: tuple[ClassNulls, ...]

    def p_values(self, score: np.ndarray, bases: np.ndarray) -> np.ndarray:
        """(n,) conformal p-values: (1 + null scores of the class that are at least the score) / (1 + null scores).

        Valid where a sequence that is no virus is exchangeable with the null sequences (Bates et al. 2023). NaN where
        there is no score or the class has no null scores.
        """
        p, number = np.full(len(score), np.nan), self.number_of(bases)
        for each in self.classes:
            mine = number == CLASS_BASES.index(each.least_bases)
            null, mine_scores = np.array(each.scores), score[mine]
            as_high = len(null) - np.searchsorted(null, mine_scores, side="left")
            p[mine] = np.where(np.isnan(mine_scores), np.nan, (1 + as_high) / (1 + len(null)))
        return p

    def number_of(self, bases: np.ndarray) -> np.ndarray:
        """(n,) the class by which sequences with so many scored bases are judged, as an index into CLASS_BASES."""
        return class_among(bases, self.classes)

    def sizes(self) -> dict[int, int]:
        """How many null scores each class has, by its index in CLASS_BASES."""
        return {CLASS_BASES.index(each.least_bases): len(each.scores) for each in self.classes}
