"""Calibration on scores of which the likelihood ratio is known, and p-values against counting."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpdist.calibration.calibrated import Calibration, ClassCalibration, ClassNulls, NullScores
from vpdist.calibration.fit import LEAST_GROUPS, TAIL, Scored, fit, logistic
from vpdist.calibration.scores import CLASS_BASES, class_name, class_of, log_odds


def normal(mean: float, n: int, deviation: float = 1.0) -> np.ndarray:
    """n scores that are spread as a normal distribution, without chance."""
    return np.array([NormalDist(mean, deviation).inv_cdf((i + 0.5) / n) for i in range(n)])


def scored(virus: np.ndarray, other: np.ndarray, bases: int = 500) -> Scored:
    score = np.concatenate((virus, other))
    label = np.arange(len(score)) < len(virus)
    return Scored(score, np.full(len(score), bases), label, np.arange(len(score)))


def line(virus: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Slope and bias of one class."""
    return logistic({500: scored(virus, other)})[0]


def fitted(virus: np.ndarray, other: np.ndarray) -> ClassCalibration:
    """The only class."""
    calibration, _ = fit(scored(virus, other))
    assert calibration is not None
    assert [each.least_bases for each in calibration.classes] == [500]
    return calibration.classes[0]


def test_a_score_is_the_log_odds_of_two_means() -> None:
    found = log_odds(np.array([0.5, 0.9, 0.0, 1.0, np.nan]), np.array([0.5, 0.1, 1.0, 0.0, np.nan]))
    assert found[:4] == pytest.approx([0, np.log(9), -np.log(1e6), np.log(1e6)], abs=2e-5)
    assert np.isnan(found[4])
    assert (np.round(found[:4], 6) == found[:4]).all()


def test_length_classes_begin_where_they_say() -> None:
    edges = [each + step for each in CLASS_BASES for step in (-1, 0)]
    assert class_of(np.array([0, *edges, 10**9])).tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [class_name(number) for number in (0, 5)] == ["150 to 299", "10,000 and more"]


def test_two_normal_distributions_have_the_line_that_theory_gives() -> None:
    """ln of the ratio of N(a, 1) to N(b, 1) is (a - b) s - (a^2 - b^2) / 2."""
    slope, bias = line(normal(1.5, 4000), normal(-0.5, 400))
    assert (slope, bias) == pytest.approx((2.0, -1.0), rel=0.03)


def test_the_numbers_of_either_label_do_not_matter() -> None:
    few, many = line(normal(1, 500), normal(-1, 500)), line(normal(1, 500), normal(-1, 5000))
    assert few == pytest.approx(many, rel=0.02, abs=0.02)


@given(st.floats(0.2, 5), st.floats(-5, 5))
def test_stretched_and_shifted_scores_have_the_same_ratios(stretch: float, shift: float) -> None:
    virus, other = normal(1, 200), normal(-1, 200)
    slope, bias = line(virus, other)
    again = line(stretch * virus + shift, stretch * other + shift)
    assert again[0] * (stretch * virus + shift) + again[1] == pytest.approx(slope * virus + bias, abs=1e-4)


def test_scores_that_tell_nothing_or_the_contrary_have_a_ratio_of_one() -> None:
    for virus, other in ((normal(-1, 100), normal(1, 100)), (np.zeros(100), np.zeros(100))):
        found = fitted(virus, other)
        assert (found.slope, found.bias) == (0.0, 0.0)


def test_no_score_shows_more_than_the_sequences_do() -> None:
    """Where labels are parted altogether, the ratio is at most that of all viruses to fewer than TAIL + 1 others."""
    found = fitted(normal(10, 100), normal(-10, 300))
    assert 0 < found.slope < np.inf
    assert found.most == pytest.approx(np.log((100.5 / 101) / ((TAIL + 0.5) / 301)))
    assert found.least == pytest.approx(-np.log((300.5 / 301) / ((TAIL + 0.5) / 101)))
    ratio = Calibration((found,)).log_likelihood_ratio(np.array([1e6, -1e6, 0.0]), np.full(3, 500))
    assert ratio[:2].tolist() == [found.most, found.least]
    assert abs(ratio[2]) < 1


