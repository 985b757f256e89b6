"""Families of encoders: told from config.json, for one kind or several, transformers or not."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.cpu_ranks import weight_bytes
from vpdist.commands.early_checks import check_kind
from vpdist.commands.predict import predict
from vpdist.commands.resolve_config import CUDA_TOKEN_BUDGET, cost_of, token_budget
from vpdist.commands.verify import verify
from vpdist.encoder_kinds import EncoderKind
from vpdist.encoders.encoder import load_encoder
from vpdist.encoders.family import DNABERT_S, ESM2, FAMILIES, EncoderFamily, family_of, has_type
from vpdist.encoders.model_files import fingerprinted
from vpdist.encoders.packing import Packing
from vpdist.encoders.shape import EncoderShape, encoder_shape
from vpdist.errors import UsageError, WeightsError
from vpdist.ragged import Ragged
from vpdist.results import parts
from vpdist.storage import hdf5_files

CPU = torch.device("cpu")
LETTERS = 256


class Letters:
    """One token per letter, no special ones."""

    fingerprint = "letters"

    def __init__(self, folder: Path, kind: EncoderKind) -> None:
        self._type = kind.token_type

    def encode(self, texts: Ragged) -> Ragged:
        return Ragged(texts.flat.astype(self._type), texts.offsets)


class Frequencies(nn.Module):
    """How often each letter is in a sequence: no layers, no parameters, and it pools by itself."""

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        counts_BD = torch.zeros(len(packing.lengths), LETTERS, dtype=torch.float64)
        sequence_T = torch.from_numpy(np.repeat(np.arange(len(packing.lengths)), packing.lengths))
        counts_BD.index_put_((sequence_T, tokens_T.long()), torch.ones(1, dtype=torch.float64), accumulate=True)
        return counts_BD / torch.from_numpy(packing.lengths)[:, None]


def shape(path: Path, config: Mapping[str, Any], family: EncoderFamily) -> EncoderShape:
    return EncoderShape(family=family, width=LETTERS, vocabulary=LETTERS)


FREQUENCIES = EncoderFamily(
    name="letters",
    kinds=("nucleotide", "protein"),
    matches=has_type("letters"),
    recognised_by="model_type 'letters'",
    shape=shape,
    tokenizer=Letters,
    loader=lambda folder, dtype, device: Frequencies(),
    pools="frequencies of letters",
    has_weights=False,
)


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of such an encoder: a config.json."""
    monkeypatch.setitem(FAMILIES, FREQUENCIES.name, FREQUENCIES)
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "letters"}))
    return folder


def test_an_encoder_without_layers_has_no_cost_nor_memory(letters: Path) -> None:
    shapes = {"nucleotide": encoder_shape(letters)}
    assert token_budget(shapes, "float16", 8 << 30, 500) == CUDA_TOKEN_BUDGET
    assert (weight_bytes(shapes), shapes["nucleotide"].head_size) == (4 * LETTERS**2, 0)
    assert cost_of(shapes["nucleotide"]).of(np.array([1, 500])).tolist() == [1, 1]


def test_an_encoder_that_pools_by_itself_stands_in_both_places(letters: Path, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa")
    run = TinyModels(letters, letters, tmp_path).settings(source, tmp_path / "run", classifier=None)
    assert predict(run) == 0
    seen = 0
    for path in (run.output / "parts").iterdir():
        with hdf5_files.opened(path) as part:
            assert part["nucleotide"].shape[1] == part["protein"].shape[1] == LETTERS
            np.testing.assert_allclose(part["nucleotide"][:].sum(1), 1, rtol=1e-6)
            assert (part["nucleotide"][:][:, list(b"ACGTN")] > 0).any()
            assert (part["protein"][:][:, list(b"EFILPQ")] > 0).any()
            text = hdf5_files.attributes(part)["pooling"]
            assert text == "nucleotide: frequencies of letters; protein: frequencies of letters"
            seen += len(part["row"])
    assert seen > 50
    decisions = json.loads((run.output / "run.json").read_text())["decisions"]
    assert decisions["protein_pooling"] == "frequencies of letters"
    assert verify(run.output) == []


def test_embeddings_with_another_pooling_are_not_taken_over(
    letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_contigs(tmp_path / "contigs.fa")
    run = TinyModels(letters, letters, tmp_path).settings(source, tmp_path / "run", classifier=None)
    assert predict(run) == 0
    monkeypatch.setitem(FAMILIES, FREQUENCIES.name, replace(FREQUENCIES, pools="counts of letters"))
    assert predict(replace(run, output=tmp_path / "again", reuse=run.output)) == UsageError.exit_code
    assert "its embeddings are pooled in another way than this run's" in caplog.text


def test_a_sequence_alone_is_pooled_as_in_a_batch(letters: Path) -> None:
    encoder = load_encoder(letters, "protein", torch.float32, CPU)
    batch = Ragged.from_lengths(np.frombuffer(b"MKLVAAM", np.uint8), [3, 1, 3])
    rows = encoder.embed(batch)
    assert rows.dtype == torch.float32
    assert encoder.padding(batch.lengths) == 0
    assert all(torch.equal(rows[i], encoder.embed(batch.between(i, i + 1))[0]) for i in range(3))


def test_a_family_is_refused_where_it_does_not_serve(models: TinyModels, letters: Path) -> None:
    check_kind("protein", "x", letters)
    with pytest.raises(WeightsError, match=r"--protein-model x: is a nucleotide encoder \(DNABERT-S\)"):
        check_kind("protein", "x", models.nucleotide)
    with pytest.raises(WeightsError, match="describes DNABERT-S and ESM-2 at once"):
        family_of(Path("config.json"), {"alibi_starting_size": 1, "model_type": "esm"})
    with pytest.raises(WeightsError, match=r"describes neither DNABERT-S .* nor letters \(model_type 'letters'\) nor "):
        family_of(Path("config.json"), {"model_type": ["esm"]})


def test_further_files_of_a_family_enter_its_fingerprint(letters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprinted(letters).fingerprint
    (letters / "table.npz").write_bytes(b"1")
    assert fingerprinted(letters).fingerprint == before
    monkeypatch.setitem(FAMILIES, FREQUENCIES.name, replace(FREQUENCIES, files=("table.npz",)))
    assert fingerprinted(letters).fingerprint != before


def test_a_row_is_sent_to_a_child_by_its_name() -> None:
    assert pickle.loads(pickle.dumps((DNABERT_S, ESM2))) == (DNABERT_S, ESM2)


def test_parts_of_the_methods_encoders_record_no_pooling_of_their_own(models: TinyModels, tmp_path: Path) -> None:
    run = models.settings(write_contigs(tmp_path / "contigs.fa"), tmp_path / "run", classifier=None)
    assert predict(run) == 0
    assert not [name for name in json.loads((run.output / "run.json").read_text())["decisions"] if "pooling" in name]
    with hdf5_files.opened(parts.part_path(run.output / "parts", 0)) as part:
        assert hdf5_files.attributes(part)["pooling"] == (
            "nucleotide: mean over all tokens; protein: mean over residues"
        )
