"""Chunks and six-frame fragments: golden cases, a plain slow reference, and the whole parity set where it exists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpdist.sequences.six_frames import FRAMES, Fragments, chunk_bounds, fragment_span, six_frames

# Length, chunk length, chunks (0-based, half-open).
GOLDEN_CHUNKS = [
    (1, 500, [(0, 1)]),
    (499, 500, [(0, 499)]),
    (500, 500, [(0, 500)]),
    (501, 500, [(0, 500), (250, 501)]),
    (502, 500, [(0, 500), (250, 502)]),
    (999, 500, [(0, 500), (499, 999)]),
    (1001, 500, [(0, 500), (333, 833), (666, 1001)]),
    (1250, 500, [(0, 500), (416, 916), (832, 1250)]),
    (301, 300, [(0, 300), (150, 301)]),
    (449, 300, [(0, 300), (224, 449)]),
    (899, 300, [(0, 300), (299, 599), (599, 899)]),
    (7, 3, [(0, 3), (2, 5), (4, 7)]),
]

# Sequence, its fragments: frame, nucleotide string, protein.
GOLDEN_FRAGMENTS = [
    ("AC", []),
    ("AGC", [("F1", "AGC", "S"), ("R1", "GCT", "A")]),
    ("GGCA", [("F1", "GGCA", "G"), ("F2", "GCA", "A"), ("R1", "TGCC", "C"), ("R2", "GCC", "A")]),
    ("TAACG", [("F2", "AACG", "N"), ("F3", "ACG", "T"), ("R1", "CGTT", "R"), ("R2", "GTTA", "V"), ("R3", "TTA", "L")]),
    (
        "ATGGCCTAA",
        [("F2", "TGGCCTA", "WP"), ("F3", "GGCCTAA", "GL"), ("R1", "TTAGGCCAT", "LGH"), ("R3", "AGGCCAT", "RP")],
    ),
    (
        "TTATTCATA",
        [("F1", "TTATTCATA", "LFI"), ("F2", "TATTCAT", "YS"), ("F3", "ATTCATA", "IH"), ("R2", "ATGAATA", "MN")],
    ),
    (
        "ACGNTGCAAC",
        [
            ("F1", "ACGNTGC", "TQ"),
            ("F2", "CGNTGCA", "CN"),
            ("F3", "GNTG", "A"),
            ("R1", "GTTGCAN", "VA"),
            ("R2", "TTGCANC", "LR"),
            ("R3", "TGCA", "C"),
        ],
    ),
    ("NNNNNN", []),
    ("RYSWKMBDHVACGT", [("F2", "YSWK", "T"), ("F3", "SWKM", "R"), ("R1", "ACGT", "T"), ("R2", "CGTV", "R")]),
    ("AC-GTT.GCA", [("F1", "AC-G", "V"), ("F2", "C-GT", "A"), ("R1", "TGC.", "C"), ("R2", "GC.A", "N")]),
    (
        "ATGAAATTTGGGCCCA",
        [
            ("F1", "ATGAAATTTGGGCCCA", "MKFGP"),
            ("F3", "GAAATTTGGGCCC", "EIWA"),
            ("R1", "TGGGCCCAAATTTCAT", "WAQIS"),
            ("R2", "GGGCCCAAATTTCAT", "GPKFH"),
            ("R3", "GGCCCAAATTTCA", "GPNF"),
        ],
    ),
    (
        "GATTACAGATTACA",
        [
            ("F1", "GATTACAGATTAC", "DYRL"),
            ("F2", "ATTACAGATTACA", "ITDY"),
            ("F3", "TTACAGATTACA", "LQIT"),
            ("R2", "GTAATCTGTAATC", "VICN"),
        ],
    ),
]

CODONS_OF = {
    "F": "TTT TTC", "L": "TTA TTG CTT CTC CTA CTG", "S": "TCT TCC TCA TCG AGT AGC", "Y": "TAT TAC", "*": "TAA TAG TGA",
    "C": "TGT TGC", "W": "TGG", "P": "CCT CCC CCA CCG", "H": "CAT CAC", "Q": "CAA CAG", "R": "CGT CGC CGA CGG AGA AGG",
    "I": "ATT ATC ATA", "M": "ATG", "T": "ACT ACC ACA ACG", "N": "AAT AAC", "K": "AAA AAG", "V": "GTT GTC GTA GTG",
    "A": "GCT GCC GCA GCG", "D": "GAT GAC", "E": "GAA GAG", "G": "GGT GGC GGA GGG",
}  # fmt: skip
RESIDUE_OF = {codon: residue for residue, codons in CODONS_OF.items() for codon in codons.split()}


def plain_chunks(length: int, chunk_length: int) -> list[tuple[int, int]]:
    """The chunk rule as it is defined, boundary by boundary."""
    n = -(-length // chunk_length)
    if n == 0:
        return []
    surplus = n * chunk_length - length
    overlap = surplus // n
    larger = surplus - overlap * (n - 1)
    chunks, start = [], 0
    for k in range(n):
        chunks.append((start, min(start + chunk_length, length)))
        start += chunk_length - (overlap + 1 if k < larger else overlap)
    return chunks


def plain_fragments(chunk: str) -> list[tuple[str, str, str]]:
    """The frame rule as it is defined, codon by codon."""
    complement = {"A": "T", "C": "G", "G": "C", "T": "A"}
    reverse = "".join(complement.get(letter, letter) for letter in reversed(chunk))
    fragments = []
    for direction, strand in (("F", chunk), ("R", reverse)):
        for shift in range(3):
            protein = "".join(RESIDUE_OF.get(strand[i : i + 3], "") for i in range(shift, len(strand) - 2, 3))
            if protein and "*" not in protein:
                fragments.append((f"{direction}{shift + 1}", strand[shift : shift + 1 + 3 * len(protein)], protein))
    return fragments


def as_bases(sequence: str) -> np.ndarray:
    return np.frombuffer(sequence.encode("ascii"), np.uint8)


def as_tuples(fragments: Fragments) -> list[tuple[int, str, str, str]]:
    """(chunk, frame, nucleotide string, protein) of each fragment."""
    texts = zip(fragments.nucleotide.strings(), fragments.protein.strings(), strict=True)
    return [
        (int(fragments.chunk[i]), FRAMES[fragments.frame[i]], nucleotide.decode(), protein.decode())
        for i, (nucleotide, protein) in enumerate(texts)
    ]


@pytest.mark.parametrize(("length", "chunk_length", "expected"), GOLDEN_CHUNKS)
def test_chunks_are_cut_as_in_the_golden_cases(length: int, chunk_length: int, expected: list[tuple[int, int]]) -> None:
    starts, ends = chunk_bounds(length, chunk_length)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected


def test_a_sequence_of_length_0_has_no_chunks() -> None:
    starts, ends = chunk_bounds(0, 500)
    assert starts.shape == ends.shape == (0,)
    assert starts.dtype == ends.dtype == np.int64


@given(length=st.integers(0, 20_000), chunk_length=st.integers(1, 700))
def test_chunks_follow_the_rule_and_cover_every_base(length: int, chunk_length: int) -> None:
    starts, ends = chunk_bounds(length, chunk_length)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == plain_chunks(length, chunk_length)
    covered = np.zeros(length, bool)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        assert 0 <= start < end <= start + chunk_length
        covered[start:end] = True
    assert covered.all()


@pytest.mark.parametrize(("sequence", "expected"), GOLDEN_FRAGMENTS)
def test_fragments_are_those_of_the_golden_cases(sequence: str, expected: list[tuple[str, str, str]]) -> None:
    fragments = six_frames(as_bases(sequence), np.array([0]), np.array([len(sequence)]))
    assert as_tuples(fragments) == [(0, *fragment) for fragment in expected]


@settings(max_examples=300)
@given(
    sequence=st.text(st.sampled_from("ACGT"), max_size=90) | st.text(st.sampled_from("ACGTNRYK-."), max_size=90),
    chunk_length=st.integers(1, 40),
)
def test_fragments_of_overlapping_chunks_equal_the_plain_reference(sequence: str, chunk_length: int) -> None:
    starts, ends = chunk_bounds(len(sequence), chunk_length)
    expected = [
        (k, *fragment)
        for k, (start, end) in enumerate(plain_chunks(len(sequence), chunk_length))
        for fragment in plain_fragments(sequence[start:end])
    ]
    fragments = six_frames(as_bases(sequence), starts, ends)
    assert as_tuples(fragments) == expected
    assert fragments.residues.tolist() == [len(protein) for *_, protein in expected]


@settings(max_examples=100)
@given(
    sequence=st.text(st.sampled_from("ACGTN"), min_size=1, max_size=60),
    bounds=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12),
)
def test_chunks_may_come_in_any_order_and_be_empty(sequence: str, bounds: list[tuple[int, int]]) -> None:
    clipped = [(min(a, b, len(sequence)), min(max(a, b), len(sequence))) for a, b in bounds]
    starts, ends = np.array(clipped, np.int64).reshape(-1, 2).T
    expected = [(k, *fragment) for k, (a, b) in enumerate(clipped) for fragment in plain_fragments(sequence[a:b])]
    assert as_tuples(six_frames(as_bases(sequence), starts, ends)) == expected


def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = np.random.default_rng(7).choice(as_bases("ACGGCCN"), 5_000)
    starts, ends = chunk_bounds(len(letters), 50)
    whole = as_tuples(six_frames(letters, starts, ends))
    monkeypatch.setattr("vpdist.sequences.six_frames._SLAB_BASES", 120)
    assert as_tuples(six_frames(letters, starts, ends)) == whole
    assert len({chunk for chunk, *_ in whole}) > 50  # slabs of two chunks: many of them


def test_no_chunks_give_no_fragments_of_the_same_types() -> None:
    none = six_frames(np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))
    some = six_frames(as_bases("AGC"), np.array([0]), np.array([3]))
    assert len(none) == 0
    for name in ("chunk", "frame", "residues"):
        assert getattr(none, name).dtype == getattr(some, name).dtype
    for name in ("nucleotide", "protein"):
        assert getattr(none, name).flat.dtype == getattr(some, name).flat.dtype
        assert getattr(none, name).offsets.tolist() == [0]


@given(sequence=st.text(st.sampled_from("ACGTN"), max_size=70), chunk_length=st.integers(3, 30))
def test_a_span_holds_exactly_the_nucleotide_string(sequence: str, chunk_length: int) -> None:
    starts, ends = chunk_bounds(len(sequence), chunk_length)
    fragments = six_frames(as_bases(sequence), starts, ends)
    chunk = fragments.chunk
    first, last = fragment_span(starts[chunk], ends[chunk], fragments.frame, fragments.residues)
    complement = str.maketrans("ACGT", "TGCA")
    for begin, end, (_, frame, nucleotide, _) in zip(first.tolist(), last.tolist(), as_tuples(fragments), strict=True):
        forward = sequence[begin - 1 : end]
        assert nucleotide == (forward if frame[0] == "F" else forward.translate(complement)[::-1])


def read_plain_fasta(path: Path) -> list[tuple[str, str]]:
    entries = path.read_text(encoding="utf-8").split(">")[1:]
    return [(entry.split(None, 1)[0], "".join(entry.split("\n")[1:]).upper()) for entry in entries]


@pytest.mark.parametrize("chunk_length", [300, 500])
def test_the_parity_set_is_reproduced_exactly(shared: Path, chunk_length: int) -> None:
    rows = []
    for name, sequence in read_plain_fasta(shared / "parity" / "input.fa"):
        fragments = six_frames(as_bases(sequence), *chunk_bounds(len(sequence), chunk_length))
        for chunk, frame, nucleotide, protein in as_tuples(fragments):
            rows.append(f"{name}_chunk_{chunk + 1}{frame}\t{nucleotide}\t{protein}")
    expected = (shared / "parity" / f"fragments.{chunk_length}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert rows == expected
    assert len(rows) > 600
