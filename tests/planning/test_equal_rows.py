"""Rows of two plans that hold the same fragments."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vpdist.planning.equal_rows import equal_rows, first_fragments, work_left
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import EncoderCost, Limits, Plan, build

LIMITS = Limits(token_budget=40, unit_cost=10**6, unit_rows=5)
COSTS = {"nucleotide": EncoderCost(linear=3000, attention=10), "protein": EncoderCost(linear=2000, attention=20)}
HASHES = np.random.default_rng(0).integers(1 << 63, size=(5, 4), dtype=np.uint64) << np.uint64(1)
FRAGMENTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)), max_size=40)
"""Residues, and what both hashes are made of: few values, so that runs share fragments."""


def keys_of(fragments: list[tuple[int, int, int]]) -> FragmentKeys:
    table = np.array(fragments, dtype=np.int64).reshape(-1, 3)
    residues = table[:, 0].astype(np.int32)
    return FragmentKeys(
        residues=residues,
        tokens={"nucleotide": residues + np.int32(2), "protein": residues + np.int32(3)},
        nucleotide_hash=HASHES[table[:, 0], table[:, 1]],
        protein_hash=HASHES[table[:, 0], table[:, 2]],
    )


def row_contents(fragments: list[tuple[int, int, int]], plan: Plan) -> list[tuple[int, int, int]]:
    return [fragments[number] for number in first_fragments(plan).tolist()]


@given(FRAGMENTS, FRAGMENTS)
def test_each_row_finds_the_row_with_the_same_fragments(
    ours: list[tuple[int, int, int]], theirs: list[tuple[int, int, int]]
) -> None:
    our_keys, their_keys = keys_of(ours), keys_of(theirs)
    our_plan, their_plan = build(our_keys, LIMITS, COSTS), build(their_keys, LIMITS, COSTS)
    position = {content: row for row, content in enumerate(row_contents(theirs, their_plan))}
    found = equal_rows(our_keys, our_plan, their_keys, their_plan)
    assert found.tolist() == [position.get(content, -1) for content in row_contents(ours, our_plan)]


@given(FRAGMENTS, st.randoms(use_true_random=False))
def test_the_work_left_is_that_of_the_other_rows(fragments: list[tuple[int, int, int]], random) -> None:
    keys = keys_of(fragments)
    plan = build(keys, LIMITS, COSTS)
    cost, tokens = work_left(keys, plan, COSTS, np.zeros(plan.n_rows, dtype=bool))
    assert cost.tolist() == plan.unit_cost.tolist()
    assert tokens.tolist() == plan.unit_tokens.tolist()
    is_known = np.array([random.random() < 0.5 for _ in range(plan.n_rows)], dtype=bool)
    cost, tokens = work_left(keys, plan, COSTS, is_known)
    for unit in range(plan.n_units):
        rows = [row for row in plan.rows(unit) if not is_known[row]]
        lengths = {kind: keys.tokens[kind][first_fragments(plan)[rows]] for kind in COSTS}
        assert tokens[unit] == sum(int(each.sum()) for each in lengths.values())
        assert cost[unit] == sum(int(COSTS[kind].of(each).sum()) for kind, each in lengths.items())
