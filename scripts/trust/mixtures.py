"""Mixtures of viruses and others at a known share, drawn from scored sequences, and how vpdist judges each of them.

A sample of genomes is drawn with replacement, then mixtures from it: sequences of a genome are no independent
observations, so intervals are over samples of genomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.judgement import VIRUS as CALLED_VIRUS
from vpdist.calibration.judgement import Choice, Evidence, Rule, calls, judge, q_values
from vpdist.calibration.scores import log_odds
from vpdist.training.metrics import Judged, figures

NOMINAL = (0.01, 0.05, 0.10)
SAMPLES, PER_SAMPLE = 40, 5
"""Samples of genomes, and mixtures of each: 200 in all."""
SIZE = 1000
"""Sequences of a mixture."""
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Pool:
    """n scored sequences of one length, of both labels."""

    evidence: Evidence
    virus: np.ndarray
    """(n,) bool."""
    group: np.ndarray
    """(n,) int64, their genomes."""
    source: np.ndarray
    """(n,) str, the file they come from."""

    def rows(self, which: np.ndarray) -> Pool:
        evidence = self.evidence
        taken = Evidence(evidence.virus[which], evidence.nonvirus[which], evidence.bases[which])
        return Pool(taken, self.virus[which], self.group[which], self.source[which])


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Interval:
        """Over samples of genomes; NaN are left out."""
        known = values[~np.isnan(values)]
        if not len(known):
            return cls(float("nan"), float("nan"), float("nan"))
        low, high = np.percentile(known, INTERVAL)
        return cls(float(known.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True)
class MixtureFigures:
    """What came of 200 mixtures of one length at one share of viruses."""

    share: float
    false_discovery: dict[float, Interval]
    """By nominal rate: the share of false calls among those at most at this q-value, 0 where there is none."""
    found: dict[float, Interval]
    """By nominal rate: the share of viruses that are called."""
    estimated: Interval
    """The share of viruses, as estimated."""
    relative_error: Interval
    """|estimated - true| / true."""
    covered: float
    """The share of mixtures whose true share lies in the interval that is told."""


def sampled(pool: Pool, rng: np.random.Generator) -> np.ndarray:
    """Rows of as many genomes of each label as there are, drawn with replacement."""
    rows = []
    for virus in (False, True):
        mine = np.flatnonzero(pool.virus == virus)
        mine = mine[np.argsort(pool.group[mine], kind="stable")]
        _, starts, sizes = np.unique(pool.group[mine], return_index=True, return_counts=True)
        drawn = rng.integers(0, len(starts), len(starts))
        within = np.arange(sizes[drawn].sum()) - np.repeat(np.cumsum(sizes[drawn]) - sizes[drawn], sizes[drawn])
        rows.append(mine[np.repeat(starts[drawn], sizes[drawn]) + within])
    return np.concatenate(rows)


def mixture(pool: Pool, rows: np.ndarray, share: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `size` sequences, a binomial number of them viruses (at least one: something to find)."""
    n = max(1, int(rng.binomial(size, share)))
    virus, other = rows[pool.virus[rows]], rows[~pool.virus[rows]]
    return np.concatenate((rng.choice(virus, n), rng.choice(other, size - n)))


def mixed(
    pool: Pool, calibration: Calibration, nulls: NullScores, share: float, rng: np.random.Generator, size: int = SIZE
) -> MixtureFigures:
    """The figures of SAMPLES x PER_SAMPLE mixtures."""
    false: dict[float, list[float]] = {rate: [] for rate in NOMINAL}
    found: dict[float, list[float]] = {rate: [] for rate in NOMINAL}
    estimates, errors, covered = [], [], []
    for _ in range(SAMPLES):
        genomes = sampled(pool, rng)
        each: list[list[float]] = []
        for _ in range(PER_SAMPLE):
            drawn = pool.rows(mixture(pool, genomes, share, size, rng))
            judged = judge(drawn.evidence, calibration, nulls, Choice())
            true = float(drawn.virus.mean())
            rates = []
            for rate in NOMINAL:
                called = calls(judged.probability, q_values(judged.probability), Rule(rate, 0.5, 0.0)) == CALLED_VIRUS
                rates += [float((called & ~drawn.virus).sum() / max(1, called.sum()))]
                rates += [float((called & drawn.virus).sum() / drawn.virus.sum())]
            told = judged.share
            assert told is not None
            covered.append(told.low is not None and told.high is not None and told.low <= true <= told.high)
            each.append([*rates, told.value, abs(told.value - true) / true])
        means = np.mean(each, axis=0)
        for number, rate in enumerate(NOMINAL):
            false[rate].append(means[2 * number])
            found[rate].append(means[2 * number + 1])
        estimates.append(means[-2])
        errors.append(means[-1])
    return MixtureFigures(
        share,
        {rate: Interval.of(np.array(values)) for rate, values in false.items()},
        {rate: Interval.of(np.array(values)) for rate, values in found.items()},
        Interval.of(np.array(estimates)),
        Interval.of(np.array(errors)),
        float(np.mean(covered)),
    )


@dataclass(frozen=True, slots=True)
class CalibrationError:
    """The expected calibration error of probabilities, both labels weighing the same."""

    found: Interval
    """Its interval is over samples of genomes."""
    by_chance: float
    """What as many sequences have whose labels are drawn with just these probabilities: it is never 0."""


def calibration_error(
    pool: Pool, calibration: Calibration, nulls: NullScores, rng: np.random.Generator
) -> CalibrationError:
    """15 bins of equal width (Guo et al. 2017), of the sequences that are calibrated."""
    judged = judge(pool.evidence, calibration, nulls, Choice(prevalence=0.5))
    known = ~np.isnan(judged.probability)

    def error(rows: np.ndarray, virus: np.ndarray) -> float:
        if not 0 < virus.sum() < len(virus):
            return float("nan")
        weight = np.where(virus, 0.5 / virus.sum(), 0.5 / (~virus).sum())
        items = Judged.of(virus, judged.probability[rows], np.zeros(len(rows), np.int64))
        return figures(items, weight[np.argsort(-judged.probability[rows], kind="stable")])["ece"]

    everything = np.flatnonzero(known)
    samples = (rows[known[rows]] for rows in (sampled(pool, rng) for _ in range(SAMPLES)))
    drawn = [error(rows, pool.virus[rows]) for rows in samples]
    chance = [error(everything, rng.random(len(everything)) < judged.probability[everything]) for _ in range(SAMPLES)]
    low, high = map(float, np.nanpercentile(drawn, INTERVAL))
    found = Interval(error(everything, pool.virus[everything]), low, high)
    return CalibrationError(found, float(np.nanmean(chance)))


def below(pool: Pool, nulls: NullScores, rates: Sequence[float], rng: np.random.Generator) -> dict[float, Interval]:
    """The share of the pool's sequences that are no viruses with a p-value of at most each rate; uniform p-values have
    the rate itself."""
    p = nulls.p_values(log_odds(pool.evidence.virus, pool.evidence.nonvirus), pool.evidence.bases)
    known = ~pool.virus & ~np.isnan(p)
    drawn: dict[float, list[float]] = {rate: [] for rate in rates}
    for _ in range(SAMPLES):
        rows = sampled(pool, rng)
        rows = rows[known[rows]]
        for rate in rates:
            drawn[rate].append(float((p[rows] <= rate).mean()) if len(rows) else float("nan"))
    return {
        rate: Interval(float((p[known] <= rate).mean()) if known.any() else float("nan"), *_ends(np.array(values)))
        for rate, values in drawn.items()
    }


def _ends(values: np.ndarray) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, INTERVAL)
    return float(low), float(high)
