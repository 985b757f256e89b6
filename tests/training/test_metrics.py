"""Figures against scikit-learn's, weights included, and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpdist.training.judge import length_class
from vpdist.training.metrics import BINS, NAMES, Judged, auroc, figures, with_intervals

sklearn = pytest.importorskip("sklearn.metrics")


def sample(seed: int, n: int = 400, steps: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores (with `steps`: that many different ones) and weights."""
    rng = np.random.default_rng(seed)
    virus = rng.random(n) < 0.4
    virus[:2] = True, False
    score = np.clip(rng.normal(0.45 + 0.2 * virus, 0.2), 0, 1)
    if steps:
        score = np.round(score * steps) / steps
    weight = rng.integers(0, 4, n).astype(float)
    weight[:2] = 1
    return virus, score, weight


def expected(virus: np.ndarray, score: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    called = score >= 0.5
    bins = np.clip(np.ceil(score * BINS).astype(int) - 1, 0, BINS - 1)
    ece = 0.0
    for number in range(BINS):
        mine = bins == number
        if (weight * mine).sum():
            gap = np.average(virus[mine], weights=weight[mine]) - np.average(score[mine], weights=weight[mine])
            ece += abs(gap) * weight[mine].sum() / weight.sum()
    return {
        "auroc": sklearn.roc_auc_score(virus, score, sample_weight=weight),
        "auprc": sklearn.average_precision_score(virus, score, sample_weight=weight),
        "f1": sklearn.f1_score(virus, called, sample_weight=weight, zero_division=0),
        "mcc": sklearn.matthews_corrcoef(virus, called, sample_weight=weight),
        "brier": sklearn.brier_score_loss(virus, score, sample_weight=weight),
        "ece": ece,
    }


@given(st.integers(0, 1000), st.sampled_from([0, 3, 17]), st.booleans())
def test_figures_are_those_of_scikit_learn(seed: int, steps: int, weighted: bool) -> None:
    virus, score, weight = sample(seed, 60, steps)
    weight = weight if weighted else np.ones(60)
    order = np.argsort(-score, kind="stable")
    found = figures(Judged.of(virus, score, np.arange(60)), weight[order])
    assert list(found) == list(NAMES)
    assert found == pytest.approx(expected(virus, score, weight), abs=1e-12)
    if not weighted:
        assert auroc(virus, score) == pytest.approx(found["auroc"], abs=1e-12)


def test_intervals_hold_the_figure_and_are_the_same_for_the_same_seed() -> None:
    virus, score, _ = sample(1)
    judged = Judged.of(virus, score, np.arange(400) // 4)
    first, again, other = (with_intervals(judged, 200, seed) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    for name in ("auroc", "auprc", "f1", "mcc", "brier"):
        low, value, high = (first[name][key] for key in ("low", "value", "high"))
        assert low is not None
        assert value is not None
        assert high is not None
        assert low < value < high


def test_items_of_one_group_are_drawn_together_so_that_intervals_are_wider() -> None:
    virus, score, _ = sample(2)
    widths = []
    for group in (np.arange(4000), np.repeat(np.arange(400), 10)):
        found = with_intervals(Judged.of(np.repeat(virus, 10), np.repeat(score, 10), group), 200, 1)["auroc"]
        assert found["low"] is not None
        assert found["high"] is not None
        widths.append(found["high"] - found["low"])
    assert widths[1] > 2 * widths[0]


def test_figures_of_one_label_and_intervals_of_one_group_are_unknown() -> None:
    one_label = with_intervals(Judged.of(np.ones(5, bool), np.linspace(0, 1, 5), np.arange(5)), 20, 1)
    assert {value for figure in one_label.values() for value in figure.values()} == {None}
    one_group = with_intervals(Judged.of(np.arange(5) > 2, np.linspace(0, 1, 5), np.zeros(5)), 20, 1)
    assert one_group["auroc"] == {"value": 1.0, "low": None, "high": None}


def test_length_classes_begin_where_they_say() -> None:
    lengths = np.array([3, 149, 150, 299, 300, 500, 999, 1000, 3000, 9999, 10_000, 1 << 40])
    expected = "under 150,under 150,150,150,300,500,500,1000,3000,3000,10000,10000"
    assert length_class(lengths).tolist() == expected.split(",")
