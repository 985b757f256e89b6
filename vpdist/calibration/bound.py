"""How many of a set of calls are false at most, whichever set was chosen, also after looking at the p-values.

Song, Jin and Candès, Everywhere Valid Bounds on False Discovery Proportions in Conformal Inference (2026,
arXiv:2605.20726): an envelope over the number of null p-values below each border, simulated from their joint
distribution, which depends on the numbers of null scores and of sequences alone, holds at all borders at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

CONFIDENCE = 0.95
DRAWS = 1999
"""Simulated samples; with one more, 5 % of them is a whole number."""
SEED = 2026
BORDERS = np.concatenate(([0.0], np.geomspace(1e-5, 1.0, 101)))
"""Where the envelope is known, from p = 0 to 1."""


def most_false(
    p_value: np.ndarray,
    number: np.ndarray,
    n_null: Mapping[int, int],
    called: np.ndarray,
    confidence: float = CONFIDENCE,
) -> int | None:
    """With probability `confidence` at most so many of the `called` (n,) bool sequences are no viruses, for all sets of
    calls at once.

    For every border t the false ones among the calls are at most the null sequences with p at most t, of which the
    envelope knows how many, and the calls with p above t. Assumes that sequences that are no viruses are exchangeable
    with the null ones of their class. Takes all sequences for such ones, which errs on the safe side.

    Args:
        p_value: (n,) conformal p-values, NaN without; calls without one may all be false.
        number: (n,) length class of each.
        n_null: null scores by length class.

    None where no sequence has a p-value.
    """
    most = envelope_of(p_value, number, n_null, confidence)
    return None if most is None else false_within(most, p_value[called])


def envelope_of(
    p_value: np.ndarray, number: np.ndarray, n_null: Mapping[int, int], confidence: float = CONFIDENCE
) -> np.ndarray | None:
    """The `envelope` of a run's sequences, None where none has a p-value; arguments as of `most_false`."""
    known = ~np.isnan(p_value)
    if not known.any():
        return None
    classes, counts = np.unique(number[known], return_counts=True)
    return envelope([(n_null[int(k)], int(m)) for k, m in zip(classes, counts, strict=True)], confidence)


def false_within(most: np.ndarray, p_value: np.ndarray) -> int:
    """As `most_false`, from an envelope, which is the same for all sets of calls of a run, and the calls' p-values."""
    known = np.sort(p_value[~np.isnan(p_value)])
    above = len(known) - np.searchsorted(known, BORDERS, side="right")
    return int(min((most + above).min(), len(known))) + len(p_value) - len(known)


def envelope(classes: list[tuple[int, int]], confidence: float = CONFIDENCE) -> np.ndarray:
    """(b,) int64: the number of p-values at most each of BORDERS stays at or below this, at all of them at once, with
    probability `confidence`, if no sequence is a virus. `classes`: null scores and sequences of each length class.

    Given the n null scores, a sequence's p-value is at most j / (n + 1) with the probability that the j-th of n uniform
    numbers has; gaps between such numbers are gamma variables over their sum. So a draw takes as many numbers as there
    are borders, however many null scores and sequences.
    """
    rng = np.random.default_rng(SEED)
    drawn = np.zeros((DRAWS, len(BORDERS)), np.int64)
    for n, m in classes:
        passed = np.floor(BORDERS * (n + 1) + 1e-9).astype(np.int64)  # null scores up to each border; n + 1 at p = 1
        gaps = rng.standard_gamma(np.diff(passed, prepend=0, append=n + 1), (DRAWS, len(BORDERS) + 1))
        drawn += np.cumsum(rng.multinomial(m, gaps / gaps.sum(axis=1, keepdims=True)), axis=1)[:, :-1]
    ordered = np.sort(drawn, axis=0)
    rank = np.max([np.searchsorted(ordered[:, b], drawn[:, b]) for b in range(len(BORDERS))], axis=0)
    allowed = np.sort(rank)[min(DRAWS, int(np.ceil(confidence * (DRAWS + 1)))) - 1]
    return np.asarray(ordered[allowed])
