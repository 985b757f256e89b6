"""Scores of all fragments, filled part by part: softmax of the logits, NaN where nothing was classified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of all n fragments in input order."""

    virus: np.ndarray
    """(n,) float32, NaN without a score."""
    nonvirus: np.ndarray
    """(n,) float32."""
    failed: np.ndarray
    """(n,) bool: no usable embedding."""
    distance: np.ndarray | None = None
    """(n,) float32 distance from the model's summary of embeddings, 1 the limit; NaN where it is not known; None where
    the model has none."""

    @classmethod
    def empty(cls, n: int, *, distances: bool = False) -> Scores:
        nan = np.full(n, np.nan, dtype=np.float32)
        return cls(nan, nan.copy(), np.zeros(n, dtype=bool), nan.copy() if distances else None)

    def set_unit(
        self,
        fragment: np.ndarray,
        row: np.ndarray,
        failed: np.ndarray,
        logits: np.ndarray | None,
        distance: np.ndarray | None = None,
    ) -> None:
        """Set a unit's scores: numbers of its fragments, the row of each, failures (m,), logits (m, 2) and, where the
        model has a summary, distances (m,) of rows."""
        if self.distance is not None and distance is not None:
            self.distance[fragment] = distance[row]
        self.failed[fragment] = failed[row].astype(bool)
        if logits is not None:
            nonvirus, virus = softmax(logits)
            good = failed[row] == 0
            self.virus[fragment[good]] = virus[row[good]]
            self.nonvirus[fragment[good]] = nonvirus[row[good]]


def softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores for class 0 (others) and class 1 (virus), each (m,) float32, from logits (m, 2)."""
    exact = logits.astype(np.float64)
    exponential = np.exp(exact - exact.max(axis=1, keepdims=True))
    scores = (exponential / exponential.sum(axis=1, keepdims=True)).astype(np.float32)
    return scores[:, 0], scores[:, 1]
