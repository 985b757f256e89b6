"""Pieces of sequences: what they are made of, their bases, and where their fragments lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vpdist.errors import InputError
from vpdist.training.fragments import Fragments
from vpdist.training.pieces import Pieces, texts

SEQUENCES = ("ACGT" * 30, "ACGTTGCAAC" * 40, "AC", "GATTACA" * 10)
PIECES = Pieces.of([[(0, 5, 120), (2, 0, 2), (3, 0, 9)], [(1, 7, 20)], [(1, 30, 31)]]) + Pieces.of([[(0, 1, 4)]])
"""The first one waits for the last sequence, the others for the first one; the last one is of the first sequence."""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.fa", tmp_path / "b.fa"]
    for path, numbers in zip(paths, ((0, 1), (2, 3)), strict=True):
        path.write_text("".join(f">s{number}\n{SEQUENCES[number]}\n" for number in numbers))
    return paths


def test_pieces_know_their_lengths_and_first_sequences() -> None:
    assert (len(PIECES), PIECES.bases.tolist(), PIECES.first_record.tolist()) == (4, [126, 13, 1, 3], [0, 1, 1, 0])
    none = Pieces.of([])
    assert (len(none), none.bases.tolist(), none.first_record.tolist()) == (0, [], [])
    assert (none + PIECES).first.tolist() == PIECES.first.tolist()


def test_bases_come_in_the_order_of_the_pieces_and_joined_ones_in_that_of_the_sequences(paths: list[Path]) -> None:
    one, two, three, four = SEQUENCES
    expected = [one[5:120] + three + four[:9], two[7:20], two[30:31], one[1:4]]
    assert [text.decode() for text in texts(PIECES, paths)] == expected


def test_no_sequence_is_read_after_the_last_that_is_needed(paths: list[Path]) -> None:
    read = 0

    def count() -> None:
        nonlocal read
        read += 1

    assert list(texts(Pieces.of([[(1, 0, 2)]]), paths, count)) == [b"AC"]
    assert read == 2
    assert list(texts(Pieces.of([]), [Path("absent.fa")])) == []


def test_files_that_have_lost_sequences_are_refused(paths: list[Path]) -> None:
    paths[1].write_text(">s2\nAC\n")
    with pytest.raises(InputError, match=r"b\.fa: has fewer sequences than when it was read before"):
        list(texts(PIECES, paths))


def test_fragments_of_pieces_lie_on_their_sequences() -> None:
    pieces = Pieces.of([[(0, 0, 120)], [(1, 0, 150)], [(1, 133, 283)], [(1, 266, 400)]])
    values = (np.array(each) for each in ([2, 3], [0, 1], [5, 6], [True, True], [1, 4], [30, 33], [0, 0]))
    moved = pieces.of_sequences(Fragments(*values))
    assert (moved.record.tolist(), moved.start.tolist(), moved.end.tolist()) == ([1, 1], [134, 270], [163, 299])