def test_ratios_of_others_that_were_not_seen_average_to_one() -> None:
    """The mean of f1 / f0 over f0 is 1; heavy tails, which a line does not fit, must not raise it."""
    rng = np.random.default_rng(5)
    drawn = [rng.standard_t(3, (4, 2000)) * 1.5 + mean for mean in (1.0, -1.0)]
    means = []
    for virus, other, unseen in zip(drawn[0], drawn[1], np.roll(drawn[1], 1, axis=0), strict=True):
        found = fitted(virus, other)
        means.append(np.exp(Calibration((found,)).log_likelihood_ratio(unseen, np.full(2000, 500))).mean())
        assert np.exp(found.slope * unseen + found.bias).mean() > 1.3
    assert np.mean(means) == pytest.approx(1.0, abs=0.15)


def test_a_class_with_too_few_groups_of_either_label_has_none() -> None:
    enough = scored(normal(1, LEAST_GROUPS), normal(-1, LEAST_GROUPS))
    calibration, nulls = fit(enough)
    assert calibration is not None
    assert nulls is not None
    assert [each.least_bases for each in calibration.classes] == [500]
    assert (calibration.classes[0].virus_groups, calibration.classes[0].other_sequences) == (LEAST_GROUPS,) * 2
    assert nulls.classes[0].scores == tuple(np.sort(enough.score[LEAST_GROUPS:]).tolist())
    for joined in ((0, 1), (LEAST_GROUPS, LEAST_GROUPS + 1)):
        group = enough.group.copy()
        group[joined[0]] = joined[1]
        assert fit(replace(enough, group=group)) == (None, None)
    unscored = enough.score.copy()
    unscored[0] = np.nan
    assert fit(replace(enough, score=unscored)) == (None, None)


def test_where_classes_begin_each_is_fitted_for_itself_and_others_are_not_known() -> None:
    parts = [scored(normal(k, 50), normal(-k, 50), bases) for k, bases in ((1, 150), (2, 500), (3, 10_000))]
    joined = Scored(*(np.concatenate([getattr(part, name) for part in parts]) for name in Scored.__slots__))
    calibration, nulls = fit(joined)
    assert calibration is not None
    assert nulls is not None
    assert [each.least_bases for each in calibration.classes] == [150, 500, 10_000]
    assert nulls.sizes() == {0: 50, 2: 50, 5: 50}
    for part, single in zip(parts, calibration.classes, strict=True):
        alone, _ = fit(part)
        assert alone is not None
        assert asdict(single) == pytest.approx(asdict(alone.classes[0]), rel=1e-6, abs=1e-6)
    bases = np.array([149, 150, 300, 500, 1000, 9999, 10_000])
    for found in (calibration.log_likelihood_ratio(np.zeros(7), bases), nulls.p_values(np.zeros(7), bases)):
        assert np.isnan(found).tolist() == [True, False, True, False, True, True, False]
        assert np.isnan(found[1]) == np.isnan(0 * found[1])


def test_between_two_classes_the_slope_changes_with_the_logarithm_of_the_bases() -> None:
    """The spread of a mean over chunks gets smaller with their number: true slopes of 2 at 500 bases, 3 at 1,000."""
    parts = []
    for bases in (500, 595, 707, 841, 1000):
        slope = 2 + np.log2(bases / 500)
        parts.append(scored(normal(1, 400, (2 / slope) ** 0.5), normal(-1, 400, (2 / slope) ** 0.5), bases))
    joined = Scored(*(np.concatenate([getattr(part, name) for part in parts]) for name in Scored.__slots__))
    calibration, _ = fit(joined)
    assert calibration is not None
    assert [each.slope for each in calibration.classes] == pytest.approx([2, 3], rel=0.03)
    bases = np.array([500, 707, 1000, 40_000])
    assert calibration.log_likelihood_ratio(np.full(4, 0.5), bases) == pytest.approx([1, 1.25, 1.5, 1.5], rel=0.05)
    steps = replace(calibration, joined=False)
    assert steps.log_likelihood_ratio(np.full(3, 0.5), bases[:3]) == pytest.approx([1, 1, 1.5], rel=0.05)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=30),
    st.lists(st.sampled_from([-2.0, -1.0, 0.5, 3.0, float("nan")]), max_size=10),
)
def test_a_p_value_counts_the_null_scores_that_are_as_high(null: list[float], score: list[float]) -> None:
    nulls = NullScores((ClassNulls(least_bases=300, scores=tuple(sorted(null))),))
    found = nulls.p_values(np.array(score), np.full(len(score), 300))
    for value, p in zip(score, found.tolist(), strict=True):
        if value != value:
            assert p != p
        else:
            assert p == (1 + sum(each >= value for each in null)) / (1 + len(null))
