"""The plan of a manifest: a plan for each object, one after the other, so that an object's results are its own.

A batch and a unit hold fragments of one object only. A linear layer gives other bits for a row in another batch; by
this an object's scores are the same bits whatever else is in the manifest, in whichever shard it is read, and whichever
objects fail. The price: fragments that are equal in two objects are embedded twice, and an object's last batch is
smaller than the token budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from vpdist.encoder_kinds import KINDS
from vpdist.planning.plan import SHARD_TOKEN_BYTES, EncoderCost, FragmentKeys, Limits, Plan, build, greedy_ends

TAPER = 2
"""A unit of an object takes at most half of the cost that is left of it: the object of 17 MB that archives are made of
has about ten units then. Many objects balance ranks among them; of a large one the last units are single batches."""


def build_by_object(
    keys: FragmentKeys, limits: Limits, costs: Mapping[str, EncoderCost], first_fragment: np.ndarray
) -> Plan:
    """Plan all fragments. `first_fragment`: (objects + 1,) number of the first fragment of each object; the other
    arguments as in `build`."""
    plans, unit_bytes = [], [np.zeros(0, np.int64)]
    for first, end in pairwise(first_fragment.tolist()):
        mine = _between(keys, first, end)
        plan = build(mine, limits, costs, TAPER)
        plans.append((first, plan))
        unit_bytes.append(_unit_bytes(plan, mine, costs))
    return joined(plans, np.append(np.int64(0), greedy_ends(np.concatenate(unit_bytes), SHARD_TOKEN_BYTES)))


def joined(plans: list[tuple[int, Plan]], shard_unit: np.ndarray) -> Plan:
    """One plan of several, each with the number of its first fragment; they are consecutive."""
    rows = np.cumsum([0, *(plan.n_rows for _, plan in plans)]).tolist()
    start = [np.zeros(1, np.int64)]
    return Plan(
        fragment=np.concatenate([start[0][:0], *(plan.fragment + first for first, plan in plans)]),
        row_start=np.concatenate([*start, *(plan.row_start[1:] + first for first, plan in plans)]),
        unit_row=np.concatenate(
            [*start, *(plan.unit_row[1:] + row for row, (_, plan) in zip(rows, plans, strict=False))]
        ),
        unit_cost=np.concatenate([start[0][:0], *(plan.unit_cost for _, plan in plans)]),
        unit_tokens=np.concatenate([start[0][:0], *(plan.unit_tokens for _, plan in plans)]),
        shard_unit=shard_unit,
    )


def units_of_objects(plan: Plan, first_fragment: np.ndarray) -> np.ndarray:
    """(objects + 1,) the first unit of each object in a plan of `build_by_object`."""
    fragments_before = plan.row_start[plan.unit_row]
    return np.searchsorted(fragments_before, first_fragment).astype(np.int64)


def _between(keys: FragmentKeys, first: int, end: int) -> FragmentKeys:
    return FragmentKeys(
        residues=keys.residues[first:end],
        tokens={kind: tokens[first:end] for kind, tokens in keys.tokens.items()},
        nucleotide_hash=keys.nucleotide_hash[first:end],
        protein_hash=keys.protein_hash[first:end],
    )


def _unit_bytes(plan: Plan, keys: FragmentKeys, costs: Mapping[str, EncoderCost]) -> np.ndarray:
    """(u,) int64 bytes of each unit's tokens."""
    rows = plan.fragment[plan.row_start[:-1]]
    total = np.zeros(plan.n_units, np.int64)
    for kind in costs:
        tokens = np.append(keys.tokens[kind][rows], np.int32(0))
        per_unit = np.add.reduceat(tokens, plan.unit_row, dtype=np.int64)[:-1]
        total += np.dtype(KINDS[kind].token_type).itemsize * per_unit
    return total
