"""Pieces for calibration: of the calibration side only, none twice, evenly by source and over groups. Pieces for a
classifier of shorter chunks: the chunks of that length."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpdist.training import drawn_pieces
from vpdist.training.drawn_pieces import MOST_OF_GROUP, PIECE_BASES, choose_pieces, cut_chunks
from vpdist.training.pieces import Pieces, Span
from vpdist.training.sides import CALIBRATION, Sides


def sides_of(side: np.ndarray, group: np.ndarray, source: np.ndarray) -> Sides:
    return Sides(side.astype(np.int8), group, np.ones(len(side), np.int64), source.astype(np.int32))


def spans_of(found: Pieces) -> list[tuple[Span, ...]]:
    """What each piece consists of."""
    stretches = list(zip(found.record.tolist(), found.start.tolist(), found.end.tolist(), strict=True))
    return [tuple(stretches[a:b]) for a, b in pairwise([*found.first.tolist(), len(stretches)])]


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Sides, np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    source = rng.integers(0, 4, n)
    side, group = rng.integers(0, 4, n), rng.integers(0, 20, n)
    return sides_of(side, group, source), rng.integers(50, 12_000, n), source < 2


@settings(deadline=None)
@given(labelled(), st.integers(1, 90))
def test_pieces_keep_to_their_rules(data: tuple[Sides, np.ndarray, np.ndarray], most: int) -> None:
    sides, lengths, virus = data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_pieces, "MOST_PIECES", most)
        found = choose_pieces(sides, lengths, virus, 1)
        again = choose_pieces(sides, lengths, virus, 1)
    every = spans_of(found)
    assert every == spans_of(again)
    assert every == sorted(every)
    for spans, bases in zip(every, found.bases.tolist(), strict=True):
        assert bases in PIECE_BASES
        records = [record for record, _, _ in spans]
        assert records == sorted(set(records))
        assert len({(sides.source[record], sides.group[record]) for record in records}) == 1
        assert all(0 <= start < end <= lengths[record] for record, start, end in spans)
        assert len(records) == 1 or (lengths[records] < bases).all()
        assert all(end == lengths[record] for record, _, end in spans[:-1])
        assert all(start == 0 for _, start, _ in spans[1:])
    assert (sides.side[found.first_record] == CALIBRATION).all()
    for bases in PIECE_BASES:
        for label in (True, False):
            here = (found.bases == bases) & (virus[found.first_record] == label)
            assert here.sum() <= most
            if any(_long_enough(sides, lengths, virus == label, bases)) and most >= 60:
                assert here.any()
        taken = [span for spans, n in zip(every, found.bases.tolist(), strict=True) if n == bases for span in spans]
        taken.sort()
        assert all(a[0] < b[0] or a[2] <= b[1] for a, b in pairwise(taken))


def _long_enough(sides: Sides, lengths: np.ndarray, mine: np.ndarray, bases: int) -> list[bool]:
    """Of each source and group on the calibration side: whether a piece fits."""
    mine = mine & (sides.side == CALIBRATION)
    keys = {(s, g) for s, g in zip(sides.source[mine].tolist(), sides.group[mine].tolist(), strict=True)}
    found = []
    for source, group in keys:
        members = lengths[mine & (sides.source == source) & (sides.group == group)]
        found.append(bool((members >= bases).any() or members[members < bases].sum() >= bases))
    return found


def test_a_group_gives_several_pieces_only_when_all_have_given_one() -> None:
    """One genome of 100 kb, and nine of 500 bases."""
    n = 10
    sides = sides_of(np.full(n, CALIBRATION), np.arange(n), np.zeros(n))
    lengths = np.array([100_000] + [500] * 9)
    found = choose_pieces(sides, lengths, np.ones(n, bool), 3)
    of_500 = found.first_record[found.bases == 500]
    assert np.bincount(of_500).tolist() == [MOST_OF_GROUP] + [1] * 9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_pieces, "MOST_PIECES", 10)
        few = choose_pieces(sides, lengths, np.ones(n, bool), 3)
    assert np.bincount(few.first_record[few.bases == 500]).tolist() == [1] * 10
    assert set(found.bases[found.first_record == 0].tolist()) == set(PIECE_BASES)


def test_a_small_source_gives_all_and_the_large_ones_share_the_rest() -> None:
    source = np.repeat([0, 1, 2], [4, 100, 200])
    n = len(source)
    sides = sides_of(np.full(n, CALIBRATION), np.arange(n), source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_pieces, "MOST_PIECES", 64)
        found = choose_pieces(sides, np.full(n, 200), np.zeros(n, bool), 3)
    assert np.bincount(source[found.first_record]).tolist() == [4, 30, 30]


def test_short_sequences_of_a_group_are_joined_in_their_order() -> None:
    sides = sides_of(np.full(4, CALIBRATION), np.array([0, 7, 0, 0]), np.zeros(4))
    found = choose_pieces(sides, np.array([200, 150, 120, 140]), np.ones(4, bool), 5, all_bases=(450,))
    assert found.record.tolist() == [0, 2, 3]
    assert found.bases.tolist() == [450]


def test_chunks_are_those_that_predict_makes() -> None:
    lengths = np.array([120, 400, 2, 70])
    pieces = cut_chunks(lengths, 150, 90, seed=1)
    assert pieces.record.tolist() == [0, 1, 1, 1]
    assert (pieces.start.tolist(), pieces.end.tolist()) == ([0, 0, 133, 266], [120, 150, 283, 400])
    assert cut_chunks(lengths, 150, 140, seed=1).end.tolist() == [150, 283]
    some = cut_chunks(np.full(50, 1000), 150, 90, seed=1, most=20)
    assert len(some) == 20
    assert (np.diff(some.record * 1000 + some.start) > 0).all()
    assert len(cut_chunks(lengths, 150, 500, seed=1)) == 0
