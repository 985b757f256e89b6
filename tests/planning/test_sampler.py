"""The sampler: every unit exactly once over all ranks, by cost instead of by count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

from scripts.bench.balance import balance
from vpdist.planning.sampler import TokenWeightedDistributedSampler

costs_strategy = st.lists(st.integers(1, 10**9), max_size=150)


def samplers(costs: list[int], world_size: int) -> list[TokenWeightedDistributedSampler]:
    units = [10 * i for i in range(len(costs))]
    return [TokenWeightedDistributedSampler(units, costs, world_size, rank) for rank in range(world_size)]


@given(costs_strategy, st.integers(1, 64))
def test_every_unit_goes_to_exactly_one_rank_for_any_world_size(costs: list[int], world_size: int) -> None:
    dealt = [list(sampler) for sampler in samplers(costs, world_size)]
    assert sorted(unit for mine in dealt for unit in mine) == [10 * i for i in range(len(costs))]
    assert [len(sampler) for sampler in samplers(costs, world_size)] == [len(mine) for mine in dealt]


@given(costs_strategy, st.integers(1, 64))
def test_cost_per_rank_is_within_one_unit_of_the_best_possible(costs: list[int], world_size: int) -> None:
    loads = [sum(costs[unit // 10] for unit in sampler) for sampler in samplers(costs, world_size)]
    best_possible = max(sum(costs) / world_size, max(costs, default=0))
    assert max(loads) < best_possible + max(costs, default=1)


@given(costs_strategy, st.integers(1, 64))
def test_every_rank_runs_its_longest_unit_first(costs: list[int], world_size: int) -> None:
    for sampler in samplers(costs, world_size):
        mine = [costs[unit // 10] for unit in sampler]
        assert mine == sorted(mine, reverse=True)


def test_it_is_a_distributed_sampler_that_a_data_loader_accepts() -> None:
    sampler = TokenWeightedDistributedSampler([7, 8, 9], [1, 5, 2], num_replicas=2, rank=1)
    assert isinstance(sampler, DistributedSampler)
    loaded = [int(unit) for unit in DataLoader(list(range(10)), sampler=sampler, batch_size=None)]
    assert loaded == list(sampler) == [9, 7]


def test_the_stock_sampler_would_repeat_where_this_one_does_not() -> None:
    units = list(range(5))
    stock = [list(DistributedSampler(units, num_replicas=3, rank=rank, shuffle=False)) for rank in range(3)]
    ours = [list(sampler) for sampler in samplers([1] * 5, 3)]
    assert sum(map(len, stock)) == 6
    assert sum(map(len, ours)) == 5


def test_more_ranks_than_units_leave_some_without_any() -> None:
    assert sorted(len(sampler) for sampler in samplers([3, 2], 4)) == [0, 0, 1, 1]


def test_units_and_costs_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="3 units but 2 costs"):
        TokenWeightedDistributedSampler([1, 2, 3], [1, 2], 1, 0)


def test_200_log_normal_sequences_balance_to_2_percent_where_dealing_by_count_does_not() -> None:
    by_count, by_cost, _, n_units = balance(8, 200, seed=3)
    assert n_units > 8
    assert by_count > 1.3
    assert by_cost <= 1.02


@pytest.mark.parametrize("seed", range(5))
def test_the_balance_does_not_depend_on_the_seed(seed: int) -> None:
    assert balance(8, 200, seed)[1] <= 1.02
