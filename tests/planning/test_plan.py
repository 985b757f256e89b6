"""The plan: every fragment in exactly one unit, equal fragments side by side, units that taper."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpdist.planning.object_plans import build_by_object, units_of_objects
from vpdist.planning.plan import (
    EncoderCost,
    FragmentKeys,
    Limits,
    Plan,
    build,
    deal,
    greedy_ends,
    plan_order,
    shared_rows,
)

NUCLEOTIDE, PROTEIN = EncoderCost(linear=2_000_000, attention=3_000), EncoderCost(linear=5_000_000, attention=7_000)
COSTS = {"nucleotide": NUCLEOTIDE, "protein": PROTEIN}


def random_keys(rng: np.random.Generator, n: int, alphabet: int) -> FragmentKeys:
    """Keys of n fragments, of which many are equal when `alphabet` is small."""
    residues = rng.integers(1, 170, n)
    return FragmentKeys(
        residues=residues,
        tokens={"nucleotide": 2 + rng.integers(1, 8, n), "protein": residues + 2},
        nucleotide_hash=rng.integers(0, alphabet, n, dtype=np.uint64) << np.uint64(38),
        protein_hash=rng.integers(0, 3, n, dtype=np.uint64),
    )


def columns(keys: FragmentKeys) -> list[tuple[int, int, int, int]]:
    arrays = (keys.residues, keys.nucleotide_tokens, keys.nucleotide_hash, keys.protein_hash)
    return list(zip(*(array.tolist() for array in arrays), strict=True))


keys_strategy = st.builds(
    lambda seed, n, alphabet: random_keys(np.random.default_rng(seed), n, alphabet),
    st.integers(0, 2**32),
    st.integers(0, 400),
    st.sampled_from([1, 3, 1000]),
)
limits_strategy = st.builds(
    lambda budget, cost, rows: Limits(token_budget=budget, unit_cost=cost, unit_rows=rows),
    st.integers(1, 3000),
    st.sampled_from([1, 10**6, 10**12]),
    st.integers(1, 500),
)


@given(keys_strategy)
def test_the_order_is_that_of_a_plain_sort_by_all_keys_and_number(keys: FragmentKeys) -> None:
    rows = columns(keys)
    assert plan_order(keys).tolist() == sorted(range(len(rows)), key=lambda i: (*rows[i], i))


@given(keys_strategy, limits_strategy)
def test_every_fragment_is_in_exactly_one_unit_and_equal_ones_share_a_row(keys: FragmentKeys, limits: Limits) -> None:
    plan = build(keys, limits, COSTS)
    n = len(keys.residues)
    assert sorted(plan.fragment.tolist()) == list(range(n))
    assert plan.row_start[0] == 0
    assert plan.row_start[-1] == n
    assert (np.diff(plan.row_start) > 0).all()
    assert plan.unit_row[0] == 0
    assert plan.unit_row[-1] == plan.n_rows
    assert (np.diff(plan.unit_row) > 0).all()
    rows = columns(keys)
    seen = set()
    for start, end in zip(plan.row_start, plan.row_start[1:], strict=False):
        contents = {rows[fragment] for fragment in plan.fragment[start:end]}
        assert len(contents) == 1
        assert not contents & seen
        seen |= contents


@given(keys_strategy, limits_strategy)
def test_units_are_whole_batches_within_their_limits(keys: FragmentKeys, limits: Limits) -> None:
    plan = build(keys, limits, COSTS)
    tokens = keys.tokens["protein"][plan.fragment[plan.row_start[:-1]]]
    batch_ends = greedy_ends(tokens, limits.token_budget).tolist()
    assert set(plan.unit_row[1:].tolist()) <= set(batch_ends)
    for unit in range(plan.n_units):
        first, end = plan.unit_row[unit], plan.unit_row[unit + 1]
        n_batches = sum(first < batch_end <= end for batch_end in batch_ends)
        assert n_batches == 1 or (plan.unit_cost[unit] <= limits.unit_cost and end - first <= limits.unit_rows)


@given(keys_strategy, limits_strategy)
def test_the_same_fragments_give_the_same_plan(keys: FragmentKeys, limits: Limits) -> None:
    assert build(keys, limits, COSTS).digest() == build(keys, limits, COSTS).digest()


def test_another_input_gives_another_digest() -> None:
    rng = np.random.default_rng(1)
    limits = Limits(token_budget=500, unit_cost=10**12, unit_rows=1000)
    one, other = (build(random_keys(rng, 300, 1000), limits, COSTS).digest() for _ in range(2))
    assert one != other


def test_costs_of_units_sum_to_the_cost_of_all_rows() -> None:
    keys = random_keys(np.random.default_rng(2), 5000, 1000)
    plan = build(keys, Limits(token_budget=900, unit_cost=10**12, unit_rows=1000), COSTS)
    first = plan.fragment[plan.row_start[:-1]]
    expected = NUCLEOTIDE.of(keys.tokens["nucleotide"][first]) + PROTEIN.of(keys.tokens["protein"][first])
    assert plan.unit_cost.sum() == expected.sum()
    tokens = keys.tokens["nucleotide"][first] + keys.tokens["protein"][first]
    assert plan.unit_tokens.sum() == tokens.sum()


def test_units_taper_from_large_ones_to_single_batches() -> None:
    rng = np.random.default_rng(3)
    n = 200_000
    keys = FragmentKeys(
        residues=np.full(n, 166),
        tokens={"nucleotide": np.full(n, 105), "protein": np.full(n, 168)},
        nucleotide_hash=rng.integers(0, 2**63, n, dtype=np.uint64),
        protein_hash=rng.integers(0, 2**63, n, dtype=np.uint64),
    )
    plan = build(keys, Limits(token_budget=2048, unit_cost=10**15, unit_rows=10**6), COSTS)
    assert (np.diff(plan.unit_cost) <= 0).all()
    assert plan.unit_cost[0] > 10 * plan.unit_cost[-1]
    assert plan.n_units < 5000


def test_an_encoder_may_be_left_out() -> None:
    keys = random_keys(np.random.default_rng(4), 100, 1000)
    limits = Limits(token_budget=60, unit_cost=10**12, unit_rows=1000)
    for kind, cost in COSTS.items():
        plan = build(keys, limits, {kind: cost})
        assert sorted(plan.fragment.tolist()) == list(range(100))
        assert plan.n_units > 1


def test_no_fragments_make_no_units() -> None:
    keys = random_keys(np.random.default_rng(5), 0, 1)
    plan = build(keys, Limits(token_budget=60, unit_cost=1, unit_rows=1), COSTS)
    assert (plan.n_units, plan.n_rows, len(plan.fragment)) == (0, 0, 0)


def test_a_fragment_too_long_for_the_sort_key_is_refused() -> None:
    keys = FragmentKeys(
        residues=np.array([1 << 20]),
        tokens={"nucleotide": np.array([3]), "protein": np.array([1026])},
        nucleotide_hash=np.zeros(1, np.uint64),
        protein_hash=np.zeros(1, np.uint64),
    )
    with pytest.raises(ValueError, match="longer than"):
        plan_order(keys)


def test_rows_are_shared_only_where_every_key_is_equal() -> None:
    keys = FragmentKeys(
        residues=np.array([5, 5, 5, 5]),
        tokens={"nucleotide": np.array([4, 4, 4, 4]), "protein": np.array([7, 7, 7, 7])},
        nucleotide_hash=np.array([9, 9, 9, 8], dtype=np.uint64),
        protein_hash=np.array([1, 2, 1, 1], dtype=np.uint64),
    )
    order = plan_order(keys)
    assert order.tolist() == [3, 0, 2, 1]
    assert shared_rows(keys, order).tolist() == [0, 1, 3, 4]


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 60))
def test_greedy_groups_fit_the_budget_and_could_not_take_one_more(tokens: list[int], budget: int) -> None:
    start = 0
    for end in greedy_ends(np.array(tokens, dtype=np.int64), budget).tolist():
        assert end > start
        assert end - start == 1 or sum(tokens[start:end]) <= budget
        assert end == len(tokens) or sum(tokens[start : end + 1]) > budget
        start = end
    assert start == len(tokens)


@given(st.lists(st.integers(1, 10**6), max_size=200), st.integers(1, 64))
def test_dealing_gives_every_unit_once_and_stays_within_one_unit_of_the_best(costs: list[int], world_size: int) -> None:
    dealt = deal(costs, world_size)
    assert sorted(position for rank in dealt for position in rank) == list(range(len(costs)))
    loads = [sum(costs[position] for position in rank) for rank in dealt]
    best_possible = max(sum(costs) / world_size, max(costs, default=0))
    assert max(loads) < best_possible + max(costs, default=1)
    for rank in dealt:
        assert [costs[position] for position in rank] == sorted((costs[position] for position in rank), reverse=True)


def test_a_plan_is_never_of_another_type_than_int64() -> None:
    plan = build(
        random_keys(np.random.default_rng(6), 50, 10),
        Limits(token_budget=100, unit_cost=10**9, unit_rows=9),
        COSTS,
    )
    assert {getattr(plan, name).dtype for name in Plan.__dataclass_fields__} == {np.dtype(np.int64)}


@given(keys_strategy, limits_strategy, st.lists(st.integers(0, 400), max_size=4))
def test_the_plan_of_a_manifest_is_that_of_each_object_by_itself(
    keys: FragmentKeys, limits: Limits, cuts: list[int]
) -> None:
    n = len(keys.residues)
    first = np.array([0, *sorted(min(cut, n) for cut in cuts), n])
    plan = build_by_object(keys, limits, COSTS, first)
    assert plan.is_sound()
    assert len(plan.fragment) == n
    units = units_of_objects(plan, first)
    assert (units[0], units[-1]) == (0, plan.n_units)
    for begin, end, unit in zip(first[:-1].tolist(), first[1:].tolist(), units[:-1].tolist(), strict=True):
        mine = FragmentKeys(
            residues=keys.residues[begin:end],
            tokens={kind: tokens[begin:end] for kind, tokens in keys.tokens.items()},
            nucleotide_hash=keys.nucleotide_hash[begin:end],
            protein_hash=keys.protein_hash[begin:end],
        )
        alone = build_by_object(mine, limits, COSTS, np.array([0, end - begin]))
        for k in range(alone.n_units):
            assert (alone.fragments(k).flat + begin).tolist() == plan.fragments(unit + k).flat.tolist()
            assert alone.fragments(k).offsets.tolist() == plan.fragments(unit + k).offsets.tolist()
