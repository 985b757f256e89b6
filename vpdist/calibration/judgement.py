"""From the scores of all sequences of a run and a calibration to probabilities, q-values, p-values and calls."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vpdist.calibration.bound import CONFIDENCE, envelope_of, false_within
from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.prevalence import MOST_BELIEVED, Prevalence, prevalence
from vpdist.calibration.scores import log_odds

CALLS = ("NA", "non-virus", "virus", "uncertain")
"""By their numbers in `Judgement.call`."""
UNKNOWN, NON_VIRUS, VIRUS, UNCERTAIN = range(4)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of each of n sequences, in input order."""

    virus: np.ndarray
    """(n,) float64 mean of the scored chunks' virus scores; NaN where none is scored."""
    nonvirus: np.ndarray
    """(n,) float64."""
    bases: np.ndarray
    """(n,) int64, bases that were scored: those of the scored chunks, at most those of the sequence."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of each of n sequences, in input order; NaN and UNKNOWN where nothing is known."""

    probability: np.ndarray
    """(n,) float64."""
    q_value: np.ndarray
    p_value: np.ndarray
    call: np.ndarray
    """(n,) int8, index into CALLS."""
    share: Prevalence | None = None
    """Of viruses in the sample; None where nothing is known."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which sequences are called what."""

    max_fdr: float
    """virus: the q-value is at most this, and the probability at least `least_virus`."""
    least_virus: float
    most_other: float
    """non-virus: the probability is below this. What is neither is uncertain."""


SENSITIVE, BALANCED, STRICT = "sensitive", "balanced", "strict"
PRESETS = {
    SENSITIVE: Rule(max_fdr=0.10, least_virus=0.5, most_other=0.05),
    BALANCED: Rule(max_fdr=0.05, least_virus=0.5, most_other=0.2),
    STRICT: Rule(max_fdr=0.01, least_virus=0.9, most_other=0.5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the user chose."""

    preset: str = BALANCED
    max_fdr: float | None = None
    """In place of the preset's."""
    prevalence: float | None = None
    """The sample's share of viruses; None: estimated."""

    @property
    def rule(self) -> Rule:
        rule = PRESETS[self.preset]
        return rule if self.max_fdr is None else replace(rule, max_fdr=self.max_fdr)


def probabilities(log_ratio: np.ndarray, share: float) -> np.ndarray:
    """(n,) posterior probabilities of a virus, from ln(f1 / f0) and the sample's share of viruses (neither 0 nor 1)."""
    logit = log_ratio + np.log(share) - np.log1p(-share)
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)))


def q_values(probability: np.ndarray) -> np.ndarray:
    """(n,) running means of 1 - probability from the most probable sequence down; equal ones share their last mean.

    It is the share of false calls to expect if all that are at least as probable are called virus. NaN as there.
    """
    q = np.full(len(probability), np.nan)
    known = np.flatnonzero(~np.isnan(probability))
    order = known[np.argsort(-probability[known], kind="stable")]
    falling = probability[order]
    means = np.cumsum(1.0 - falling) / np.arange(1, len(order) + 1)
    q[order] = means[np.searchsorted(-falling, -falling, side="right") - 1]
    return q


def calls(probability: np.ndarray, q: np.ndarray, rule: Rule) -> np.ndarray:
    """(n,) int8, index into CALLS."""
    call = np.full(len(probability), UNCERTAIN, np.int8)
    call[probability < rule.most_other] = NON_VIRUS
    call[(q <= rule.max_fdr) & (probability >= rule.least_virus)] = VIRUS
    call[np.isnan(probability)] = UNKNOWN
    return call


def judge(
    evidence: Evidence,
    calibration: Calibration,
    nulls: NullScores,
    choice: Choice,
    *,
    cautious: bool = True,
) -> Judgement:
    """What a calibration says of all sequences of a run; the same evidence gives the same judgement.

    `cautious`: nothing is said of what is longer than the calibration reaches, and an estimated share near 1 is not
    believed.
    """
    score = log_odds(evidence.virus, evidence.nonvirus)
    if cautious:
        score[~calibration.reaches(evidence.bases)] = np.nan
    log_ratio = calibration.log_likelihood_ratio(score, evidence.bases)
    share = prevalence(log_ratio, choice.prevalence, MOST_BELIEVED if cautious else 1.0)
    probability = probabilities(log_ratio, share.value)
    q, p = q_values(probability), nulls.p_values(score, evidence.bases)
    return Judgement(probability, q, p, calls(probability, q, choice.rule), share)


def described(judgement: Judgement, evidence: Evidence, nulls: NullScores, choice: Choice) -> dict[str, Any]:
    """What run.json keeps of a judgement: the sample's share of viruses, the rule, the number of calls, how many of
    those called virus are expected to be false, and how many at most (`bound.most_false`; None without p-values), with
    the envelope by which that is known of any other set of calls (`bound.false_within`)."""
    share, rule, called = judgement.share, choice.rule, judgement.call == VIRUS
    envelope = envelope_of(judgement.p_value, nulls.number_of(evidence.bases), nulls.sizes())
    return {
        "calibrated_sequences": int((judgement.call != UNKNOWN).sum()),
        "prevalence": None if share is None else asdict(share),
        "preset": choice.preset,
        "max_fdr": rule.max_fdr,
        "least_virus_probability": rule.least_virus,
        "most_other_probability": rule.most_other,
        "calls": {name: int((judgement.call == number).sum()) for number, name in enumerate(CALLS)},
        "expected_false": float((1.0 - judgement.probability[called]).sum()),
        "most_false": None if envelope is None else false_within(envelope, judgement.p_value[called]),
        "envelope": None if envelope is None else envelope.tolist(),
        "confidence": CONFIDENCE,
    }
