"""What is known of all sequences of a run at once, and what a calibration says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CALLS = ("NA", "non-virus", "virus", "uncertain")
"""By their numbers in `Judgement.call`."""
UNKNOWN, NON_VIRUS, VIRUS, UNCERTAIN = range(4)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of each of n sequences, in input order."""

    virus: np.ndarray
    """(n,) float64 consensus of the scored chunks' virus scores; NaN where none is scored."""
    nonvirus: np.ndarray
    """(n,) float64."""
    bases: np.ndarray
    """(n,) int64, bases that were scored: those of the scored chunks, overlaps counted once as far as the sequence's
    length tells."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of each of n sequences, in input order; NaN and UNKNOWN where nothing is known."""

    probability: np.ndarray
    """(n,) float64."""
    q_value: np.ndarray
    p_value: np.ndarray
    call: np.ndarray
    """(n,) int8, index into CALLS."""

    @classmethod
    def unknown(cls, n: int) -> Judgement:
        """Nothing is known of any of n sequences."""
        nan = np.full(n, np.nan)
        return cls(nan, nan, nan, np.zeros(n, np.int8))

    def rows(self, which: slice) -> Judgement:
        return Judgement(self.probability[which], self.q_value[which], self.p_value[which], self.call[which])


Judge = Callable[[Evidence], Judgement]
"""From the scores of all sequences to what is said of them; `None` stands for a run without a calibration."""
