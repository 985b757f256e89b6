"""A plan per encoder, and the batches that stand for all of it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import TinyModels, write_models
from vpdist.batches import batches
from vpdist.decide import cost_of
from vpdist.plan import EncoderCost, FragmentKeys, Limits, build
from vpdist.weights import encoder_shape
from vpdist.workload import Workload, _van_der_corput


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def workload(models: TinyModels) -> Workload:
    rng = np.random.default_rng(0)
    residues = rng.integers(5, 160, 3000)
    keys = FragmentKeys(
        residues=residues,
        tokens={"nucleotide": (residues * 0.6).astype(np.int64) + rng.integers(2, 9, 3000), "protein": residues + 2},
        nucleotide_hash=rng.integers(0, 2**63, 3000, dtype=np.uint64),
        protein_hash=rng.integers(0, 2**63, 3000, dtype=np.uint64),
    )
    folders: dict[str, Path] = {"nucleotide": models.nucleotide, "protein": models.protein}
    costs = {kind: cost_of(encoder_shape(folder)) for kind, folder in folders.items()}
    limits = Limits(token_budget=600, unit_cost=10**9, unit_rows=1000)
    plan = build(keys, limits, costs)
    return Workload.of(plan, keys, folders)


def test_the_encoders_costs_add_up_to_the_plans(workload: Workload) -> None:
    both = workload.unit_cost("nucleotide") + workload.unit_cost("protein")
    assert np.array_equal(both, workload.plan.unit_cost)
    assert sum(int(lengths.sum()) for lengths in workload.lengths.values()) == int(workload.plan.unit_tokens.sum())


def test_units_are_chosen_at_equal_steps_of_cost(workload: Workload) -> None:
    units, places = workload.spread_units(16)
    end = np.cumsum(workload.plan.unit_cost)
    reached = np.sort(end[units] - workload.plan.unit_cost[units] * (1 - places))
    assert np.allclose(np.diff(reached), end[-1] / 16)
    first = np.sort(units[:4])
    assert (np.diff(end[first]) > 0.15 * end[-1]).all()


def test_batches_are_real_ones_of_both_encoders_and_none_comes_twice(workload: Workload) -> None:
    units, places = workload.spread_units(16)
    chosen = workload.batches_at(units, places, 300)
    assert len(set(chosen)) == len(chosen) >= 16
    assert {batch.kind for batch in chosen} == {"nucleotide", "protein"}
    for batch in [*chosen, *workload.longest(300)]:
        first, end = workload.plan.unit_row[batch.unit : batch.unit + 2]
        assert 0 <= batch.number < len(list(batches(workload.lengths[batch.kind][first:end], 300)))


def test_the_longest_batch_holds_the_longest_sequence(workload: Workload) -> None:
    for batch in workload.longest(300):
        lengths = workload.lengths[batch.kind]
        first, end = workload.plan.unit_row[batch.unit : batch.unit + 2]
        rows = list(batches(lengths[first:end], 300))[batch.number]
        assert lengths[first:end][rows].max() == lengths.max()


def test_an_empty_plan_has_no_units_to_choose(models: TinyModels) -> None:
    empty = np.zeros(0, np.int64)
    keys = FragmentKeys(
        residues=empty,
        tokens={"nucleotide": empty, "protein": empty},
        nucleotide_hash=empty.astype(np.uint64),
        protein_hash=empty.astype(np.uint64),
    )
    plan = build(
        keys, Limits(token_budget=600, unit_cost=1, unit_rows=1), {"nucleotide": EncoderCost(linear=1, attention=1)}
    )
    units, places = Workload.of(plan, keys, {"protein": models.protein}).spread_units(16)
    assert (len(units), len(places)) == (0, 0)
    assert encoder_shape(models.protein).kind == "protein"


@given(st.integers(1, 300))
def test_every_beginning_of_the_order_is_spread_over_all(n: int) -> None:
    order = _van_der_corput(n)
    assert sorted(order) == list(range(n))
    if n >= 16:
        assert max(np.diff(sorted([-1, *order[: n // 2], n]))) <= 4 * n / (n // 2)
