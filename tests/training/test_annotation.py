"""Fragments of annotated genomes: inside a CDS, in its frame, on its strand, without ambiguous bases."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from tests.sample import coding_sequence
from tests.training.test_kmers import reverse_complement
from vpdist.errors import InputError
from vpdist.sequences.six_frames import fragment_span, six_frames
from vpdist.train_settings import LabelledFile
from vpdist.training.annotation import are_inside, inside_coding, read_coding
from vpdist.training.fragments import Fragments
from vpdist.training.labelled import Labelled, read_labelled

pytest.importorskip("Bio")


def flat_file(path: Path, name: str, sequence: str, features: list[tuple[str, str]]) -> Path:
    """A GenBank record with CDS features of these locations and further qualifiers."""
    lines = [
        f"LOCUS       {name:<16} {len(sequence):>11} bp    DNA     linear   PHG 01-JAN-2020",
        "DEFINITION  a phage.",
        f"ACCESSION   {name}",
        f"VERSION     {name}.1",
        "FEATURES             Location/Qualifiers",
        f"     source          1..{len(sequence)}",
    ]
    for location, qualifiers in features:
        lines.append(f"     CDS             {location}")
        lines += [f"                     {line}" for line in qualifiers.split()]
    lines.append("ORIGIN")
    for start in range(0, len(sequence), 60):
        line = sequence[start : start + 60].lower()
        lines.append(f"{start + 1:>9} " + " ".join(line[i : i + 10] for i in range(0, len(line), 10)))
    path.write_text("\n".join([*lines, "//", ""]))
    return path


def fragments_of(sequence: str) -> Fragments:
    """All fragments of a sequence as one chunk."""
    bases = np.frombuffer(sequence.encode(), np.uint8)
    found = six_frames(bases, np.array([0]), np.array([len(bases)]))
    n = len(found.frame)
    zeros = np.zeros(n, np.int64)
    start, end = fragment_span(zeros, zeros + len(bases), found.frame, found.residues)
    return Fragments(zeros, zeros, zeros, np.ones(n, bool), start, end, found.frame)


def test_only_the_reading_frame_of_the_annotation_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sequence = "C" + coding_sequence(rng, 299) + "A"
    for location, strand in (("2..301", "forward"), ("complement(1..300)", "reverse")):
        bases = sequence if strand == "forward" else reverse_complement(sequence)
        path = flat_file(tmp_path / "a.gbff", "XX000001", bases, [(location, '/product="p"')])
        [(names, pieces)] = read_coding(path)
        assert names == ("XX000001.1", "XX000001")
        frame = np.arange(6)
        zeros = np.zeros(6, np.int64)
        start, end = fragment_span(zeros, zeros + 301, frame, (301 - frame % 3) // 3)
        expected = [False] * 6
        expected[1 if strand == "forward" else 4] = True
        assert are_inside(pieces, start, end, frame).tolist() == expected


def test_codon_start_joins_and_pseudogenes_are_read_as_they_are_meant(tmp_path: Path) -> None:
    features = [
        ("join(1..30,61..120)", "/codon_start=1"),
        ("<200..260", "/codon_start=3"),
        ("300..330", "/pseudo"),
        ("complement(join(401..430,441..460))", "/codon_start=1"),
    ]
    path = flat_file(tmp_path / "a.gbff", "XX000001", "ACGT" * 200, features)
    [(_, pieces)] = read_coding(path)

    def inside(start: int, end: int, frame: int) -> bool:
        given = (np.array([value]) for value in (start, end, frame))
        return bool(are_inside(pieces, *given)[0])

    assert inside(1, 31, 0)  # 30 bases of codons and one more
    assert not inside(1, 34, 0)  # a codon beyond the piece
    assert inside(61, 120, 0)
    assert not inside(62, 120, 1)
    assert inside(202, 260, 0)
    assert not inside(200, 260, 0)
    assert not inside(301, 330, 0)
    assert inside(443, 460, 3)  # six codons; two bases are left, and the first of the next piece completes theirs
    assert not inside(440, 460, 3)
    assert inside(401, 429, 3)
    assert not inside(401, 430, 3)


def test_fragments_with_ambiguous_bases_and_sequences_without_annotation_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    clean, other = coding_sequence(rng, 300), coding_sequence(rng, 300)
    ambiguous = clean[:100] + "N" + clean[101:]
    files = []
    for name, text in (("virus", f">XX000001.1\n{clean}\n>XX000002.1\n{ambiguous}\n"), ("other", f">x\n{other}\n")):
        (tmp_path / f"{name}.fa").write_text(text)
        files.append(LabelledFile(str(tmp_path / f"{name}.fa"), name == "virus", name))
    content = b"".join(
        flat_file(tmp_path / "one", name, bases, [("1..300", "/codon_start=1")]).read_bytes()
        for name, bases in (("XX000001", clean), ("XX000002", ambiguous))
    )
    (tmp_path / "a.gbff.gz").write_bytes(gzip.compress(content))
    labelled = Labelled(tmp_path / "m", tuple(files), None, (tmp_path / "a.gbff.gz",))
    each = [fragments_of(bases) for bases in (clean, ambiguous, other)]
    columns = [np.concatenate([getattr(part, name) for part in each]) for name in ("usable", "start", "end", "frame")]
    record = np.repeat(np.arange(3), [len(part.frame) for part in each])
    usable, start, end, frame = columns
    fragments = Fragments(record, record, record, usable, start, end, frame)
    found, told = inside_coding(fragments, read_labelled(labelled), labelled)
    kept = np.flatnonzero(found.usable)
    assert [(int(record[i]), int(frame[i])) for i in kept] == [(0, 0)]
    assert f"1 of {len(record):,} fragments lie inside an annotated CDS; 1 sequences without annotation" in told
    (tmp_path / "other.gbff").write_bytes(flat_file(tmp_path / "one", "YY000001", clean, []).read_bytes())
    strange = Labelled(tmp_path / "m", tuple(files), None, (tmp_path / "other.gbff",))
    with pytest.raises(InputError, match=r"other\.gbff: annotates none of the labelled sequences"):
        inside_coding(fragments, read_labelled(strange), strange)


@pytest.mark.parametrize("content", [b">fasta\nACGT\n", b"", b"\x1f\x8b\x08broken"])
def test_what_is_no_flat_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.gbff"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.gbff"):
        list(read_coding(path))
