"""The bound on false calls holds in 19 of 20 samples, for the set of calls that looks worst."""

from __future__ import annotations

import numpy as np
import pytest

from vpdist.calibration.bound import BORDERS, envelope, false_within, most_false
from vpdist.calibration.calibrated import ClassNulls, NullScores


def sample(rng: np.random.Generator, n_null: int, n_other: int, n_virus: int) -> tuple[np.ndarray, np.ndarray]:
    """p-values and labels of a sample; viruses score 3 higher."""
    nulls = NullScores((ClassNulls(least_bases=500, scores=tuple(np.sort(rng.normal(size=n_null)).tolist())),))
    score = rng.normal(size=n_other + n_virus) + np.repeat([0.0, 3.0], [n_other, n_virus])
    return nulls.p_values(score, np.full(len(score), 500)), np.repeat([False, True], [n_other, n_virus])


def test_it_holds_at_the_worst_of_all_thresholds_in_19_of_20_samples() -> None:
    rng = np.random.default_rng(8)
    n_null, held = 200, 0
    most = envelope([(n_null, 400)])
    for _ in range(100):
        p, virus = sample(rng, n_null, 300, 100)
        within = True
        for threshold in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
            called = p <= threshold
            within &= int((called & ~virus).sum()) <= false_within(most, p[called])
        held += within
    assert held >= 90


def test_it_is_of_use() -> None:
    """A hundred viruses among a thousand sequences, and 2,000 null scores: nine of ten calls are proven."""
    p, virus = sample(np.random.default_rng(1), 2000, 900, 100)
    called = p <= 0.005
    bound = most_false(p, np.full(1000, 2), {2: 2000}, called)
    assert bound is not None
    assert (called & virus).sum() > 60
    assert (called & ~virus).sum() <= bound <= 0.25 * called.sum()


def test_any_set_of_calls_may_be_asked_for() -> None:
    p, _ = sample(np.random.default_rng(2), 500, 100, 100)
    most = envelope([(500, 200)])
    all_of_them = most_false(p, np.full(200, 2), {2: 500}, np.ones(200, bool))
    assert all_of_them == false_within(most, p) < 200
    assert false_within(most, p[:0]) == 0
    rng = np.random.default_rng(0)
    for _ in range(20):
        called = rng.random(200) < 0.3
        assert false_within(most, p[called]) <= min(all_of_them, called.sum())


def test_a_call_without_a_p_value_may_be_false() -> None:
    p = np.array([np.nan, np.nan, 0.001])
    assert most_false(p, np.array([-1, 0, 2]), {2: 999}, np.array([True, False, False])) == 1
    assert most_false(np.full(2, np.nan), np.zeros(2), {}, np.array([True, True])) is None


def test_the_envelope_is_above_what_is_expected_and_adds_up_over_classes() -> None:
    single, two = envelope([(1000, 500)]), envelope([(1000, 500), (100, 500)])
    assert single[-1] == 500
    assert two[-1] == 1000
    assert (np.diff(single) >= 0).all()
    assert (single >= np.floor(500 * BORDERS)).all()
    assert (two >= single).all()
    assert single[50] < 500 * BORDERS[50] + 40
    assert envelope([(1000, 500)]).tolist() == single.tolist()


def test_less_confidence_gives_a_lower_envelope() -> None:
    assert (envelope([(500, 500)], 0.5) <= envelope([(500, 500)], 0.95)).all()
    assert envelope([(500, 500)], 0.5).sum() < envelope([(500, 500)], 0.95).sum()


@pytest.mark.parametrize("n_null", [1, 5])
def test_few_null_scores_prove_nothing(n_null: int) -> None:
    p, _ = sample(np.random.default_rng(1), n_null, 10, 10)
    assert most_false(p, np.full(20, 2), {2: n_null}, p < 1) == (p < 1).sum()
