"""Figures at one length: AUROC, errors and false calls, from pieces whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.fit import Scored, fit
from vpdist.calibration.judgement import Evidence
from vpdist.calibration.scores import log_odds
from vpdist.training.length_figures import length_figures, rate


def pieces(n: int, seed: int) -> tuple[Evidence, np.ndarray]:
    """Scores of n pieces of 500 bases, every other one a virus, whose log-odds are right."""
    rng = np.random.default_rng(seed)
    virus = np.arange(n) % 2 == 0
    share = 1 / (1 + np.exp(-(2 * rng.normal(size=n) + np.where(virus, 2, -2))))
    return Evidence(share, 1 - share, np.full(n, 500)), virus


def calibration_of(evidence: Evidence, virus: np.ndarray) -> tuple[Calibration, NullScores]:
    scored = Scored(log_odds(evidence.virus, evidence.nonvirus), evidence.bases, virus, np.arange(len(virus)))
    calibration, nulls = fit(scored)
    assert calibration is not None
    assert nulls is not None
    return calibration, nulls


def test_errors_are_those_of_the_scores() -> None:
    evidence, virus = pieces(4000, 1)
    evidence.virus[:40] = evidence.nonvirus[:40] = np.nan
    judges = calibration_of(*pieces(4000, 2))
    found = length_figures(evidence, np.full(4000, 500), virus, np.arange(4000), judges, resamples=50, seed=3)["500"]
    scored = np.arange(4000) >= 40
    called = evidence.virus >= 0.5
    assert found["no_score"]["value"] == pytest.approx(0.01)
    assert found["false_virus"]["value"] == pytest.approx(called[scored & ~virus].mean())
    assert found["missed_virus"]["value"] == pytest.approx(1 - called[scored & virus].mean())
    assert found["false_discovery"]["low"] <= 0.05 + 0.01
    assert found["ece"]["value"] < 0.04
    assert found["auroc"]["low"] < found["auroc"]["value"] < found["auroc"]["high"]


def test_without_a_calibration_only_its_figures_are_missing() -> None:
    evidence, virus = pieces(100, 1)
    found = length_figures(evidence, np.full(100, 150), virus, np.arange(100), None, resamples=20, seed=3)
    assert list(found) == ["150"]
    missing = [name for name, figure in found["150"].items() if isinstance(figure, dict) and figure["value"] is None]
    assert missing == ["ece", "found", "false_discovery"]


def test_a_length_of_one_label_has_no_figures() -> None:
    evidence, virus = pieces(100, 1)
    bases = np.where(virus, 150, 300)
    assert length_figures(evidence, bases, virus, np.arange(100), None, resamples=20, seed=3) == {}


def test_a_rate_has_an_interval_over_groups() -> None:
    """Ten groups, each all right or all wrong, say less than a hundred items."""
    hit = np.repeat(np.arange(10) % 2 == 0, 10)
    of_groups, of_items = rate(hit, np.arange(100) // 10, 500, 1), rate(hit, np.arange(100), 500, 1)
    assert of_groups["value"] == of_items["value"] == 0.5
    assert of_groups["low"] is not None
    assert of_items["low"] is not None
    assert of_groups["low"] < of_items["low"] - 0.05
    assert rate(hit, np.zeros(100), 500, 1) == {"value": 0.5, "low": None, "high": None}
    assert rate(hit[:0], np.zeros(0), 500, 1)["value"] is None
