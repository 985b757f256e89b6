"""Batches: a function of the unit's lengths and the budget alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vpdist.planning.plan import batches


@given(st.lists(st.integers(1, 300), max_size=100), st.integers(1, 1000))
def test_batches_hold_every_sequence_once_within_the_budget(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    groups = list(batches(array, budget))
    assert sorted(row for rows in groups for row in rows.tolist()) == list(range(len(lengths)))
    for rows in groups:
        assert len(rows) == 1 or array[rows].sum() <= budget


@given(st.lists(st.integers(1, 300), min_size=1, max_size=100), st.integers(1, 1000))
def test_batches_run_from_short_to_long(lengths: list[int], budget: int) -> None:
    in_order = [lengths[row] for rows in batches(np.array(lengths), budget) for row in rows.tolist()]
    assert in_order == sorted(lengths)
