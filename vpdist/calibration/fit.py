"""A calibration and its null scores, fitted on scored sequences of both labels that no parameter was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vpdist.calibration.calibrated import Calibration, ClassCalibration, ClassNulls, NullScores, nearness
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
    found = {bases: scored.rows(number == index) for index, bases in enumerate(CLASS_BASES)}
    found = {bases: here for bases, here in found.items() if min(_groups(here)) >= LEAST_GROUPS}
    if not found:
        return None, None
    parameters = logistic(found)
    classes = tuple(_class(here, bases, *parameters[number]) for number, (bases, here) in enumerate(found.items()))
    nulls = tuple(
        ClassNulls(least_bases=bases, scores=tuple(np.sort(here.score[~here.virus]).tolist()))
        for bases, here in found.items()
    )
    return Calibration(classes, joined=True), NullScores(nulls)


def _groups(scored: Scored) -> tuple[int, int]:
    """How many there are of viruses and of others."""
    virus, other = (len(np.unique(scored.group[which])) for which in (scored.virus, ~scored.virus))
    return virus, other


def _class(scored: Scored, least_bases: int, slope: float, bias: float) -> ClassCalibration:
    virus, other = scored.score[scored.virus], scored.score[~scored.virus]
    virus_groups, other_groups = _groups(scored)
    return ClassCalibration(
        least_bases=least_bases,
        slope=slope,
        bias=bias,
        least=min(0.0, -_most(-other, -virus)),
        most=max(0.0, _most(virus, other)),
        virus_sequences=len(virus),
        virus_groups=virus_groups,
        other_sequences=len(other),
        other_groups=other_groups,
    )


def logistic(classes: Mapping[int, Scored]) -> list[tuple[float, float]]:
    """Slope and bias where each length class begins, of a logistic regression of the label on the score in which both
    are linear in the logarithm of the scored bases between these places (`calibrated.nearness`).

    Both labels of every class weigh the same. The targets are those of Platt (1999), (n + 1) / (n + 2) and 1 / (n + 2),
    so that labels that scores part altogether have a finite slope; Newton's method with halved steps (Lin et al. 2007).
    A negative slope, by which higher scores would mean fewer viruses, is taken for none.
    """
    begins = list(classes)
    columns, target, weight = [], [], []
    for scored in classes.values():
        near = nearness(scored.bases, begins).T
        columns.append(np.concatenate((near * scored.score, near)))
        n = np.where(scored.virus, scored.virus.sum(), (~scored.virus).sum())
        target.append(np.where(scored.virus, n + 1, 1) / (n + 2))
        weight.append(0.5 / n)
    found = _newton(np.concatenate(columns, axis=1), np.concatenate(target), np.concatenate(weight))
    slopes, biases = found[: len(begins)].tolist(), found[len(begins) :].tolist()
    return [(slope, bias) if slope > 0 else (0.0, 0.0) for slope, bias in zip(slopes, biases, strict=True)]


def _newton(columns: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(k,) the parameters with the least weighted cross entropy. Args: (k, n), (n,), (n,)."""

    def loss(at: np.ndarray) -> float:
        logit = at @ columns
        return float((weight * (np.logaddexp(0.0, logit) - target * logit)).sum())

    found = np.zeros(len(columns))
    for _ in range(STEPS):
        probability = _expit(found @ columns)
        gradient = columns @ (weight * (probability - target))
        if np.abs(gradient).max() < CLOSE:
            break
        curvature = (columns * (weight * probability * (1 - probability))) @ columns.T + CLOSE * np.eye(len(columns))
        step, size, before = np.linalg.solve(curvature, gradient), 1.0, loss(found)
        while size > CLOSE and loss(found - size * step) > before:
            size /= 2
        if size <= CLOSE:
            break
        found = found - size * step
    return found


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
