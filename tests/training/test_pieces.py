"""Pieces for calibration: of the calibration side only, none twice, evenly by source and over groups."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpdist.training import pieces
from vpdist.training.pieces import MOST_OF_GROUP, PIECE_BASES, choose_pieces, fasta
from vpdist.training.sides import CALIBRATION, Sides


def sides_of(side: np.ndarray, group: np.ndarray, source: np.ndarray) -> Sides:
    return Sides(side.astype(np.int8), group, np.ones(len(side), np.int64), source.astype(np.int32))


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
        patch.setattr(pieces, "MOST_PIECES", most)
        found = choose_pieces(sides, lengths, virus, 1)
        again = choose_pieces(sides, lengths, virus, 1)
    assert found.spans == again.spans
    assert (np.diff(found.record) >= 0).all()
    for spans, bases in zip(found.spans, found.bases.tolist(), strict=True):
        assert bases in PIECE_BASES
        records = [record for record, _, _ in spans]
        assert records == sorted(set(records))
        assert len({(sides.source[record], sides.group[record]) for record in records}) == 1
        assert all(0 <= start < end <= lengths[record] for record, start, end in spans)
        assert len(records) == 1 or (lengths[records] < bases).all()
        assert all(end == lengths[record] for record, _, end in spans[:-1])
        assert all(start == 0 for _, start, _ in spans[1:])
    assert (sides.side[found.record] == CALIBRATION).all()
    for bases in PIECE_BASES:
        for label in (True, False):
            here = (found.bases == bases) & (virus[found.record] == label)
            assert here.sum() <= most
            if any(_long_enough(sides, lengths, virus == label, bases)) and most >= 60:
                assert here.any()
        taken = [
            span for spans, n in zip(found.spans, found.bases.tolist(), strict=True) if n == bases for span in spans
        ]
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
    of_500 = found.record[found.bases == 500]
    assert np.bincount(of_500).tolist() == [MOST_OF_GROUP] + [1] * 9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "MOST_PIECES", 10)
        few = choose_pieces(sides, lengths, np.ones(n, bool), 3)
    assert np.bincount(few.record[few.bases == 500]).tolist() == [1] * 10
    assert set(found.bases[found.record == 0].tolist()) == set(PIECE_BASES)


def test_a_small_source_gives_all_and_the_large_ones_share_the_rest() -> None:
    source = np.repeat([0, 1, 2], [4, 100, 200])
    n = len(source)
    sides = sides_of(np.full(n, CALIBRATION), np.arange(n), source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "MOST_PIECES", 64)
        found = choose_pieces(sides, np.full(n, 200), np.zeros(n, bool), 3)
    assert np.bincount(source[found.record]).tolist() == [4, 30, 30]


def test_the_file_has_each_piece_of_its_record(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    texts = ["".join(rng.choice(list("ACGT"), length)) for length in (400, 100, 700)]
    paths = [tmp_path / "a.fa", tmp_path / "b.fa"]
    paths[0].write_text(f">x\n{texts[0]}\n>y\n{texts[1]}\n")
    paths[1].write_text(f">z\n{texts[2]}\n")
    sides = sides_of(np.array([CALIBRATION, CALIBRATION, CALIBRATION]), np.arange(3), np.zeros(3))
    found = choose_pieces(sides, np.array([400, 100, 700]), np.ones(3, bool), 5)
    records = b"".join(fasta(found, paths, lambda: None, replace_unknown=False)).decode().split(">")[1:]
    cut = ["".join(texts[r][start:end] for r, start, end in spans) for spans in found.spans]
    assert records == [f"piece{number}\n{text}\n" for number, text in enumerate(cut, 1)]
    assert set(found.record.tolist()) == {0, 2}


def test_short_sequences_of_a_group_are_joined_in_their_order(tmp_path: Path) -> None:
    texts = ["A" * 200, "C" * 150, "G" * 120, "T" * 140]
    path = tmp_path / "a.fa"
    path.write_text("".join(f">{number}\n{text}\n" for number, text in enumerate(texts)))
    sides = sides_of(np.full(4, CALIBRATION), np.array([0, 7, 0, 0]), np.zeros(4))
    found = choose_pieces(sides, np.array([len(text) for text in texts]), np.ones(4, bool), 5, all_bases=(450,))
    assert [[record for record, _, _ in spans] for spans in found.spans] == [[0, 2, 3]]
    record = b"".join(fasta(found, [path], lambda: None, replace_unknown=False)).decode()
    letters = record.split("\n")[1]
    assert len(letters) == 450
    assert letters in "A" * 200 + "G" * 120 + "T" * 140
