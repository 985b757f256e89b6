"""A calibration and its null scores, fitted on scored sequences of both labels that no parameter was fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vpdist.calibration.calibrated import Calibration, ClassCalibration, ClassNulls, NullScores
from vpdist.calibration.scores import CLASS_BASES, class_of

LEAST_GROUPS = 30
"""Groups of either label without which a length class has no calibration."""
TAIL = 3
"""Sequences of the wrong label that a likelihood ratio must have seen at least (see `_most`)."""
STEPS, CLOSE = 100, 1e-10


@dataclass(frozen=True, slots=True)
class Scored:
    """n sequences with a label, a score and a group, of any length."""

    score: np.ndarray
    """(n,) float64, `scores.log_odds`; NaN where nothing was scored."""
    bases: np.ndarray
    """(n,) int64, scored bases."""
    virus: np.ndarray
    """(n,) bool."""
    group: np.ndarray
    """(n,) int64: sequences of a group are no independent observations."""

    def rows(self, which: np.ndarray) -> Scored:
        return Scored(self.score[which], self.bases[which], self.virus[which], self.group[which])


def fit(scored: Scored) -> tuple[Calibration | None, NullScores | None]:
    """The calibration and the null scores of all length classes with at least LEAST_GROUPS groups of either label; None
    where there is no such class."""
    scored = scored.rows(~np.isnan(scored.score))
    number = class_of(scored.bases)
    classes: list[ClassCalibration] = []
    nulls: list[ClassNulls] = []
    for index, least_bases in enumerate(CLASS_BASES):
        here = scored.rows(number == index)
        fitted = fit_class(here, least_bases)
        if fitted is not None:
            classes.append(fitted)
            nulls.append(ClassNulls(least_bases=least_bases, scores=tuple(np.sort(here.score[~here.virus]).tolist())))
    return (Calibration(tuple(classes)), NullScores(tuple(nulls))) if classes else (None, None)


def fit_class(scored: Scored, least_bases: int) -> ClassCalibration | None:
    """The calibration of one length class, all of whose sequences are scored; None where it has too few groups."""
    virus, other = scored.score[scored.virus], scored.score[~scored.virus]
    groups = [len(np.unique(scored.group[which])) for which in (scored.virus, ~scored.virus)]
    if min(groups) < LEAST_GROUPS:
        return None
    slope, bias = logistic(virus, other)
    return ClassCalibration(
        least_bases=least_bases,
        slope=slope,
        bias=bias,
        least=min(0.0, -_most(-other, -virus)),
        most=max(0.0, _most(virus, other)),
        virus_sequences=len(virus),
        virus_groups=groups[0],
        other_sequences=len(other),
        other_groups=groups[1],
    )


def logistic(virus: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Slope and bias of a logistic regression of the label on the score, both labels with equal weight.

    The targets are those of Platt (1999), (n + 1) / (n + 2) and 1 / (n + 2), so that labels that scores part altogether
    have a finite slope; Newton's method with halved steps (Lin et al. 2007). A negative slope, by which higher scores
    would mean fewer viruses, is taken for none.
    """
    score = np.concatenate((virus, other))
    target = np.repeat([(len(virus) + 1) / (len(virus) + 2), 1 / (len(other) + 2)], [len(virus), len(other)])
    weight = np.repeat([0.5 / len(virus), 0.5 / len(other)], [len(virus), len(other)])
    columns = np.stack((score, np.ones_like(score)))

    def loss(at: np.ndarray) -> float:
        logit = at @ columns
        return float((weight * (np.logaddexp(0.0, logit) - target * logit)).sum())

    found = np.zeros(2)
    for _ in range(STEPS):
        probability = _expit(found @ columns)
        gradient = columns @ (weight * (probability - target))
        if np.abs(gradient).max() < CLOSE:
            break
        curvature = (columns * (weight * probability * (1 - probability))) @ columns.T + CLOSE * np.eye(2)
        step, size, before = np.linalg.solve(curvature, gradient), 1.0, loss(found)
        while size > CLOSE and loss(found - size * step) > before:
            size /= 2
        if size <= CLOSE:
            break
        found = found - size * step
    return (float(found[0]), float(found[1])) if found[0] > 0 else (0.0, 0.0)


def _expit(logit: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * logit))


def _most(virus: np.ndarray, other: np.ndarray) -> float:
    """The largest ln(f1 / f0) that these scores can show: the share of viruses that score at least as high as a border,
    over the share of the others that do, at the border where that is largest, with at least TAIL others above it.

    A straight line through the log-odds goes on without end: on pieces of 1,000 bases scored by `mini`, at one virus in
    a hundred, it gave 43 % false calls at a nominal 10 %, with this limit none (scripts/mini/calibration.py).
    """
    falling = np.sort(other)[::-1]
    borders = falling[TAIL - 1 : max(TAIL, len(other) // 2)]
    viruses = len(virus) - np.searchsorted(np.sort(virus), borders, side="left")
    others = len(other) - np.searchsorted(falling[::-1], borders, side="left")
    ratio = np.log((viruses + 0.5) / (len(virus) + 1)) - np.log((others + 0.5) / (len(other) + 1))
    return float(ratio.max())
