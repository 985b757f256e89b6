"""25-mers of both strands, and the groups that they and accessions make."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpdist.errors import InputError
from vpdist.train_settings import LabelledFile
from vpdist.training.groups import accession, find_groups
from vpdist.training.kmers import LONGEST_UNIT, REPEATED, K, canonical_kmers, components, shared
from vpdist.training.labelled import Labelled, read_labelled

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def reverse_complement(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


def repeats(word: str) -> bool:
    units = range(1, LONGEST_UNIT + 1)
    return any(sum(a == b for a, b in zip(word, word[unit:], strict=False)) >= REPEATED for unit in units)


def words(sequence: str) -> list[tuple[str, int]]:
    """The 25-mers as texts: what `canonical_kmers` promises, by itself."""
    found = []
    for start in range(len(sequence) - K + 1):
        word = sequence[start : start + K]
        if set(word) <= set("ACGT") and not repeats(word):
            found.append((min(word, reverse_complement(word)), start))
    return found


def decoded(kmer: int) -> str:
    return "".join("ACGT"[kmer >> 2 * (K - 1 - place) & 3] for place in range(K))


def random_bases(seed: int, n: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), n))


@given(st.text("ACGTN", max_size=90))
def test_kmers_are_the_smaller_one_of_both_strands(sequence: str) -> None:
    kmers, positions = canonical_kmers(np.frombuffer(sequence.encode(), np.uint8))
    assert [(decoded(int(kmer)), int(at)) for kmer, at in zip(kmers, positions, strict=True)] == words(sequence)


def test_a_long_sequence_has_the_kmers_of_its_reverse_complement() -> None:
    sequence = random_bases(1, 5000) + "N" + "A" * 100 + "ACACAC" * 20 + random_bases(2, 100)
    one, other = (
        canonical_kmers(np.frombuffer(text.encode(), np.uint8))[0] for text in (sequence, reverse_complement(sequence))
    )
    assert len(one) > 5000
    assert np.array_equal(np.sort(one), np.sort(other))


def write(path: Path, **sequences: str) -> Path:
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in sequences.items()))
    return path


def labelled(tmp_path: Path, virus: dict[str, str], other: dict[str, str], groups: Path | None = None) -> Labelled:
    files = (write(tmp_path / "virus.fa", **virus), write(tmp_path / "other.fa", **other))
    return Labelled(
        tmp_path / "model",
        (LabelledFile(str(files[0]), True, "virus"), LabelledFile(str(files[1]), False, "other")),
        groups,
    )


def groups_of(given: Labelled) -> list[int]:
    return find_groups(given, read_labelled(given)).tolist()


@pytest.mark.parametrize("pass_kmers", [100, 1000, 1 << 25])
def test_pairs_are_the_same_in_one_pass_and_in_many(tmp_path: Path, pass_kmers: int) -> None:
    common = random_bases(3, 40)
    path = write(
        tmp_path / "a.fa",
        one=random_bases(4, 300) + common,
        two=random_bases(5, 200),
        three=reverse_complement(common) + random_bases(6, 300),
        four=random_bases(7, 80),
    )
    root = np.arange(4)
    for pairs in shared([path], 960, pass_kmers=pass_kmers):
        root = components(4, pairs, root)
    assert root.tolist() == [0, 1, 0, 3]


def test_24_common_bases_join_no_sequences_and_25_do(tmp_path: Path) -> None:
    common = random_bases(8, 25)
    one, two, three = (random_bases(seed, 100) for seed in (9, 10, 11))
    assert groups_of(labelled(tmp_path, {"a": one + common}, {"b": common + two})) == [0, 0]
    assert groups_of(labelled(tmp_path, {"a": one + common}, {"b": "N" + common[:-1] + "N" + three})) == [0, 1]


def test_poly_a_and_microsatellites_join_no_sequences(tmp_path: Path) -> None:
    repeated = "A" * 60 + "GATAGATA" * 10
    one, other = random_bases(12, 90) + "GC", random_bases(13, 90) + "TC"
    assert groups_of(labelled(tmp_path, {"a": one + repeated}, {"b": other + repeated})) == [0, 1]
    assert groups_of(labelled(tmp_path, {"a": one + repeated}, {"b": one[30:] + repeated})) == [0, 0]


def test_sequences_of_one_accession_and_of_a_group_of_the_users_are_joined(tmp_path: Path) -> None:
    names = ["NC_000001.1_1_90", "x1", "NC_000001.2:c9-1", "x2", "x3"]
    virus = {name: random_bases(20 + number, 90) for number, name in enumerate(names)}
    (tmp_path / "groups.tsv").write_text("x1\tg\n\nx3\tg\n")
    given = labelled(tmp_path, virus, {"b": random_bases(30, 90)}, tmp_path / "groups.tsv")
    assert groups_of(given) == [0, 1, 0, 3, 1, 5]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x1 g\n", r"groups\.tsv, line 1: is not name<TAB>group"),
        ("x1\tg\n\nx1\th\n", r"groups\.tsv, line 3: x1 is in two groups"),
        ("x9\tg\n", "names 1 sequences that no file has, x9 for one"),
    ],
)
def test_a_wrong_file_of_groups_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "groups.tsv"
    path.write_text(text)
    given = labelled(tmp_path, {"x1": random_bases(1, 60)}, {"b": random_bases(2, 60)}, path)
    with pytest.raises(InputError, match=told):
        groups_of(given)


@pytest.mark.parametrize(
    ("name", "shared_with"),
    [
        ("NC_008199#3k#12001#15000", "NC_008199"),
        ("NC_010681.1#3k#399057#402056", "NC_010681"),
        ("NC_018264:c29335-28853", "NC_018264"),
        ("NC_000913.3_12000_15000", "NC_000913"),
        ("MN908947.3", "MN908947"),
        ("ARWA01#3k#2531471#2534470", "ARWA01"),
        ("NZ_AAAL02000008:60749-61348", "AAAL02"),
        ("AAAM03000054.1", "AAAM03"),
        ("XM_001609423", "XM_001609423"),
        ("contig_00005", "contig_00005"),
        ("k141_17:100-900", "k141_17"),
        ("k141_17_2", "k141_17_2"),
        ("scaffold_10_20", "scaffold_10_20"),
        ("contig_5_c900-100", "contig_5"),
        ("read7/1", "read7"),
        ("A00123:45:HFLOW:1:1101:1000:2000", "A00123:45:HFLOW:1:1101:1000:2000"),
        ("bosTau8.fa:chr25", "bosTau8.fa:chr25"),
    ],
)
def test_what_names_of_one_accession_have_in_common(name: str, shared_with: str) -> None:
    assert accession(name) == shared_with


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_components_are_those_of_a_plain_search(pairs: list[tuple[int, int]]) -> None:
    label = list(range(30))
    for _ in range(30):
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    assert components(30, np.array(pairs, np.int64).reshape(-1, 2)).tolist() == label


def test_a_sequence_with_both_labels_is_refused_by_the_names_of_both(tmp_path: Path) -> None:
    bases = random_bases(40, 90)
    given = labelled(tmp_path, {"a": bases}, {"ok": random_bases(41, 90), "b": reverse_complement(bases)})
    with pytest.raises(InputError, match=r"other\.fa, record b: has the same sequence as a of .*virus\.fa"):
        read_labelled(given)


def test_a_label_without_sequences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other\.fa: the files of --other hold no sequences"):
        read_labelled(labelled(tmp_path, {"a": random_bases(42, 90)}, {}))
