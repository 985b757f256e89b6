"""The proof of what is said of calls: it passes for scores whose distributions are as they were, and fails for others."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.mini.folds import write_fold
from scripts.trust import plots, prove
from scripts.trust.mixtures import Interval, Pool, below, calibration_error, mixed, mixture, sampled
from scripts.trust.shuffled import shuffled
from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.fit import Scored, fit
from vpdist.calibration.judgement import Evidence

BASES = 700


def pool(rng: np.random.Generator, n: int, others_at: float = -1.5) -> Pool:
    """n sequences of each label, two to a genome; log-odds of viruses around 1.5 and of others around `others_at`."""
    log_odds = np.concatenate((rng.normal(1.5, 1.0, n), rng.normal(others_at, 1.0, n)))
    virus = 1 / (1 + np.exp(-log_odds))
    evidence = Evidence(virus, 1 - virus, np.full(2 * n, BASES))
    return Pool(evidence, np.arange(2 * n) < n, np.arange(2 * n) // 2, np.full(2 * n, "x"))


@pytest.fixture(scope="module")
def fitted() -> tuple[Calibration, NullScores]:
    known = pool(np.random.default_rng(1), 2000)
    log_odds = np.log(known.evidence.virus / known.evidence.nonvirus)
    calibration, nulls = fit(Scored(log_odds, known.evidence.bases, known.virus, known.group))
    assert calibration is not None
    assert nulls is not None
    return calibration, nulls


def test_mixtures_hold_where_scores_are_as_they_were(fitted: tuple[Calibration, NullScores]) -> None:
    same = pool(np.random.default_rng(2), 2000)
    for share in (0.01, 0.5):
        found = mixed(same, *fitted, share, np.random.default_rng(3))
        for rate, each in found.false_discovery.items():
            assert each.low <= rate
    assert found.relative_error.value < 0.05
    assert found.found[0.05].value > 0.8
    error = calibration_error(same, *fitted, np.random.default_rng(4))
    assert error.found.value < error.by_chance + 0.02
    assert 0 < error.by_chance < 0.03
    assert all(
        abs(each.value - rate) < 0.03
        for rate, each in below(same, fitted[1], (0.05, 0.5), np.random.default_rng(5)).items()
    )


def test_mixtures_fail_where_others_score_higher_than_they_did(fitted: tuple[Calibration, NullScores]) -> None:
    other = pool(np.random.default_rng(2), 2000, others_at=0.5)
    found = mixed(other, *fitted, 0.1, np.random.default_rng(3))
    assert found.false_discovery[0.05].low > 0.05
    assert calibration_error(other, *fitted, np.random.default_rng(4)).found.low > 0.05
    assert below(other, fitted[1], (0.05,), np.random.default_rng(5))[0.05].low > 0.05


def test_a_mixture_has_the_share_that_was_asked_for_and_draws_whole_genomes() -> None:
    rng = np.random.default_rng(1)
    source = pool(rng, 200)
    rows = sampled(source, rng)
    assert set(np.unique(source.group[rows], return_counts=True)[1] % 2) == {0}
    drawn = mixture(source, rows, 0.25, 4000, rng)
    assert len(drawn) == 4000
    assert abs(source.virus[drawn].mean() - 0.25) < 0.05
    assert source.virus[mixture(source, rows, 0.0, 10, rng)].sum() == 1


@given(st.text("ACGT", min_size=0, max_size=60), st.integers(0, 1000))
def test_a_shuffled_sequence_has_the_same_pairs_of_neighbours(sequence: str, seed: int) -> None:
    other = shuffled(sequence, np.random.default_rng(seed))
    assert Counter(pairwise(other)) == Counter(pairwise(sequence))
    assert other[:1] == sequence[:1]
    assert other[-1:] == sequence[-1:]


def test_a_long_sequence_comes_out_in_another_order() -> None:
    sequence = "".join(np.random.default_rng(1).choice(list("ACGT"), 500))
    assert shuffled(sequence, np.random.default_rng(2)) != sequence


def test_plots_of_the_same_figures_are_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, fitted: tuple[Calibration, NullScores]
) -> None:
    figures = {500: [mixed(pool(np.random.default_rng(2), 200), *fitted, 0.5, np.random.default_rng(3), size=50)]}
    first, second = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    for folder in (first, second):
        plots.draw(folder, "m", figures)
    written = sorted(path.name for path in first.iterdir())
    assert written == ["m-false-discovery.svg", "m-prevalence.svg"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in written)


@pytest.mark.slow
def test_the_short_proof_of_the_built_in_model_holds_on_contigs_that_it_has_not_seen(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    virus, other = (write_fold(shared / "data" / f"{name}.fa.gz", 0, tmp_path) for name in ("virus", "host"))
    arguments = ["prove", "--virus", str(virus), "--other", f"host={other}", "--model", "mini", "--short"]
    monkeypatch.setattr(sys, "argv", arguments)
    prove.main()
    told = capsys.readouterr().out
    mixtures = [
        line for line in told.splitlines() if line.startswith(("| 500 | 0.", "| 3,000 | 0.")) and line.count("|") == 10
    ]
    assert len(mixtures) == 4
    assert all(line.endswith("| yes |") for line in mixtures), told
    assert "host, shuffled" in told


def test_an_interval_leaves_out_what_is_not_known() -> None:
    assert Interval.of(np.array([1.0, np.nan])).value == 1.0
    assert np.isnan(Interval.of(np.array([np.nan])).value)
