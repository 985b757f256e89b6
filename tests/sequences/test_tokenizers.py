"""Token ids are those of the encoders' own tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import EsmTokenizer

from tests.tiny_models import ESM2_VOCABULARY, nucleotide_tokenizer
from vpdist.errors import WeightsError
from vpdist.ragged import Ragged
from vpdist.sequences.tokenizers import MAX_RESIDUES, NucleotideTokenizer, ProteinTokenizer


@pytest.fixture(scope="module")
def nucleotide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nucleotide")
    nucleotide_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def protein_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protein")
    (folder / "vocab.txt").write_text("\n".join(ESM2_VOCABULARY))
    return folder


def as_lists(tokens: Ragged) -> list[list[int]]:
    return [tokens[i].tolist() for i in range(len(tokens))]


def as_ragged(texts: list[str]) -> Ragged:
    return Ragged.from_lengths(np.frombuffer("".join(texts).encode("ascii"), np.uint8), [len(text) for text in texts])


@settings(max_examples=100)
@given(strings=st.lists(st.text(st.sampled_from("ACGTACGTNRY-."), min_size=1, max_size=80), max_size=8))
def test_nucleotide_ids_equal_the_librarys_plain_encode(nucleotide_folder: Path, strings: list[str]) -> None:
    plain = Tokenizer.from_file(str(nucleotide_folder / "tokenizer.json"))
    tokens = NucleotideTokenizer(nucleotide_folder).encode(as_ragged(strings))
    assert tokens.flat.dtype == np.uint16
    assert tokens.offsets.dtype == np.int64
    assert as_lists(tokens) == [plain.encode(string).ids for string in strings]


def test_nucleotide_ids_are_the_golden_ones(nucleotide_folder: Path) -> None:
    tokens = NucleotideTokenizer(nucleotide_folder).encode(as_ragged(["ACGTACGT", "A", "GATTACAN", "ACRGT"]))
    assert as_lists(tokens) == [
        [1, 39, 39, 2],
        [1, 5, 2],
        [1, 7, 13, 8, 11, 5, 9, 2],
        [1, 11, 0, 21, 2],
    ]


def test_slices_of_strings_do_not_show(nucleotide_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = NucleotideTokenizer(nucleotide_folder)
    strings = ["ACGT" * (i % 7 + 1) + "N" * (i % 3) for i in range(50)]
    whole = as_lists(tokenizer.encode(as_ragged(strings)))
    monkeypatch.setattr("vpdist.sequences.tokenizers.STRINGS_PER_CALL", 8)
    assert as_lists(tokenizer.encode(as_ragged(strings))) == whole


def test_truncation_and_padding_stored_with_the_tokenizer_are_off(nucleotide_folder: Path, tmp_path: Path) -> None:
    stored = Tokenizer.from_file(str(nucleotide_folder / "tokenizer.json"))
    stored.enable_truncation(5)
    stored.enable_padding(length=12)
    stored.save(str(tmp_path / "tokenizer.json"))
    strings = ["A", "ACGTTGCA" * 40]
    plain = NucleotideTokenizer(nucleotide_folder).encode(as_ragged(strings))
    assert as_lists(NucleotideTokenizer(tmp_path).encode(as_ragged(strings))) == as_lists(plain)
    assert plain.lengths[1] > 50


def test_no_strings_give_no_tokens(nucleotide_folder: Path, protein_folder: Path) -> None:
    tokens = NucleotideTokenizer(nucleotide_folder).encode(as_ragged([]))
    assert (tokens.flat.dtype, len(tokens.flat), tokens.offsets.tolist()) == (np.uint16, 0, [0])
    tokens = ProteinTokenizer(protein_folder).encode(as_ragged([]))
    assert (tokens.flat.dtype, len(tokens.flat), tokens.offsets.tolist()) == (np.uint8, 0, [0])


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"}}'])
def test_a_folder_without_a_usable_tokenizer_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=str(path)):
        NucleotideTokenizer(tmp_path)


def test_a_tokenizer_at_which_the_library_panics_is_refused(nucleotide_folder: Path, tmp_path: Path) -> None:
    described = json.loads((nucleotide_folder / "tokenizer.json").read_text())
    described["post_processor"]["single"][0]["SpecialToken"]["id"] = "[NONE]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(WeightsError, match="not a tokenizer that the tokenizers library reads"):
        NucleotideTokenizer(tmp_path)


def test_a_tokenizer_without_cls_and_sep_is_refused(tmp_path: Path) -> None:
    Tokenizer(models.BPE(vocab={"A": 0, "C": 1, "G": 2, "T": 3}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(WeightsError, match=r"does not put sequences between \[CLS\] and \[SEP\]"):
        NucleotideTokenizer(tmp_path)


def test_ids_beyond_uint16_are_refused(nucleotide_folder: Path, tmp_path: Path) -> None:
    content = json.loads((nucleotide_folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["TTTTTTTT"] = 65_536
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="token ids above 65535"):
        NucleotideTokenizer(tmp_path)


proteins = st.text(st.sampled_from("LAGVSERTIDPKQNFYMHWCX"), min_size=1, max_size=40)


@settings(max_examples=100)
@given(texts=st.lists(proteins, max_size=8))
def test_protein_ids_equal_the_published_tokenizers(protein_folder: Path, texts: list[str]) -> None:
    published = EsmTokenizer(str(protein_folder / "vocab.txt"))
    tokens = ProteinTokenizer(protein_folder).encode(as_ragged(texts))
    assert tokens.flat.dtype == np.uint8
    assert tokens.offsets.dtype == np.int64
    assert as_lists(tokens) == [published(text)["input_ids"] for text in texts]


def test_proteins_are_cut_after_1024_residues_and_only_those(protein_folder: Path) -> None:
    texts = ["M" * (MAX_RESIDUES - 1), "A" * 1500 + "L", "K", "G" * MAX_RESIDUES]
    ids = as_lists(ProteinTokenizer(protein_folder).encode(as_ragged(texts)))
    number = {token: i for i, token in enumerate(ESM2_VOCABULARY)}
    assert ids == [[0, *[number[text[0]]] * min(len(text), 1024), 2] for text in texts]


def test_a_protein_tokenizer_json_gives_the_same_ids(protein_folder: Path, tmp_path: Path) -> None:
    vocabulary = {token: i for i, token in enumerate(ESM2_VOCABULARY) if token not in ("<cls>", "<eos>")}
    added = [{"id": 0, "content": "<cls>"}, {"id": 2, "content": "<eos>"}]
    content = {"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": added}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    from_text, from_json = ProteinTokenizer(protein_folder), ProteinTokenizer(tmp_path)
    texts = as_ragged(["MKVLAX", "WC"])
    assert as_lists(from_json.encode(texts)) == as_lists(from_text.encode(texts))
    assert from_json.fingerprint != from_text.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("vocab.txt", "<cls>\n<eos>\nA\n", "lacks <unk>"),
        ("vocab.txt", "\n".join(["<cls>", "<eos>", "<unk>", "A", *(f"<{i}>" for i in range(300))]), "ids above 255"),
        ("tokenizer.json", "not json", "not a vocabulary that vpdist reads"),
        ("tokenizer.json", '{"model": {"vocab": [["A", -1.5]]}}', "lacks <cls>, <eos>, <unk>"),
        ("tokenizer.json", "[]", "not a vocabulary that vpdist reads"),
        ("other.txt", "", r"vocab\.txt: cannot be read: No such file"),
    ],
)
def test_a_folder_without_an_esm2_vocabulary_is_refused(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(WeightsError, match=reason):
        ProteinTokenizer(tmp_path)


def test_fingerprints_depend_on_content_not_on_the_folder(nucleotide_folder: Path, tmp_path: Path) -> None:
    content = (nucleotide_folder / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(content)
    assert NucleotideTokenizer(tmp_path).fingerprint == NucleotideTokenizer(nucleotide_folder).fingerprint
    (tmp_path / "tokenizer.json").write_text(content + "\n")
    assert NucleotideTokenizer(tmp_path).fingerprint != NucleotideTokenizer(nucleotide_folder).fingerprint


def test_the_parity_sets_tokenizer_is_matched(shared: Path) -> None:
    lines = (shared / "parity" / "fragments.500.tsv").read_text(encoding="utf-8").splitlines()[1:]
    nucleotides = [line.split("\t")[1] for line in lines]
    folder = shared / "parity" / "dnabert_s_tiny"
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = NucleotideTokenizer(folder).encode(as_ragged(nucleotides))
    assert as_lists(tokens) == [plain.encode(string).ids for string in nucleotides]
