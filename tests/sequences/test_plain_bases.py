"""Letters and stretches that are no plain sequence: against plain Python, and the same wherever a chunk lies."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vpdist.ragged import Ragged
from vpdist.sequences import plain_bases
from vpdist.sequences.plain_bases import low_complexity_bases, other_bases


def ragged(*chunks: str) -> Ragged:
    letters = np.frombuffer("".join(chunks).encode(), np.uint8)
    return Ragged.from_lengths(letters, [len(chunk) for chunk in chunks])


def plain_low_complexity(chunk: str) -> int:
    """Window by window, triplet by triplet."""
    n_windows = -(-len(chunk) // 256)
    n_low = 0
    for window in range(n_windows):
        start = max(0, (2 * window + 1) * len(chunk) // (2 * n_windows) - 32)
        end = min(len(chunk), start + 64)
        triplets = [chunk[i : i + 3] for i in range(start, end - 2)]
        counts = Counter(each for each in triplets if set(each) <= set("ACGT"))
        n = sum(counts.values())
        score = sum(c * (c - 1) / 2 for c in counts.values())
        n_low += score > 2 * max(1, n - 1)
    return n_low * len(chunk) // n_windows


CHUNKS = st.lists(
    st.one_of(
        st.text("ACGT", min_size=3, max_size=600),
        st.text("ACGTN", min_size=3, max_size=600),
        st.builds(lambda unit, n: (unit * n)[:700], st.text("ACGTN", min_size=1, max_size=7), st.integers(3, 90)),
    ).filter(lambda chunk: len(chunk) >= 3),
    max_size=6,
)


@given(chunks=CHUNKS)
def test_as_counted_in_plain_python(chunks: list[str]) -> None:
    assert low_complexity_bases(ragged(*chunks)).tolist() == [plain_low_complexity(chunk) for chunk in chunks]
    assert other_bases(ragged(*chunks)).tolist() == [sum(letter not in "ACGT" for letter in chunk) for chunk in chunks]


def test_slabs_do_not_change_a_count() -> None:
    rng = np.random.default_rng(0)
    chunks = ["".join(rng.choice(list("AC" if n % 3 else "ACGT"), 100 + n)) for n in range(30)] + ["A" * 500]
    whole = low_complexity_bases(ragged(*chunks))
    assert 0 < (whole > 0).sum() < len(chunks)
    assert [int(low_complexity_bases(ragged(chunk))[0]) for chunk in chunks] == whole.tolist()


def test_repeats_are_of_low_complexity_and_coding_sequence_is_not() -> None:
    rng = np.random.default_rng(1)
    plain = "".join(rng.choice(list("ACGT"), 500))
    tandem, two_letters = "CAG" * 166, "AT" * 250
    assert low_complexity_bases(ragged(plain, tandem, two_letters, "A" * 500)).tolist() == [0, 498, 500, 500]
    assert plain_bases.LEVEL == 2.0
