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
