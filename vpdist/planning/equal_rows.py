"""Rows of two plans that hold the same fragments, told by the lengths and hashes by which a plan unites fragments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import EncoderCost, Plan

MIXING = np.uint64(0x9E3779B97F4A7C15)
"""An odd number, so that the two hashes of a fragment do not cancel each other where they are joined."""


def first_fragments(plan: Plan) -> np.ndarray:
    """(r,) the first fragment of each row, whose keys are those of the row."""
    return plan.fragment[plan.row_start[:-1]]


def equal_rows(keys: FragmentKeys, plan: Plan, earlier_keys: FragmentKeys, earlier_plan: Plan) -> np.ndarray:
    """(r,) int64: for each row of `plan` the row of `earlier_plan` that holds the same fragments, -1 without one."""
    ours, theirs = first_fragments(plan), first_fragments(earlier_plan)
    if len(theirs) == 0:
        return np.full(len(ours), -1, dtype=np.int64)
    joined = _joined_hashes(earlier_keys, theirs)
    order = np.argsort(joined)
    position = np.searchsorted(joined[order], _joined_hashes(keys, ours))
    found = order[np.minimum(position, len(order) - 1)]
    # Two rows whose joined hashes are equal by chance: one is not found, and computed again.
    equal = np.ones(len(ours), dtype=bool)
    for name in ("residues", "nucleotide_tokens", "nucleotide_hash", "protein_hash"):
        equal &= getattr(keys, name)[ours] == getattr(earlier_keys, name)[theirs[found]]
    return np.where(equal, found, -1)


def _joined_hashes(keys: FragmentKeys, fragments: np.ndarray) -> np.ndarray:
    """(r,) uint64."""
    return keys.nucleotide_hash[fragments] * MIXING + keys.protein_hash[fragments]


def work_left(
    keys: FragmentKeys, plan: Plan, costs: Mapping[str, EncoderCost], is_known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(u,) cost and (u,) tokens of each unit without the rows that are known; (r,) bool says which are."""
    rows = first_fragments(plan)
    unit_cost, unit_tokens = np.zeros((2, plan.n_units), dtype=np.int64)
    for kind, cost in costs.items():
        lengths = np.where(is_known, 0, keys.tokens[kind][rows])
        unit_cost += np.add.reduceat(np.append(np.where(is_known, 0, cost.of(lengths)), 0), plan.unit_row)[:-1]
        unit_tokens += np.add.reduceat(np.append(lengths, 0), plan.unit_row)[:-1]
    return unit_cost, unit_tokens
