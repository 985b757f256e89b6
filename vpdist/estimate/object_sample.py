"""Which objects of a manifest are counted, and what they say of all of them.

Objects are sorted by format and size and cut into strata of about equal bytes, so that a large object is about as
likely to be drawn per byte as many small ones. Totals are ratio estimates, format by format: what a byte of the sampled
objects holds, times all bytes. Formulas: Cochran, Sampling Techniques, 3rd edition (1977), the combined ratio estimator
of section 6.11.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PER_STRATUM = 2
"""Objects of a stratum: the fewest that show how much they differ."""
COMPRESSIONS = ("gz", "bz2", "xz", "zst")
MOST_FORMATS = 5
T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12)
"""Student's 97.5 % quantiles for 1, 2, ... degrees of freedom."""
NORMAL_QUANTILE = 1.96


@dataclass(frozen=True, slots=True)
class Range:
    """An estimated total with its 95 % interval."""

    expected: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """The range of a multiple."""
        return Range(self.expected * factor, self.low * factor, self.high * factor)

    def plus(self, known: float) -> Range:
        """The range of the total and something that is known."""
        return Range(self.expected + known, self.low + known, self.high + known)


@dataclass(frozen=True, slots=True)
class Stratum:
    """Objects (numbers in the manifest), and those of them that are counted."""

    format: int
    objects: np.ndarray
    drawn: np.ndarray


def formats(names: Sequence[str]) -> list[str]:
    """What the objects' names say of their format, such as `fa.gz`; rare ones are all ''.

    Files of one format hold about as many bases a byte."""
    found = []
    for name in names:
        pieces = name.rsplit("/", 1)[-1].lower().split(".")[1:]
        found.append(".".join(pieces[-2:] if pieces and pieces[-1] in COMPRESSIONS else pieces[-1:]))
    common = {name for name, _ in Counter(found).most_common(MOST_FORMATS)}
    return [name if name in common else "" for name in found]


def draw(sizes: np.ndarray, formats: Sequence[str], n: int, seed: int) -> list[Stratum]:
    """Strata of all objects with about `n` drawn of them at random; everything where there are no more than that.

    `sizes`: (objects,) bytes. Empty objects hold nothing, and are in no stratum.
    """
    rng = np.random.default_rng(seed)
    kind = np.unique(np.asarray(formats), return_inverse=True)[1] if len(sizes) else np.zeros(0, np.int64)
    order = np.lexsort((np.arange(len(sizes)), sizes, kind))
    order = order[sizes[order] > 0]
    if len(order) <= n:
        return [Stratum(0, order, order)] if len(order) else []
    strata = []
    before = np.cumsum(sizes[order], dtype=np.float64)
    middle = before - sizes[order] / 2
    for group in _groups(kind[order], middle, max(1, n // PER_STRATUM) / before[-1]):
        objects = order[group]
        drawn = objects if len(objects) <= PER_STRATUM else rng.choice(objects, PER_STRATUM, replace=False)
        strata.append(Stratum(int(kind[objects[0]]), objects, np.sort(drawn)))
    return strata


def _groups(kind: np.ndarray, middle: np.ndarray, per_byte: float) -> list[np.ndarray]:
    """Positions in strata of equal bytes within each format: one at least, and no object left alone among many."""
    groups = []
    for number in np.unique(kind).tolist():
        mine = np.flatnonzero(kind == number)
        begun = middle[mine[0]]
        span = (middle[mine[-1]] - begun) or 1.0
        n = max(1, min(len(mine) // PER_STRATUM, round(per_byte * span)))
        stratum = np.minimum(n - 1, ((middle[mine] - begun) / span * n).astype(np.int64))
        groups += [mine[stratum == each] for each in np.unique(stratum).tolist()]
    return groups


def total(sizes: np.ndarray, strata: Sequence[Stratum], values: np.ndarray) -> Range:
    """The total of a quantity over all objects, from its values (objects,) where they are drawn; others are not read.

    Where everything is drawn the interval is the total itself.
    """
    expected, variance, freedom = 0.0, 0.0, 0
    for of_format in {stratum.format for stratum in strata}:
        mine = [stratum for stratum in strata if stratum.format == of_format]
        ratio = _weighted_sum(values, mine) / _weighted_sum(sizes, mine)
        expected += ratio * float(sum(sizes[stratum.objects].sum() for stratum in mine))
        for stratum in mine:
            n_all, n = len(stratum.objects), len(stratum.drawn)
            if n < n_all:
                left = values[stratum.drawn] - ratio * sizes[stratum.drawn]
                variance += n_all**2 * (1 - n / n_all) * float(np.var(left, ddof=1)) / n
                freedom += n - 1
    quantile = T_QUANTILES[freedom - 1] if 0 < freedom <= len(T_QUANTILES) else NORMAL_QUANTILE
    half = quantile * variance**0.5
    return Range(expected, max(0.0, expected - half), expected + half)


def _weighted_sum(values: np.ndarray, strata: Sequence[Stratum]) -> float:
    """Over the drawn objects, each for as many as its stratum has to one drawn."""
    return sum(len(each.objects) / len(each.drawn) * float(values[each.drawn].sum()) for each in strata)
