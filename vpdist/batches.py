"""Batches of one unit for one encoder: sequences of like length together, up to a token budget.

A batch is a function of its unit and the budget alone, never of ranks: a linear layer gives other bits for other batch
shapes, and results must not depend on how many ranks there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vpdist.plan import greedy_ends


def batches(lengths: np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """Positions of `lengths` (tokens per sequence) batch by batch, in length order, each batch within the budget.

    A sequence longer than the budget is a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in greedy_ends(lengths[order], token_budget).tolist():
        yield order[start:end]
        start = end


def take(flat: np.ndarray, offsets: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sequences at `positions` of a flat array with offsets (n + 1,), as a flat array with offsets again."""
    starts = offsets[positions]
    lengths = offsets[positions + 1] - starts
    taken = np.zeros(len(positions) + 1, dtype=np.int64)
    np.cumsum(lengths, out=taken[1:])
    index = np.arange(taken[-1], dtype=np.int64) + np.repeat(starts - taken[:-1], lengths)
    return flat[index], taken
