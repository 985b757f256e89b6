"""The published encoders in their sizes, without weights, and batches like those of real runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import EsmConfig

from tests.without_cuda.pretended import CUDA
from vpdist.encoders import dnabert_s, esm2
from vpdist.encoders.encoder import Encoder
from vpdist.encoders.family import DNABERT_S, ESM2
from vpdist.encoders.shape import EncoderShape
from vpdist.ragged import Ragged


@dataclass(frozen=True, slots=True)
class Size:
    """Of a published checkpoint."""

    kind: str
    layers: int
    width: int
    heads: int

    @property
    def shape(self) -> EncoderShape:
        nucleotide = self.kind == "nucleotide"
        return EncoderShape(
            family=DNABERT_S if nucleotide else ESM2,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            intermediate=4 * self.width,
            gated=nucleotide,
            vocabulary=4096 if nucleotide else 33,
        )


CASES = ("single", "shortest", "longest", "500 bp", "mixed", "crowded")
"""See `lengths_of`."""

SIZES = {
    "DNABERT-S": Size("nucleotide", 12, 768, 12),
    "ESM-2 8M": Size("protein", 6, 320, 20),
    "ESM-2 35M": Size("protein", 12, 480, 20),
    "ESM-2 150M": Size("protein", 30, 640, 20),
    "ESM-2 650M": Size("protein", 33, 1280, 20),
    "ESM-2 3B": Size("protein", 36, 2560, 40),
    "ESM-2 15B": Size("protein", 48, 5120, 40),
}


def encoder_of(size: Size, dtype: torch.dtype, layers: int) -> Encoder:
    """That encoder on the device that is pretended, with its first `layers` layers: they are all alike."""
    shape = size.shape
    with torch.device("meta"):
        model: nn.Module
        if size.kind == "nucleotide":
            model = dnabert_s.DnabertS(
                dnabert_s.DnabertSConfig(
                    width=shape.width, layers=layers, heads=shape.heads, intermediate=shape.intermediate
                )
            )
        else:
            model = esm2.Esm2(
                EsmConfig(
                    vocab_size=shape.vocabulary,
                    hidden_size=shape.width,
                    num_hidden_layers=layers,
                    num_attention_heads=shape.heads,
                    intermediate_size=shape.intermediate,
                    position_embedding_type="rotary",
                    token_dropout=True,
                    emb_layer_norm_before=False,
                )
            )
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        weight = torch.empty(parameter.shape, dtype=dtype, device=CUDA)
        setattr(model.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False))
    device = next(model.parameters()).device
    return Encoder(size.kind, model.eval().requires_grad_(False), shape, Path("published"), dtype, device)


def lengths_of(case: str, kind: str, budget: int) -> np.ndarray:
    """(B,) tokens of the sequences of a batch of about `budget` tokens."""
    random = np.random.default_rng(0)
    protein = kind == "protein"
    if case == "single":
        return np.array([168 if protein else 110])
    if case == "shortest":
        return np.full(100, 3 if protein else 1)
    if case == "longest":
        return np.full(max(1, budget // 1026), 1026) if protein else np.array([4000])
    if case == "500 bp":
        # in the plan's order proteins have one length, and nucleotide strings the one that is next in turn
        return np.full(budget // 168, 168) if protein else np.repeat([107, 108, 109], budget // 330)
    if case == "crowded":  # many lengths close together, the longest that are padded
        return np.repeat(np.arange(497, 513), max(1, budget // (505 * 16)))
    assert case == "mixed"
    lengths = random.integers(3, 1027 if protein else 1500, budget)
    return lengths[np.cumsum(lengths) <= budget]


def batch_of(lengths: np.ndarray) -> Ragged:
    """Sequences of these lengths; a token is any."""
    tokens = np.random.default_rng(0).integers(4, 24, lengths.sum()).astype(np.uint8)
    return Ragged.from_lengths(tokens, lengths)
