"""A plan's work per encoder: lengths of its rows, and stretches of rows that represent all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vpdist.commands.resolve_config import cost_of
from vpdist.encoders.shape import encoder_shape
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import EncoderCost, Plan, greedy_ends

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of this, modulo 1, are spread evenly, however few are taken (Weyl's sequence)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The work of each encoder."""

    plan: Plan
    lengths: dict[str, np.ndarray]
    """(rows,) tokens per row, by kind."""
    costs: dict[str, EncoderCost]
    widths: dict[str, int]
    """Numbers per embedding, by kind."""

    @classmethod
    def of(cls, plan: Plan, keys: FragmentKeys, models: Mapping[str, Path]) -> Workload:
        """The workload of a plan made from `keys` for these encoders (folder by kind)."""
        first = plan.fragment[plan.row_start[:-1]]
        shapes = {kind: encoder_shape(folder) for kind, folder in models.items()}
        return cls(
            plan=plan,
            lengths={kind: keys.tokens[kind][first] for kind in shapes},
            costs={kind: cost_of(shape) for kind, shape in shapes.items()},
            widths={kind: shape.width for kind, shape in shapes.items()},
        )

    def stretches(self, n: int, token_budget: int) -> tuple[np.ndarray, np.ndarray]:
        """(m, 2) first and last row + 1 of stretches at n equal steps of cost, m <= n; and their costs (m,).

        Every prefix of the list is spread over the plan, so that timing may stop early. Without rows, none.
        """
        costs = sum(self.costs[kind].of(lengths) for kind, lengths in self.lengths.items())
        end = np.cumsum(costs)
        positions = (np.arange(n) * GOLDEN + 0.5) % 1 if len(end) else np.zeros(0)
        rows = np.searchsorted(end, positions * end[-1:], side="right").tolist()
        distinct = list(dict.fromkeys(self._around(row, token_budget) for row in rows))
        stretches = np.array(distinct, np.int64).reshape(-1, 2)
        return stretches, end[stretches[:, 1] - 1] - (end - costs)[stretches[:, 0]]

    def longest(self, token_budget: int) -> np.ndarray:
        """(encoders, 2) the stretch with the longest sequence of each encoder."""
        return np.array([self._around(int(lengths.argmax()), token_budget) for lengths in self.lengths.values()])

    def _around(self, row: int, token_budget: int) -> tuple[int, int]:
        """The rows around `row`, within its unit, that fill a batch of each encoder."""
        unit = int(np.searchsorted(self.plan.unit_row, row, side="right")) - 1
        first, end = self.plan.rows(unit).start, self.plan.rows(unit).stop
        fewest = np.minimum.reduce([lengths[first:end] for lengths in self.lengths.values()])
        bounds = [first, *(first + greedy_ends(fewest, token_budget)).tolist()]
        number = int(np.searchsorted(bounds, row, side="right"))
        return bounds[number - 1], bounds[number]


def cut_out(plan: Plan, stretches: np.ndarray) -> tuple[Plan, list[int]]:
    """The plan with other units, so that each stretch (n, 2) of rows is one; and the unit of each stretch.

    Shards remain as they are on disk. Cost and tokens of the new units are 0.
    """
    shard_row = plan.unit_row[plan.shard_unit]
    unit_row = np.unique(np.concatenate((shard_row, stretches.ravel())))
    zeros = np.zeros(len(unit_row) - 1, np.int64)
    shard_unit = np.searchsorted(unit_row, shard_row)
    cut = replace(plan, unit_row=unit_row, unit_cost=zeros, unit_tokens=zeros, shard_unit=shard_unit)
    return cut, np.searchsorted(unit_row, stretches[:, 0]).tolist()
