"""check_encoder passes for every family there is, and tells each promise that an encoder breaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from tests.library_models import letters_tokenizer, saved
from tests.tiny_models import TinyModels
from vpdist.encoder_kinds import EncoderKind
from vpdist.encoders.family import FAMILIES, EncoderFamily, has_type
from vpdist.encoders.packing import Packing
from vpdist.encoders.shape import EncoderShape
from vpdist.ragged import Ragged
from vpdist.testing import check_encoder

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LETTERS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"ACDEFGHIKLMNPQRSTVWYX"]


@pytest.mark.parametrize("kind", ["nucleotide", "protein"])
def test_the_methods_encoders_keep_what_is_promised(kind: str, models: TinyModels) -> None:
    check_encoder(getattr(models, kind), kind)


def test_esm_c_keeps_what_is_promised(tmp_path: Path) -> None:
    saved(tmp_path, transformers.EsmcModel, transformers.EsmcConfig(**TINY))
    transformers.EsmcTokenizer().save_pretrained(tmp_path)
    check_encoder(tmp_path, "protein")


@pytest.mark.parametrize("name", ["Bert", "Mistral"])
def test_models_of_the_library_keep_what_is_promised(name: str, tmp_path: Path) -> None:
    heads = {"num_key_value_heads": 2} if name == "Mistral" else {}
    config = getattr(transformers, f"{name}Config")(**TINY, **heads, vocab_size=len(LETTERS))
    saved(tmp_path, getattr(transformers, f"{name}Model"), config, spread=0.15)
    letters_tokenizer(tmp_path, LETTERS, "[CLS]", "[SEP]")
    check_encoder(tmp_path, "protein")


WIDTH = 24


class Letters:
    """One token per letter."""

    fingerprint = "letters"

    def __init__(self, folder: Path, kind: EncoderKind) -> None:
        self.token_type = kind.token_type

    def encode(self, texts: Ragged) -> Ragged:
        return Ragged(texts.flat.astype(self.token_type), texts.offsets)


class Wide(Letters):
    def encode(self, texts: Ragged) -> Ragged:
        return Ragged(texts.flat.astype(np.int64), texts.offsets)


class Neighbours(Letters):
    """Tokens that depend on how many texts there are."""

    def encode(self, texts: Ragged) -> Ragged:
        return Ragged((texts.flat + len(texts)).astype(self.token_type), texts.offsets)


class Vectors(nn.Module):
    """A vector per letter and a product with a matrix."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = torch.randn(256, WIDTH, generator=generator).to(device, dtype)
        self.matrix = torch.randn(WIDTH, WIDTH, generator=generator).to(device, dtype)

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        return self.table[tokens_T] @ self.matrix


class BatchMean(Vectors):
    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        hidden_TD = super().forward(tokens_T, packing)
        return hidden_TD - hidden_TD.mean(0)


class Random(Vectors):
    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        hidden_TD = super().forward(tokens_T, packing)
        return hidden_TD + torch.rand_like(hidden_TD)


class Narrower(Vectors):
    """Of other numbers in bfloat16."""

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        hidden_TD = super().forward(tokens_T, packing)
        return hidden_TD if hidden_TD.dtype == torch.float32 else hidden_TD * 2


class Pooled(Vectors):
    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        return packing.means(super().forward(tokens_T, packing))


class Uneven(Vectors):
    """Not finite for letter N."""

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        hidden_TD = super().forward(tokens_T, packing)
        hidden_TD[tokens_T == ord("N")] = torch.inf
        return hidden_TD


def sized(**sizes: int) -> Callable[..., EncoderShape]:
    usual = {"width": WIDTH, "vocabulary": 256, "other_flops_per_token": 2 * WIDTH**2}
    return lambda path, config, family: EncoderShape(family=family, **{**usual, **sizes})


PLAIN = EncoderFamily(
    name="vectors",
    kinds=("nucleotide", "protein"),
    matches=has_type("vectors"),
    recognised_by="model_type 'vectors'",
    shape=sized(),
    tokenizer=Letters,
    loader=Vectors,
    has_weights=False,
)
BROKEN: dict[str, tuple[EncoderFamily, str]] = {
    "tokens of another format": (replace(PLAIN, tokenizer=Wide), "tokens are int64, not uint8"),
    "tokens that depend on others": (replace(PLAIN, tokenizer=Neighbours), "other tokens alone"),
    "a small vocabulary": (replace(PLAIN, shape=sized(vocabulary=70)), "is not in the vocabulary"),
    "a batch that shows": (replace(PLAIN, loader=BatchMean), "when it is alone"),
    "random numbers": (replace(PLAIN, loader=Random), "other bits the second time"),
    "another scale in bfloat16": (replace(PLAIN, loader=Narrower), "in bfloat16 an embedding differs"),
    "numbers that are not finite": (replace(PLAIN, loader=Uneven), "is not finite"),
    "a cost that is too low": (replace(PLAIN, shape=sized(other_flops_per_token=WIDTH**2)), "operations are stated"),
    "a cost that is too high": (replace(PLAIN, shape=sized(layers=1, heads=1)), "operations are stated"),
    "sequences as tokens": (replace(PLAIN, pools="mean"), r"not \(sequences, width\)"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vectors"}))
    return tmp_path


@pytest.mark.parametrize("family", [PLAIN, replace(PLAIN, loader=Pooled, pools="mean of letters")])
def test_an_encoder_of_another_kind_keeps_what_is_promised(
    family: EncoderFamily, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, family.name, family)
    for kind in family.kinds:
        check_encoder(folder, kind)
    check_encoder(folder, "protein", ["MKL", "A"])


@pytest.mark.parametrize("name", BROKEN)
def test_a_promise_that_is_broken_is_told(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family, told = BROKEN[name]
    monkeypatch.setitem(FAMILIES, family.name, family)
    with pytest.raises(AssertionError, match=told):
        check_encoder(folder, "protein")
