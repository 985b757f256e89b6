"""How well scores tell two classes apart, with weights: figures of a resample are figures with other weights.

Scores s lie in [0, 1]; a call is virus where s >= 1/2. Ties in scores count half (AUROC) or as one step (AUPRC).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 15
"""Of the expected calibration error, of equal width (Guo et al. 2017)."""
NAMES = ("auroc", "auprc", "f1", "mcc", "brier", "ece")
TITLES = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "mcc": "MCC", "brier": "Brier score", "ece": "ECE"}
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Judged:
    """n items with a label and a score, sorted by score, highest first."""

    virus: np.ndarray
    """(n,) bool."""
    score: np.ndarray
    """(n,) float64."""
    group: np.ndarray
    """(n,) int64, a number per group from 0."""
    ends: np.ndarray
    """(t,) where each run of equal scores ends, exclusive."""
    bin: np.ndarray
    """(n,) int64, bin of the expected calibration error."""

    @classmethod
    def of(cls, virus: np.ndarray, score: np.ndarray, group: np.ndarray) -> Judged:
        order = np.argsort(-score, kind="stable")
        virus, score = virus[order].astype(bool), score[order].astype(np.float64)
        ends = np.append(np.flatnonzero(np.diff(score)) + 1, len(score)) if len(score) else np.zeros(0, np.int64)
        bins = np.clip(np.ceil(score * BINS).astype(np.int64) - 1, 0, BINS - 1)
        return cls(virus, score, np.unique(group[order], return_inverse=True)[1], ends, bins)

    def __len__(self) -> int:
        return len(self.score)

    @property
    def n_groups(self) -> int:
        return int(self.group.max(initial=-1)) + 1


def figures(judged: Judged, weight: np.ndarray) -> dict[str, float]:
    """All figures of NAMES, with a weight (n,) per item; NaN where a class weighs nothing."""
    positive, negative = np.where(judged.virus, weight, 0.0), np.where(judged.virus, 0.0, weight)
    if not positive.sum() or not negative.sum():
        return dict.fromkeys(NAMES, float("nan"))
    true = np.cumsum(positive)[judged.ends - 1]
    false = np.cumsum(negative)[judged.ends - 1]
    total, others = true[-1], false[-1]
    steps_true, steps_false = np.diff(true, prepend=0.0), np.diff(false, prepend=0.0)
    called = judged.score >= 0.5
    found, wrong = positive[called].sum(), negative[called].sum()
    missed, right = total - found, others - wrong
    product = np.sqrt(float(found + wrong)) * np.sqrt(float(missed + right)) * np.sqrt(float(total) * float(others))
    confidence = np.bincount(judged.bin, weight * judged.score, BINS)
    observed = np.bincount(judged.bin, positive, BINS)
    everything = total + others
    with np.errstate(invalid="ignore"):  # the highest scores may weigh nothing
        precision = np.where(steps_true > 0, true / (true + false), 0.0)
    return {
        "auroc": float((steps_false * (true - steps_true / 2)).sum() / (total * others)),
        "auprc": float((steps_true / total * precision).sum()),
        "f1": float(2 * found / (2 * found + wrong + missed)) if found + wrong + missed else 0.0,
        "mcc": float((found * right - wrong * missed) / product) if product else 0.0,
        "brier": float((weight * (judged.score - judged.virus) ** 2).sum() / everything),
        "ece": float(np.abs(observed - confidence).sum() / everything),
    }


def with_intervals(
    judged: Judged, resamples: int, seed: int, raise_if_ending: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float | None]]:
    """Every figure with its 95 % interval: percentiles over resamples of whole groups (Efron 1979).

    `raise_if_ending` is called between resamples.

    Items of a group are no independent observations. None where a figure, or its interval, cannot be known.
    """
    exact = figures(judged, np.ones(len(judged)))
    rng = np.random.default_rng(seed)
    drawn: list[list[float]] = []
    for _ in range(resamples if judged.n_groups > 1 and not np.isnan(exact["auroc"]) else 0):
        raise_if_ending()
        times = np.bincount(rng.integers(0, judged.n_groups, judged.n_groups), minlength=judged.n_groups)
        drawn.append(list(figures(judged, times[judged.group].astype(np.float64)).values()))
    table = np.array(drawn).reshape(-1, len(NAMES))
    table = table[~np.isnan(table).any(axis=1)]
    ends = np.percentile(table, INTERVAL, axis=0) if len(table) else np.full((2, len(NAMES)), np.nan)
    return {
        name: {"value": _known(exact[name]), "low": _known(low), "high": _known(high)}
        for name, low, high in zip(NAMES, ends[0].tolist(), ends[1].tolist(), strict=True)
    }


def auroc(virus: np.ndarray, score: np.ndarray) -> float:
    """The share of (virus, other) pairs in which the virus scores higher; NaN without pairs. Any scores (n,)."""
    order = np.sort(score)
    rank = (np.searchsorted(order, score, "left") + np.searchsorted(order, score, "right") + 1) / 2
    n = int(virus.sum())
    pairs = n * (len(virus) - n)
    return float((rank[virus].sum() - n * (n + 1) / 2) / pairs) if pairs else float("nan")


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
