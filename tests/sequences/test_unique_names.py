"""Repeated names get the next free number, never a name of another record."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vpdist.sequences.unique_names import name_hashes, resolve_names


def unique(*groups: list[str]) -> list[str]:
    """All names after resolution, in order."""
    names = [name for group in groups for name in group]
    new_names = resolve_names([name_hashes(group) for group in groups], lambda: groups)
    return [new_names.get(record, name) for record, name in enumerate(names)]


def test_names_without_repeats_are_kept_and_not_read() -> None:
    def read_names() -> list[list[str]]:
        raise AssertionError("names must not be read")

    assert resolve_names([name_hashes(group) for group in (["a", "b"], [], ["c"])], read_names) == {}
    assert resolve_names([], read_names) == {}


def test_repeats_are_numbered_over_all_groups_in_input_order() -> None:
    assert unique(["a", "b", "a"], ["b", "a"]) == ["a", "b", "a__2", "b__2", "a__3"]


def test_a_number_that_another_record_has_is_passed_over() -> None:
    assert unique(["a", "a", "a"], ["a__2", "a__4"]) == ["a", "a__3", "a__5", "a__2", "a__4"]
    assert unique(["a__2", "a__2", "a", "a"]) == ["a__2", "a__2__2", "a", "a__3"]


@given(st.lists(st.lists(st.sampled_from(["a", "a__2", "a__3", "a__2__2", "b", "é"]), max_size=6), max_size=4))
def test_names_are_unique_afterwards_and_first_comers_keep_theirs(groups: list[list[str]]) -> None:
    names = [name for group in groups for name in group]
    after = unique(*groups)
    assert len(set(after)) == len(names)
    seen: set[str] = set()
    for before, now in zip(names, after, strict=True):
        assert now == before if before not in seen else now.startswith(f"{before}__")
        seen.add(before)


def test_many_equal_names_take_no_search_each() -> None:
    n = 100_000
    assert unique(["x"] * n)[-1] == f"x__{n}"
