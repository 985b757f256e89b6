"""A plan seen per encoder: the lengths and costs of its rows, its batches, and which of them stand for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpdist.batches import batches
from vpdist.decide import cost_of
from vpdist.plan import EncoderCost, FragmentKeys, Plan
from vpdist.ragged import offsets_of
from vpdist.trial import Batch
from vpdist.weights import encoder_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What each encoder has to do."""

    plan: Plan
    lengths: dict[str, np.ndarray]
    """(rows,) tokens per row, by kind."""
    costs: dict[str, EncoderCost]
    widths: dict[str, int]
    """Numbers per embedding, by kind."""

    @classmethod
    def of(cls, plan: Plan, keys: FragmentKeys, models: Mapping[str, Path]) -> Workload:
        """The workload of a plan that was made of `keys` for these encoders (folder by kind)."""
        first = plan.fragment[plan.row_start[:-1]]
        shapes = {kind: encoder_shape(folder) for kind, folder in models.items()}
        return cls(
            plan=plan,
            lengths={kind: keys.tokens[kind][first] for kind in shapes},
            costs={kind: cost_of(shape) for kind, shape in shapes.items()},
            widths={kind: shape.width for kind, shape in shapes.items()},
        )

    def unit_cost(self, kind: str) -> np.ndarray:
        """(units,) int64: what each unit costs in one encoder."""
        total = offsets_of(self.costs[kind].of(self.lengths[kind]))
        return np.diff(total[self.plan.unit_row])

    def spread_units(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """n units at equal steps of cost through the plan, and (n,) how far into its unit each step falls (0 to 1).

        Every beginning of the list is spread over the plan, so that it can be cut short. Without units, none.
        """
        plan = self.plan
        if not plan.n_units:
            return np.zeros(0, np.int64), np.zeros(0)
        end = np.cumsum(plan.unit_cost)
        steps = (np.array(_van_der_corput(n)) + 0.5) / n * end[-1]
        units = np.searchsorted(end, steps, side="right")
        return units, (steps - (end - plan.unit_cost)[units]) / plan.unit_cost[units]

    def batches_at(self, units: np.ndarray, places: np.ndarray, token_budget: int) -> list[Batch]:
        """Of each unit and encoder the batch at a place (0 to 1) of its cost, none twice."""
        found: dict[Batch, None] = {}
        for unit, place in zip(units.tolist(), places.tolist(), strict=True):
            for kind in self.lengths:
                lengths = self._lengths(kind, unit)
                end = np.cumsum([self.costs[kind].of(lengths[rows]).sum() for rows in batches(lengths, token_budget)])
                number = int(np.searchsorted(end, place * end[-1], side="right"))
                found[Batch(kind=kind, unit=unit, number=min(number, len(end) - 1))] = None
        return list(found)

    def longest(self, token_budget: int) -> list[Batch]:
        """Of each encoder the batch with the longest sequence."""
        found = []
        for kind, lengths in self.lengths.items():
            unit = int(np.searchsorted(self.plan.unit_row, int(lengths.argmax()), side="right")) - 1
            last = sum(1 for _ in batches(self._lengths(kind, unit), token_budget)) - 1
            found.append(Batch(kind=kind, unit=unit, number=last))
        return found

    def _lengths(self, kind: str, unit: int) -> np.ndarray:
        rows = self.plan.rows(unit)
        return self.lengths[kind][rows.start : rows.stop]


def _van_der_corput(n: int) -> list[int]:
    """0 to n - 1, every beginning of it spread over all: in the order of their binary digits read backwards."""
    bits = max(1, (n - 1).bit_length())
    return sorted(range(n), key=lambda k: int(f"{k:0{bits}b}"[::-1], 2))
