"""Probabilities, q-values, calls and the share of viruses, against plain loops and mixtures that are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.calibration.test_fit import normal
from vpdist.calibration.bound import false_within
from vpdist.calibration.calibrated import Calibration, ClassCalibration, ClassNulls, NullScores
from vpdist.calibration.judgement import (
    CALLS,
    PRESETS,
    Choice,
    Evidence,
    Rule,
    calls,
    described,
    judge,
    probabilities,
    q_values,
)
from vpdist.calibration.judging import NEARLY_ALL, Judging, lines, share_text, warnings
from vpdist.calibration.prevalence import LEAST_SEQUENCES, MOST_BELIEVED, NOT_BELIEVED, PRIOR, estimate, prevalence

NAN = float("nan")
RATIOS = st.lists(st.floats(-6, 6), min_size=2, max_size=40).map(np.array)


def calibration(slope: float = 2.0, limit: float = 8.0) -> Calibration:
    of_class = ClassCalibration(
        least_bases=500,
        slope=slope,
        bias=0.0,
        least=-limit,
        most=limit,
        virus_sequences=100,
        virus_groups=100,
        other_sequences=100,
        other_groups=100,
    )
    return Calibration((of_class,))


def mixture(n: int, share: float) -> np.ndarray:
    """ln of the ratio of N(1, 1) to N(-1, 1) at n scores, `share` of which come from the first."""
    return 2 * np.concatenate((normal(1, round(n * share)), normal(-1, n - round(n * share))))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_viruses_is_that_of_the_mixture(share: float) -> None:
    found = estimate(mixture(4000, share))
    assert found.value == pytest.approx(share, rel=0.05)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


@given(RATIOS)
def test_the_share_is_where_the_iteration_of_em_stands_still(log_ratio: np.ndarray) -> None:
    found = estimate(log_ratio).value
    least = 0.5 / len(log_ratio)
    again = probabilities(log_ratio, found).mean()
    if found == pytest.approx(least):
        assert again <= found + 1e-9
    elif found == pytest.approx(1 - least):
        assert again >= found - 1e-9
    else:
        assert again == pytest.approx(found, abs=1e-9)


def test_an_interval_of_the_share_holds_it_in_19_of_20_samples() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        virus = rng.random(500) < 0.2
        found = estimate(2 * (rng.normal(size=500) + np.where(virus, 1, -1)))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.2 <= found.high
    assert 180 <= held <= 199


def test_without_viruses_the_share_is_half_a_sequence() -> None:
    found = estimate(np.full(1000, -3.0))
    assert found.value == 0.5 / 1000
    assert found.low == 0.0


def test_too_few_sequences_get_the_stated_prior_and_a_given_share_is_taken() -> None:
    few, enough = np.full(LEAST_SEQUENCES - 1, 3.0), np.append(mixture(LEAST_SEQUENCES, 0.3), NAN)
    assert (prevalence(few, None).value, prevalence(few, None).origin) == (PRIOR, "assumed")
    assert prevalence(np.append(few, NAN), None).origin == "assumed"
    assert prevalence(enough, None).origin == "estimated"
    assert (prevalence(enough, 0.25).value, prevalence(enough, 0.25).origin) == (0.25, "given")


def test_a_probability_follows_bayes() -> None:
    found = probabilities(np.array([0.0, np.log(9), -np.log(9), NAN]), 0.1)
    assert found[:3] == pytest.approx([0.1, 0.5, 1 / 82])
    assert np.isnan(found[3])


def test_q_values_are_running_means() -> None:
    found = q_values(np.array([0.6, 0.9, NAN, 0.8, 0.8, 0.0]))
    assert found[[1, 3, 4, 0, 5]] == pytest.approx([0.1, 0.5 / 3, 0.5 / 3, 0.9 / 4, 1.9 / 5])
    assert np.isnan(found[2])
    assert q_values(np.zeros(0)).tolist() == []
    assert np.isnan(q_values(np.full(3, NAN))).all()


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0, NAN]), max_size=30).map(np.array), st.randoms())
def test_q_values_do_not_depend_on_the_order_and_fall_with_the_probability(probability: np.ndarray, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(probability)))
    random.shuffle(order)
    found = q_values(probability)
    assert q_values(probability[order]) == pytest.approx(found[order], nan_ok=True)
    for value, q in zip(probability.tolist(), found.tolist(), strict=True):
        if value == value:
            above = probability[probability >= value]
            assert q == pytest.approx((1 - above).mean())


def test_calls_keep_their_bounds() -> None:
    probability = np.array([0.99, 0.9, 0.5, 0.45, 0.2, 0.19, NAN])
    q = np.array([0.01, 0.05, 0.05, 0.05, 0.3, 0.4, NAN])
    rule = Rule(max_fdr=0.05, least_virus=0.5, most_other=0.2)
    found = [CALLS[call] for call in calls(probability, q, rule)]
    assert found == ["virus", "virus", "virus", "uncertain", "uncertain", "non-virus", "NA"]


def test_a_stricter_preset_calls_no_more_viruses_and_leaves_out_no_fewer() -> None:
    log_ratio = mixture(2000, 0.3)
    probability = probabilities(log_ratio, 0.3)
    q = q_values(probability)
    found = [calls(probability, q, PRESETS[name]) for name in ("strict", "balanced", "sensitive")]
    viruses, others = ([int((call == number).sum()) for call in found] for number in (2, 1))
    assert 0 < viruses[0] < viruses[1] < viruses[2]
    assert others[0] > others[1] > others[2] > 0
    assert Choice(preset="strict", max_fdr=0.2).rule == Rule(max_fdr=0.2, least_virus=0.9, most_other=0.5)


def run_of(score: np.ndarray, bases: int) -> Evidence:
    """Sequences with these log-odds."""
    virus = 1 / (1 + np.exp(-score))
    return Evidence(virus, 1 - virus, np.full(len(score), bases))


def test_at_a_nominal_rate_no_more_calls_are_false() -> None:
    rng = np.random.default_rng(11)
    nulls = NullScores((ClassNulls(least_bases=500, scores=tuple(np.sort(normal(-1, 999)).tolist())),))
    for share in (0.01, 0.1, 0.5):
        rates, estimates = [], []
        for _ in range(60):
            virus = rng.random(1000) < share
            evidence = run_of(rng.normal(size=1000) + np.where(virus, 1, -1), 600)
            found = judge(evidence, calibration(), nulls, Choice(max_fdr=0.1))
            called = found.call == CALLS.index("virus")
            rates.append((called & ~virus).sum() / max(1, called.sum()))
            assert found.share is not None
            estimates.append(found.share.value)
        assert np.mean(rates) <= 0.1 + 2 * np.std(rates) / np.sqrt(60)
        assert np.mean(estimates) == pytest.approx(share, rel=0.2)


def test_what_has_no_class_or_no_score_is_not_known() -> None:
    evidence = Evidence(np.array([0.9, 0.9, NAN]), np.array([0.1, 0.1, NAN]), np.array([500, 400, 0]))
    nulls = NullScores((ClassNulls(least_bases=500, scores=(-1.0, 0.0, 1.0)),))
    found = judge(evidence, calibration(), nulls, Choice(prevalence=0.5))
    assert [CALLS[call] for call in found.call] == ["virus", "NA", "NA"]
    for column in (found.probability, found.q_value, found.p_value):
        assert np.isnan(column).tolist() == [False, True, True]
    kept = described(found, evidence, nulls, Choice(prevalence=0.5))
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept
    assert kept["calibrated_sequences"] == 1
    assert kept["prevalence"] == {
        "value": 0.5,
        "origin": "given",
        "estimate": None,
        "low": None,
        "high": None,
    }
    assert kept["calls"] == {"NA": 2, "non-virus": 0, "virus": 1, "uncertain": 0}
    assert kept["expected_false"] == pytest.approx(1 - found.probability[0])
    assert kept["most_false"] == 1
    assert false_within(np.array(kept["envelope"]), found.p_value[:1]) == 1


def test_the_longest_class_also_judges_the_next_one_and_nothing_judges_what_is_longer() -> None:
    evidence = Evidence(np.full(4, 0.9), np.full(4, 0.1), np.array([500, 2999, 149, 3000]))
    nulls = NullScores((ClassNulls(least_bases=500, scores=(-1.0, 0.0, 1.0)),))
    judging = Judging(model="m", calibration=calibration(), null_scores=nulls, choice=Choice(prevalence=0.5))
    found = judging.judge(evidence)
    for column in (found.probability, found.p_value):
        assert column[0] == column[1]
        assert np.isnan(column[2:]).all()
    kept = judging.described(found, evidence)
    assert (kept["most_false"], kept["most_bases"], kept["longer"]) == (2, 2999, 1)
    (told,) = warnings(kept)
    assert told.startswith(
        "warning: 1 scored sequence has no call, as the model is calibrated for up to 2,999 scored bases"
    )


def test_a_run_of_a_version_that_was_not_cautious_is_judged_as_it_was() -> None:
    n = LEAST_SEQUENCES
    evidence = Evidence(np.full(n, 0.99), np.full(n, 0.01), np.full(n, 40_000))
    nulls = NullScores((ClassNulls(least_bases=500, scores=(-1.0, 0.0, 1.0)),))
    judging = Judging(model="m", calibration=calibration(), null_scores=nulls, choice=Choice(), cautious=False)
    found = judging.judge(evidence)
    assert found.share is not None
    assert found.share.origin == "estimated"
    assert not np.isnan(found.probability).any()
    assert judging.described(found, evidence)["longer"] == 0
    assert np.isnan(replace(judging, cautious=True).judge(evidence).probability).all()


def test_a_calibration_reaches_to_the_end_of_the_class_after_its_last_one() -> None:
    last = [replace(calibration().classes[0], least_bases=bases) for bases in (1000, 3000, 10_000)]
    assert [Calibration((each,)).most_bases for each in last] == [9_999, None, None]
    assert calibration().reaches(np.array([0, 2999, 3000])).tolist() == [True, True, False]
    assert Calibration(()).reaches(np.array([0, 150])).tolist() == [True, False]


def test_a_run_without_sequences_is_judged_too() -> None:
    nothing = Evidence(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    nulls = NullScores((ClassNulls(least_bases=500, scores=(0.0,)),))
    found = judge(nothing, calibration(), nulls, Choice())
    assert described(found, nothing, nulls, Choice())["most_false"] is None
    assert described(found, nothing, nulls, Choice())["envelope"] is None


@pytest.mark.parametrize(
    ("score", "choice", "warned"),
    [(0.99, Choice(), True), (0.01, Choice(), False), (0.99, Choice(prevalence=0.99), False)],
)
def test_an_estimated_share_near_1_is_told_with_a_warning_and_not_taken(
    score: float, choice: Choice, warned: bool
) -> None:
    nulls = NullScores((ClassNulls(least_bases=500, scores=(-1.0, 0.0, 1.0)),))
    virus = np.full(LEAST_SEQUENCES, score)
    evidence = Evidence(virus, 1 - virus, np.full(LEAST_SEQUENCES, 500))
    judging = Judging(model="m", calibration=calibration(), null_scores=nulls, choice=choice)
    found = judging.judge(evidence)
    kept = judging.described(found, evidence)
    told = lines(kept)
    assert warnings(kept) == [NEARLY_ALL] * warned
    assert f"share of viruses {share_text(kept)}" in told[1]
    assert found.share is not None
    assert (found.share.value == NOT_BELIEVED) == warned
    if warned:
        assert found.share.estimate is not None
        assert found.share.estimate > MOST_BELIEVED
        assert "share of viruses 0.5, assumed, as the estimate, 0.997 (0.988 to 0.998), is above 0.95" in told[1]


def test_a_judgement_that_an_earlier_version_kept_is_told_as_far_as_it_goes() -> None:
    """Reports are made of runs of any version: before there was a limit, an estimate near 1 was taken."""
    taken = {
        "calibrated_sequences": 300,
        "prevalence": {"value": 0.99, "origin": "estimated", "low": 0.98, "high": 1.0},
    }
    assert warnings(taken) == [NEARLY_ALL]
    assert share_text(taken) == "0.99 (0.98 to 1), estimated"
    for unknown in ({}, {"calibrated_sequences": 0, "prevalence": None}, {"calibrated_sequences": 3, "prevalence": 1}):
        assert warnings(unknown) == []
        assert share_text(unknown) == ""


def test_calls_rest_on_each_score_where_the_share_is_not_believed() -> None:
    """Scores that all are likelier among viruses, but far from proof, make an estimate of 1 and no call."""
    log_ratio = np.full(LEAST_SEQUENCES, 1.5)
    share = prevalence(log_ratio, None)
    assert share.estimate == pytest.approx(1 - 0.5 / LEAST_SEQUENCES)
    for most_believed, called in ((MOST_BELIEVED, 0), (1.0, LEAST_SEQUENCES)):
        probability = probabilities(log_ratio, prevalence(log_ratio, None, most_believed).value)
        call = calls(probability, q_values(probability), PRESETS["balanced"])
        assert int((call == CALLS.index("virus")).sum()) == called


def test_an_estimate_up_to_the_limit_is_taken_as_it_is() -> None:
    found = prevalence(mixture(5000, 0.9), None)
    assert found.origin == "estimated"
    assert found.value == found.estimate == pytest.approx(0.9, abs=0.04)
