"""Samples of a manifest's objects: every object in one stratum, and totals that are right as often as they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpdist.estimate.object_sample import Range, draw, formats, total

SIZES = st.lists(st.integers(0, 10**6), min_size=1, max_size=60)


@given(SIZES, st.integers(2, 20), st.integers(0, 99))
def test_every_object_that_is_not_empty_is_in_one_stratum_and_some_of_each_are_drawn(
    sizes: list[int], n: int, seed: int
) -> None:
    of = ["fa" if size % 3 else "fa.gz" for size in sizes]
    strata = draw(np.array(sizes), of, n, seed)
    objects = [number for stratum in strata for number in stratum.objects.tolist()]
    assert sorted(objects) == [number for number, size in enumerate(sizes) if size > 0]
    for stratum in strata:
        assert set(stratum.drawn.tolist()) <= set(stratum.objects.tolist())
        assert len(stratum.drawn) == min(2, len(stratum.objects)) or len(strata) == 1
    again = draw(np.array(sizes), of, n, seed)
    assert [each.drawn.tolist() for each in strata] == [each.drawn.tolist() for each in again]


def test_the_drawn_objects_are_about_as_many_as_asked_for_and_depend_on_the_seed() -> None:
    sizes = np.random.default_rng(1).lognormal(10, 1, 5000).astype(np.int64)
    drawn = [np.concatenate([each.drawn for each in draw(sizes, ["fa"] * 5000, 16, seed)]) for seed in (1, 2)]
    assert [len(each) for each in drawn] == [16, 16]
    assert set(drawn[0].tolist()) != set(drawn[1].tolist())


def test_a_quantity_in_proportion_to_bytes_is_known_exactly_and_format_by_format() -> None:
    sizes = np.arange(1, 101)
    of = ["fa", "fa.gz"] * 50
    values = sizes * np.where(np.array(of) == "fa", 0.9, 3.6)
    found = total(sizes, draw(sizes, of, 12, 7), values)
    assert found.expected == pytest.approx(values.sum())
    assert found.low == pytest.approx(found.expected, rel=1e-6)
    assert found.high == pytest.approx(found.expected, rel=1e-6)


def test_where_everything_is_drawn_the_total_is_that_of_all() -> None:
    sizes, values = np.array([5, 0, 7, 2]), np.array([1.0, 9.0, 100.0, 3.0])
    assert total(sizes, draw(sizes, ["fa"] * 4, 4, 1), values) == Range(104.0, 104.0, 104.0)
    assert total(sizes[1:2], draw(sizes[1:2], ["fa"], 4, 1), values[1:2]) == Range(0.0, 0.0, 0.0)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    sizes = rng.lognormal(10, 1, 400).astype(np.int64)
    values = sizes * rng.normal(1, 0.2, 400)
    truth, held, off = values.sum(), 0, []
    for seed in range(300):
        found = total(sizes, draw(sizes, ["fa"] * 400, 20, seed), values)
        held += found.low <= truth <= found.high
        off.append(found.expected / truth - 1)
    assert held / 300 > 0.88
    assert abs(np.mean(off)) < 0.01


def test_formats_are_told_by_the_ends_of_names_and_rare_ones_are_one() -> None:
    names = ["s3://b/x.1.fa.gz", "x.FA.gz", "b.d/c.fastq.zst", "plain", "y.fq"]
    assert formats(names) == ["fa.gz", "fa.gz", "fastq.zst", "", "fq"]
    assert formats([f"x.k{number}" for number in range(6)] + ["a.k1"]).count("") == 1


def test_ranges_are_scaled_and_shifted() -> None:
    assert Range(2.0, 1.0, 4.0).times(3).plus(1) == Range(7.0, 4.0, 13.0)
