"""The sides of a split: whole groups, by source, in the shares that were asked for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.test_kmers import labelled, random_bases, words
from vpdist.errors import UsageError
from vpdist.train_settings import LabelledFile
from vpdist.training.groups import find_groups
from vpdist.training.labelled import Labelled, read_labelled
from vpdist.training.sides import SIDES, TEST, TRAINING, VALIDATION, Sides, divide

SOURCES = ("virus", "other")


def divided(group: np.ndarray, weight: np.ndarray, source: np.ndarray, *, seed: int = 1, share: float = 0.1) -> Sides:
    return divide(group, weight, source, SOURCES, validation_share=share, test_share=share, seed=seed)


def many(n: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n records in groups of about four, a third of them of the second source."""
    rng = np.random.default_rng(0)
    first = np.sort(rng.integers(0, n, n // 4))
    group = np.concatenate([[0], first])[np.searchsorted(first, np.arange(n), side="right")]
    source = (group % 3 == 0).astype(np.int32)
    return group, rng.integers(0, 9, n), source


def test_every_group_is_on_one_side_and_shares_are_those_asked_for() -> None:
    group, weight, source = many()
    sides = divided(group, weight, source)
    for root in np.unique(group):
        assert len(set(sides.side[group == root])) == 1
    for number in range(len(SOURCES)):
        total = weight[source == number].sum()
        for side, share in ((TRAINING, 0.8), (VALIDATION, 0.1), (TEST, 0.1)):
            assert weight[(source == number) & (sides.side == side)].sum() / total == pytest.approx(share, abs=0.05)


def test_the_same_seed_divides_in_the_same_way_and_another_one_does_not() -> None:
    assert divided(*many()).digest() == divided(*many()).digest()
    assert divided(*many()).digest() != divided(*many(), seed=2).digest()


def test_counts_add_up() -> None:
    group, weight, source = many()
    counts = divided(group, weight, source).counts(SOURCES)
    assert list(counts) == list(SOURCES)
    assert all(list(sides) == list(SIDES) for sides in counts.values())
    for name, total in (("sequences", len(group)), ("groups", len(np.unique(group))), ("fragments", weight.sum())):
        assert sum(side[name] for sides in counts.values() for side in sides.values()) == total


@given(st.integers(3, 8), st.integers(0, 5), st.floats(0.01, 0.5))
def test_each_side_has_a_group_of_each_source_from_three_groups_on(groups: int, seed: int, share: float) -> None:
    group = np.arange(2 * groups)
    sides = divided(group, np.ones(2 * groups, np.int64), group % 2, seed=seed, share=share)
    for number in (0, 1):
        assert set(sides.side[group % 2 == number]) == {TRAINING, VALIDATION, TEST}


def test_a_source_with_fewer_than_three_groups_is_refused_by_name() -> None:
    weight = np.ones(7, np.int64)
    source = np.array([0, 0, 0, 0, 1, 1, 1])
    with pytest.raises(UsageError, match="other: one group only"):
        divided(np.array([0, 1, 2, 3, 4, 4, 4]), weight, source)
    with pytest.raises(UsageError, match="other: no group"):
        divided(np.arange(7), weight * (np.arange(7) < 4), source)


@pytest.mark.parametrize("seed", range(5))
def test_no_25_mer_is_on_two_sides(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    genomes = [random_bases(1000 * seed + number, 400) for number in range(40)]
    pieces: dict[str, str] = {}
    for number in range(90):
        own = range(20) if number < 45 else range(20, 40)
        genome = genomes[int(rng.choice(own if number % 15 else range(40)))]  # some are of a genome of both labels
        start = int(rng.integers(0, 300))
        pieces[f"x{number}"] = genome[start : start + int(rng.integers(30, 100))] + "A" * 40
    names = list(pieces)
    virus, other = ({name: pieces[name] for name in half} for half in (names[:45], names[45:]))
    given = labelled(tmp_path, virus, other)
    records = read_labelled(given)
    group = find_groups(given, records)
    sides = divided(group, np.ones(len(group), np.int64), records.file)
    sides_of: dict[str, set[int]] = {}
    for name, side in zip(records.names, sides.side.tolist(), strict=True):
        for word, _ in words(pieces[name]):
            sides_of.setdefault(word, set()).add(side)
    assert len(np.unique(group)) < len(group) - 10
    assert {len(found) for found in sides_of.values()} == {1}
    assert {side for found in sides_of.values() for side in found} == {TRAINING, VALIDATION, TEST}


def test_real_contigs_of_one_accession_are_on_one_side(shared: Path, tmp_path: Path) -> None:
    files = tuple(
        LabelledFile(str(shared / "data" / f"{name}.fa.gz"), name == "virus", name) for name in ("virus", "host")
    )
    given = Labelled(tmp_path, files)
    records = read_labelled(given)
    sides = divided(find_groups(given, records), np.ones(len(records.names), np.int64), records.file)
    sides_of: dict[str, set[int]] = {}
    for name, side in zip(records.names, sides.side.tolist(), strict=True):
        sides_of.setdefault(name.split("#")[0].split(".")[0], set()).add(side)
    assert len(records.names) == 2000
    assert len(sides_of) > 1000
    assert {len(found) for found in sides_of.values()} == {1}
    assert np.bincount(sides.side).tolist() == pytest.approx([1600, 200, 200], abs=30)
