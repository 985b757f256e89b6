"""Composition encoders: words counted one by one, whatever the batch."""

import json
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.encoders.composition_words import AMINO_ACIDS, BASES
from vpdist.encoders.encoder import load_encoder
from vpdist.ragged import Ragged
from vpdist.sequences.tokenizers import load_tokenizer
from vpdist.storage import hdf5_files

CPU = torch.device("cpu")
FOUR_MERS = ["".join(word) for word in product(BASES, repeat=4)]
CODONS = ["".join(word) for word in product(BASES, repeat=3)]
PAIRS = ["".join(word) for word in product(AMINO_ACIDS, repeat=2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both encoders: a config.json each."""
    root = tmp_path_factory.mktemp("composition")
    for kind in ("nucleotide", "protein"):
        (root / kind).mkdir()
        (root / kind / "config.json").write_text(json.dumps({"model_type": f"{kind}_composition"}))
    return {kind: root / kind for kind in ("nucleotide", "protein")}


def relative(words: list[str], known: list[str]) -> list[float]:
    """Frequencies of the known words among them, times their number."""
    counts = Counter(word for word in words if word in set(known))
    return [counts[word] * len(known) / max(1, counts.total()) for word in known]


def expected_nucleotide(text: str) -> list[float]:
    four_mers = [text[i : i + 4] for i in range(len(text) - 3)]
    codons = [text[i : i + 3] for i in range(0, len(text) - 2, 3)]
    return relative(four_mers, FOUR_MERS) + relative(codons, CODONS)


def expected_protein(text: str) -> list[float]:
    return relative(list(text), list(AMINO_ACIDS)) + relative([text[i : i + 2] for i in range(len(text) - 1)], PAIRS)


EXPECTED = {"nucleotide": expected_nucleotide, "protein": expected_protein}
LETTERS = {"nucleotide": "ACGTACGTN", "protein": AMINO_ACIDS + "XU"}


def ragged(texts: list[str]) -> Ragged:
    return Ragged.from_lengths(np.frombuffer("".join(texts).encode(), np.uint8), [len(text) for text in texts])


@pytest.mark.parametrize("kind", EXPECTED)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rows_are_the_words_counted_one_by_one(kind: str, folders: dict[str, Path], data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(LETTERS[kind], min_size=1, max_size=40), min_size=1, max_size=6))
    tokens = load_tokenizer(kind, folders[kind]).encode(ragged(texts))
    rows = load_encoder(folders[kind], kind, torch.bfloat16, CPU).embed(tokens)
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows.numpy(), [EXPECTED[kind](text) for text in texts], rtol=1e-6)


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_batch_gives_the_bits_of_each_sequence_alone(kind: str, folders: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(LETTERS[kind]), n)) for n in (1, 2, 3, 4, 5, 166, 166, 499)]
    tokens = load_tokenizer(kind, folders[kind]).encode(ragged(texts))
    encoder = load_encoder(folders[kind], kind, torch.float32, CPU)
    rows = encoder.embed(tokens)
    assert encoder.padding(tokens.lengths) == 0
    for i in range(len(texts)):
        assert torch.equal(rows[i], encoder.embed(tokens.between(i, i + 1))[0])


def test_every_base_can_be_told_from_the_codon_tokens(folders: dict[str, Path]) -> None:
    texts = ["".join(word) for n in range(1, 5) for word in product("ACGTN", repeat=n)]
    tokens = load_tokenizer("nucleotide", folders["nucleotide"]).encode(ragged(texts))
    assert tokens.flat.dtype == np.uint16
    assert tokens.lengths.tolist() == [-(-len(text) // 3) for text in texts]
    assert len({bytes(tokens[i]) for i in range(len(texts))}) == len(texts)


def test_a_run_with_them_is_complete_and_says_how_they_pool(
    folders: dict[str, Path], models: TinyModels, tmp_path: Path
) -> None:
    run = TinyModels(folders["nucleotide"], folders["protein"], models.classifier).settings(
        write_contigs(tmp_path / "contigs.fa"), tmp_path / "run", classifier=None
    )
    assert predict(run) == 0
    assert verify(run.output) == []
    with hdf5_files.opened(run.output / "parts" / "unit-000000.h5") as part:
        assert (part["nucleotide"].shape[1], part["protein"].shape[1]) == (320, 420)
        np.testing.assert_allclose(part["nucleotide"][:, :256].sum(1), 256, rtol=1e-3)
        assert hdf5_files.attributes(part)["pooling"] == (
            "nucleotide: relative frequencies of 4-mers and of codons; "
            "protein: relative frequencies of residues and of their pairs"
        )
