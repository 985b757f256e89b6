"""ESM C gives what the transformers library's own class gives, packed, whatever else is in the batch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import EsmcConfig, EsmcForMaskedLM, EsmcModel, EsmcTokenizer

from tests.library_models import change_config, saved
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.encoders.encoder import Encoder, load_encoder
from vpdist.encoders.family import ESMC
from vpdist.encoders.shape import encoder_shape
from vpdist.encoders.weights import model_fingerprint
from vpdist.errors import WeightsError
from vpdist.ragged import Ragged
from vpdist.sequences.tokenizers import load_tokenizer

CPU = torch.device("cpu")
PROTEINS = ["MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ", "A", "MKLVXXA", "GGGGGGG", "WCBZUO" * 30, "MST", "ACD"]


def config(**values: object) -> EsmcConfig:
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    return EsmcConfig(**{**sizes, **values})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("esmc")
    saved(folder, EsmcForMaskedLM, config())
    EsmcTokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(folder, "protein", torch.float32, CPU)


def tokens_of(folder: Path, proteins: list[str]) -> Ragged:
    flat = np.frombuffer("".join(proteins).encode(), np.uint8)
    return load_tokenizer("protein", folder).encode(Ragged.from_lengths(flat, [len(each) for each in proteins]))


def test_tokens_are_those_of_the_librarys_tokenizer(folder: Path) -> None:
    tokens = tokens_of(folder, PROTEINS)
    assert tokens.flat.dtype == np.uint8
    for row, protein in enumerate(PROTEINS):
        assert tokens[row].tolist() == EsmcTokenizer()(protein)["input_ids"]


def test_it_gives_what_the_librarys_class_gives(folder: Path, encoder: Encoder) -> None:
    own = EsmcModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokens = tokens_of(folder, PROTEINS)
    rows = encoder.embed(tokens)
    with torch.inference_mode():
        for row in range(len(PROTEINS)):
            ids = torch.from_numpy(tokens[row].astype(np.int64))[None]
            expected = own(input_ids=ids).last_hidden_state[0, 1:-1].mean(0)
            torch.testing.assert_close(rows[row], expected, atol=2e-5, rtol=0)
    assert rows.std(dim=0).min() > 0.01  # sequences differ


@pytest.mark.parametrize("flag", ["attention_bias", "mlp_bias"])
def test_biases_are_read(flag: str, tmp_path: Path) -> None:
    model = saved(tmp_path, EsmcModel, config(**{flag: True}))
    EsmcTokenizer().save_pretrained(tmp_path)
    tokens = tokens_of(tmp_path, PROTEINS[:1])
    found = load_encoder(tmp_path, "protein", torch.float32, CPU).embed(tokens)[0]
    with torch.inference_mode():
        hidden = model(input_ids=torch.from_numpy(tokens.flat.astype(np.int64))[None]).last_hidden_state
    torch.testing.assert_close(found, hidden[0, 1:-1].mean(0), atol=2e-5, rtol=0)


def test_a_batch_of_mixed_lengths_gives_what_each_gives_alone(folder: Path, encoder: Encoder) -> None:
    tokens = tokens_of(folder, PROTEINS)
    rows = encoder.embed(tokens)
    for row in range(len(PROTEINS)):
        alone = encoder.embed(tokens.between(row, row + 1))[0]
        torch.testing.assert_close(rows[row], alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(rows.flip(0), encoder.embed(tokens.take(np.arange(len(PROTEINS))[::-1].copy())))


def test_bfloat16_is_close(folder: Path, encoder: Encoder) -> None:
    tokens = tokens_of(folder, PROTEINS)
    half = load_encoder(folder, "protein", torch.bfloat16, CPU).embed(tokens)
    similar = torch.cosine_similarity(half, encoder.embed(tokens))
    assert similar.min() > 0.99


def test_its_cost_is_that_of_the_counted_operations(folder: Path) -> None:
    shape = encoder_shape(folder)
    own = EsmcModel.from_pretrained(folder, attn_implementation="eager", local_files_only=True).eval()
    tokens = torch.full((1, 100), 5)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        own(input_ids=tokens)
    expected = 100 * shape.linear_flops_per_token + 100**2 * shape.attention_flops_per_token_pair
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_a_run_with_it_is_whole(folder: Path, models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa")
    run = models.settings(source, tmp_path / "run", classifier=None, protein_model=str(folder))
    assert predict(run) == 0
    assert verify(run.output) == []
    assert ESMC.pooling == "mean over residues"
    assert len(model_fingerprint(folder)) == 32


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("num_key_value_heads", 2),
        ("num_key_value_heads", True),
        ("head_dim", 8),
        ("attention_bias", "yes"),
        ("mlp_bias", 1),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
        ("rope_parameters", [1]),
        ("rope_parameters", {"rope_theta": math.nan}),
        ("num_attention_heads", 48),
        ("num_attention_heads", 5),
        ("hidden_size", 1 << 15),
        ("num_hidden_layers", 1 << 10),
        ("vocab_size", 1 << 20),
        ("vocab_size", "64"),
    ],
)
def test_odd_values_in_its_config_are_refused(key: str, value: object, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    text = (folder / "config.json").read_text()
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(text)
    change_config(tmp_path, **{key: value})
    with pytest.raises(WeightsError, match=str(tmp_path)):
        load_encoder(tmp_path, "protein", torch.float32, CPU)


def test_keys_that_are_not_needed_are_not_read(folder: Path, tmp_path: Path, encoder: Encoder) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    change_config(tmp_path, num_labels=1 << 40, auto_map={"AutoModel": "x.Y"}, _attn_implementation="flash_attention_2")
    tokens = tokens_of(folder, PROTEINS)
    again = load_encoder(tmp_path, "protein", torch.float32, CPU).embed(tokens)
    assert torch.equal(again, encoder.embed(tokens))
