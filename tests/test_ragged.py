"""Ragged sequences behave as a list of arrays does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpdist.ragged import Ragged, offsets_of

LISTS = st.lists(st.lists(st.integers(0, 255), max_size=9), max_size=20)


def ragged(lists: list[list[int]]) -> Ragged:
    return Ragged.from_lengths(np.array([item for each in lists for item in each], np.uint8), [len(x) for x in lists])


def as_lists(sequences: Ragged) -> list[list[int]]:
    return [sequences[i].tolist() for i in range(len(sequences))]


@given(LISTS)
def test_lengths_make_the_sequences_and_come_back(lists: list[list[int]]) -> None:
    sequences = ragged(lists)
    assert len(sequences) == len(lists)
    assert as_lists(sequences) == lists
    assert sequences.lengths.tolist() == [len(each) for each in lists]
    assert sequences.offsets.dtype == sequences.lengths.dtype == np.int64
    assert list(sequences.strings()) == [bytes(each) for each in lists]


@given(LISTS.filter(len), st.data())
def test_an_index_means_what_it_means_for_a_list(lists: list[list[int]], data: st.DataObject) -> None:
    sequences = ragged(lists)
    index = data.draw(st.integers(-len(lists), len(lists) - 1))
    assert sequences[index].tolist() == lists[index]
    for outside in (len(lists), -len(lists) - 1):
        with pytest.raises(IndexError):
            sequences[outside]


@given(LISTS, st.data())
def test_taking_is_indexing_a_list(lists: list[list[int]], data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, len(lists) - 1))) if lists else []
    taken = ragged(lists).take(np.array(positions, dtype=np.int64))
    assert as_lists(taken) == [lists[position] for position in positions]
    assert taken.is_sound(n=len(positions))
    assert taken.flat.dtype == np.uint8


@given(LISTS, st.data())
def test_neighbours_are_a_slice_of_the_list_and_share_its_memory(lists: list[list[int]], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(lists)))
    end = data.draw(st.integers(first, len(lists)))
    sequences = ragged(lists)
    part = sequences.between(first, end)
    assert as_lists(part) == lists[first:end]
    assert part.is_sound(n=end - first)
    assert len(part.flat) == 0 or np.shares_memory(part.flat, sequences.flat)


@given(st.lists(st.integers(2, 30), max_size=20))
def test_offsets_of_lengths_are_sound_for_what_they_add_up_to(lengths: list[int]) -> None:
    sequences = Ragged(np.zeros(sum(lengths), np.uint16), offsets_of(np.array(lengths, np.int32)))
    assert sequences.is_sound()
    assert sequences.is_sound(n=len(lengths), least=min(lengths, default=9))
    assert not sequences.is_sound(n=len(lengths) + 1)
    assert not lengths or not sequences.is_sound(least=min(lengths) + 1)


@given(LISTS.filter(len), st.data())
def test_offsets_that_are_off_by_any_amount_are_refused(lists: list[list[int]], data: st.DataObject) -> None:
    sequences = ragged(lists)
    context = data.draw(st.sampled_from([0, len(lists)]))
    wrong = sequences.offsets.copy()
    wrong[context] += data.draw(st.integers(-300, 300).filter(bool))
    assert sequences.is_sound()
    assert not Ragged(sequences.flat, wrong).is_sound()


@pytest.mark.parametrize(
    "offsets",
    [
        np.array([0, 5, 3, 6]),
        np.array([0, -1, 3, 6]),
        np.array([0, 7, 6]),
        np.array([1, 3, 6]),
        np.array([0, 3, 5]),
        np.array([0, 3, 6], np.int32),
        np.array([0, 3, 6], np.uint64),
        np.array([0.0, 3.0, 6.0]),
        np.array([[0, 6]]),
        np.array(6),
        np.zeros(0, np.int64),
    ],
    ids=str,
)
def test_arrays_that_are_no_offsets_are_refused(offsets: np.ndarray) -> None:
    assert Ragged(np.zeros(6, np.uint8), np.array([0, 3, 6])).is_sound()
    assert not Ragged(np.zeros(6, np.uint8), offsets).is_sound()


def test_items_in_two_dimensions_are_refused() -> None:
    assert not Ragged(np.zeros((6, 1), np.uint8), np.array([0, 3, 6])).is_sound()
