"""A plan per encoder, and the stretches of rows that stand for all of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_models import TinyModels
from vpdist.commands.resolve_config import cost_of
from vpdist.encoders.shape import encoder_shape
from vpdist.estimate.workload import Workload, cut_out
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import EncoderCost, Limits, build


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


def costs(workload: Workload, stretch: list[int]) -> int:
    return sum(
        int(workload.costs[kind].of(lengths[slice(*stretch)]).sum()) for kind, lengths in workload.lengths.items()
    )


def test_stretches_lie_at_equal_steps_of_cost_and_every_beginning_is_spread(workload: Workload) -> None:
    stretches, told = workload.stretches(16, 300)
    total = int(workload.plan.unit_cost.sum())
    assert len(stretches) == 16
    assert told.tolist() == [costs(workload, stretch) for stretch in stretches.tolist()]
    for n in (4, 8, 16):
        reached = sorted(costs(workload, [0, end]) / total for _, end in stretches[:n].tolist())
        assert max(np.diff([0, *reached, 1])) < 2 / n


def test_a_stretch_fills_a_batch_of_each_encoder_within_its_unit(workload: Workload) -> None:
    plan, ends_of_units = workload.plan, set(workload.plan.unit_row.tolist())
    stretches = workload.stretches(16, 300)[0].tolist()
    for first, end in stretches:
        assert np.searchsorted(plan.unit_row, first, side="right") == np.searchsorted(plan.unit_row, end)
        for lengths in workload.lengths.values():
            assert end in ends_of_units or lengths[first : end + 1].sum() > 300
    assert any(end not in ends_of_units for _, end in stretches)


def test_the_longest_stretches_hold_the_longest_sequences(workload: Workload) -> None:
    for lengths, stretch in zip(workload.lengths.values(), workload.longest(300).tolist(), strict=True):
        assert lengths[slice(*stretch)].max() == lengths.max()


def test_a_plan_cut_anew_has_a_unit_for_each_stretch_and_the_same_shards(workload: Workload) -> None:
    bounds = workload.plan.shard_unit[[0, -1]]
    plan = replace(workload.plan, shard_unit=np.insert(bounds, 1, [3, workload.plan.n_units // 2]))
    stretches = np.concatenate((workload.stretches(16, 300)[0], workload.longest(300)))
    cut, units = cut_out(plan, stretches)
    assert cut.is_sound()
    assert [cut.unit_row[unit : unit + 2].tolist() for unit in units] == stretches.tolist()
    assert cut.unit_row[cut.shard_unit].tolist() == plan.unit_row[plan.shard_unit].tolist()


def test_an_empty_plan_has_no_stretches(models: TinyModels) -> None:
    empty = np.zeros(0, np.int64)
    keys = FragmentKeys(
        residues=empty,
        tokens={"nucleotide": empty, "protein": empty},
        nucleotide_hash=empty.astype(np.uint64),
        protein_hash=empty.astype(np.uint64),
    )
    plan = build(
        keys, Limits(token_budget=600, unit_cost=1, unit_rows=1), {"protein": EncoderCost(linear=1, attention=1)}
    )
    stretches, told = Workload.of(plan, keys, {"protein": models.protein}).stretches(16, 300)
    assert (stretches.shape, told.shape) == ((0, 2), (0,))
