"""How well a model does on pieces of one length: AUROC, and how often its answers are wrong.

Enters: the scores of the test side's pieces, as the tables have them. Leaves: figures by length with 95 % intervals
over groups, as they stand on the card.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.judgement import Choice, Evidence, judge
from vpdist.models.card import LENGTHS, NOMINAL
from vpdist.training.metrics import INTERVAL, Judged, with_intervals


def length_figures(
    evidence: Evidence,
    bases: np.ndarray,
    virus: np.ndarray,
    group: np.ndarray,
    judges: tuple[Calibration, NullScores] | None,
    *,
    resamples: int,
    seed: int,
    raise_if_ending: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """By length of `card.LENGTHS` that has pieces of either label: counts, AUROC, `card.RATES`, and ECE of the
    probabilities at the pieces' own share of viruses. None in place of what cannot be known, as false calls without a
    calibration.

    Args: all (n,), of pieces of the test side; `bases`: their lengths.
    """
    table: dict[str, Any] = {}
    for length in LENGTHS:
        here = np.flatnonzero(bases == length)
        if 0 < virus[here].sum() < len(here):
            of_length = Evidence(evidence.virus[here], evidence.nonvirus[here], evidence.bases[here])
            table[str(length)] = _of_one_length(
                of_length, virus[here], group[here], judges, resamples, seed, raise_if_ending
            )
    return table


def _of_one_length(
    evidence: Evidence,
    virus: np.ndarray,
    group: np.ndarray,
    judges: tuple[Calibration, NullScores] | None,
    resamples: int,
    seed: int,
    raise_if_ending: Callable[[], None],
) -> dict[str, Any]:
    share = evidence.virus / (evidence.virus + evidence.nonvirus)
    q = probability = np.full(len(virus), np.nan)
    if judges is not None:
        judgement = judge(evidence, *judges, Choice(prevalence=float(virus.mean())))
        q, probability = judgement.q_value, judgement.probability
    scored, called = ~np.isnan(share), share >= 0.5
    rates = {
        "no_score": (~scored, np.ones(len(virus), bool)),
        "false_virus": (called, ~virus & scored),
        "missed_virus": (~called, virus & scored),
        "found": (q <= NOMINAL, virus & ~np.isnan(q)),
        "false_discovery": (~virus, q <= NOMINAL),
    }
    found: dict[str, Any] = {"n": len(virus), "virus": int(virus.sum()), "groups": len(np.unique(group))}
    for name, values in (("auroc", share), ("ece", probability)):
        known = ~np.isnan(values)
        items = Judged.of(virus[known], values[known], group[known])
        found[name] = with_intervals(items, resamples, seed, raise_if_ending)[name]
    return found | {name: rate(hit[of], group[of], resamples, seed) for name, (hit, of) in rates.items()}


def rate(hit: np.ndarray, group: np.ndarray, resamples: int, seed: int) -> dict[str, float | None]:
    """The share of hits (n,) bool with its interval, percentiles over resamples of whole groups (Efron 1979); None
    where there is nothing to count, or one group only."""
    if not len(hit):
        return {"value": None, "low": None, "high": None}
    number = np.unique(group, return_inverse=True)[1]
    hits, sizes = np.bincount(number, hit), np.bincount(number)
    found: dict[str, float | None] = {"value": float(hit.mean()), "low": None, "high": None}
    if len(sizes) > 1 and resamples:
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), resamples)
        found["low"], found["high"] = np.percentile((drawn @ hits) / (drawn @ sizes), INTERVAL).tolist()
    return found
