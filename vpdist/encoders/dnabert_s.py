"""DNABERT-S, the encoder of nucleotide strings, written from its published design (MosaicBERT's: Portes et al. 2023).

Enters: a packed batch of token ids. Leaves: one vector per token. Post-norm BERT without position embedding: attention
carries linear biases (ALiBi), one product makes queries, keys and values, the feed-forward is gated by GELU (erf).
Modules are named so that `state_dict` has the published names.

Shapes: T tokens of all sequences, D width, H heads, E = D / H, I inner width of the feed-forward, L longest sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vpdist.encoders import shape, weights
from vpdist.encoders.checkpoint import filled
from vpdist.encoders.layers import GatedGeluLinear, embedding
from vpdist.encoders.packing import Packing, to_device
from vpdist.errors import WeightsError

UNUSED = re.compile(r"pooler\..*|cls\..*|embeddings\.position_ids")
"""Published parameters that the mean over tokens does not need."""

BIAS_STEP = 64
"""The cached bias grows by this many tokens at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnabertSConfig:
    """Sizes of the model; defaults are the public checkpoint's."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    vocabulary: int = 4096
    token_types: int = 2
    layer_norm_eps: float = 1e-12


def read_config(config: Mapping[str, Any], folder: Path) -> DnabertSConfig:
    """The sizes in a published config.json. Raises WeightsError for an activation other than GELU, a size that is
    absent, or a number out of range."""
    path = folder / "config.json"
    if config.get("hidden_act", "gelu") != "gelu":
        raise WeightsError(f"{folder}: hidden_act {config['hidden_act']!r}; DNABERT-S uses 'gelu'")
    try:
        return DnabertSConfig(
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            token_types=shape.whole_number(path, config, "type_vocab_size", 2),
            layer_norm_eps=shape.real_number(path, config, "layer_norm_eps", 1e-12, *shape.EPS),
        )
    except KeyError as error:
        raise WeightsError(f"{folder}: config.json has no {error.args[0]}") from error


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model in `folder`. Raises WeightsError where its weights do not fit its config.json."""
    config = read_config(shape.read_config(folder), folder)
    with torch.device("meta"):
        model = DnabertS(config)
    state = published_names(weights.load_state_dict(folder))
    wanted = {name: (name,) for name, _ in model.named_parameters()}
    return filled(model, state, wanted, dtype, device, folder, UNUSED)


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names without the `bert.` that checkpoints with a language-model head put in front."""
    return {name.removeprefix("bert."): tensor for name, tensor in state.items()}


def alibi_slopes(heads: int) -> list[float]:
    """Each head's slope (Press et al. 2022): with p the largest power of two <= heads, 2^(-8k/p) for k = 1..p, then
    every other one of those for 2p heads."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * k / power) for k in range(1, power + 1)]
    between = [2.0 ** (-8 * k / (2 * power)) for k in range(1, 2 * power + 1, 2)]
    return slopes + between[: heads - power]


class Embeddings(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.word_embeddings = embedding(config.vocabulary, config.width)
        self.token_type_embeddings = embedding(config.token_types, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, tokens_T: Tensor) -> Tensor:
        return self.LayerNorm(self.word_embeddings(tokens_T).add_(self.token_type_embeddings.weight[0]))


class SelfAttention(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.Wqkv = nn.Linear(config.width, 3 * config.width)

    def forward(self, hidden_TD: Tensor, packing: Packing, bias_HLL: Tensor) -> Tensor:
        query_THE, key_THE, value_THE = self.Wqkv(hidden_TD).unflatten(1, (3, self.heads, -1)).unbind(1)
        scale = query_THE.shape[-1] ** -0.5
        return packing.attention(query_THE, key_THE, value_THE, scale, bias_HLL).flatten(1)


class ResidualOutput(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, attended_TD: Tensor, hidden_TD: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(attended_TD).add_(hidden_TD))


class Attention(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config)

    def forward(self, hidden_TD: Tensor, packing: Packing, bias_HLL: Tensor) -> Tensor:
        return self.output(self.self(hidden_TD, packing, bias_HLL), hidden_TD)


class GatedFeedForward(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.gated_layers = GatedGeluLinear(config.width, config.intermediate)
        self.wo = nn.Linear(config.intermediate, config.width)
        self.layernorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, hidden_TD: Tensor) -> Tensor:
        return self.layernorm(self.wo(self.gated_layers(hidden_TD)).add_(hidden_TD))


class Layer(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = GatedFeedForward(config)

    def forward(self, hidden_TD: Tensor, packing: Packing, bias_HLL: Tensor) -> Tensor:
        return self.mlp(self.attention(hidden_TD, packing, bias_HLL))


class Layers(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.layers))


class DnabertS(nn.Module):
    """The encoder, without pooler and heads. For inference only: some sums are made in place."""

    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config)
        self._bias_HLL: Tensor | None = None

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        """(T, D): the last layer's vector of every token. `tokens_T` are integer ids below the vocabulary."""
        hidden_TD = self.embeddings(tokens_T)
        bias_HLL = self._bias(packing.longest + packing.length_bucket - 1, hidden_TD)
        for layer in self.encoder.layer:
            hidden_TD = layer(hidden_TD, packing, bias_HLL)
        return hidden_TD

    def _bias(self, length: int, hidden_TD: Tensor) -> Tensor:
        """-slope * |i - j| for at least `length` positions. It depends on the distance only, so that the bias of every
        shorter sequence is its corner; computed again only when a longer sequence comes."""
        dtype = hidden_TD.dtype if hidden_TD.is_cuda else torch.float32  # CPU kernels take a float32 bias, more exact
        cached = self._bias_HLL
        if cached is None or cached.shape[1] < length or cached.dtype != dtype or cached.device != hidden_TD.device:
            self._bias_HLL = cached = None  # not kept beside the new one
            size = -(-length // BIAS_STEP) * BIAS_STEP
            position_L = torch.arange(size, dtype=torch.float32, device=hidden_TD.device)
            slopes_H = to_device(np.array(alibi_slopes(self.config.heads), dtype=np.float32), hidden_TD.device)
            distance_LL = (position_L[:, None] - position_L).abs_()
            cached = torch.empty(len(slopes_H), size, size, dtype=dtype, device=hidden_TD.device)
            torch.mul(-slopes_H[:, None, None], distance_LL, out=cached)  # in float32, rounded once
            self._bias_HLL = cached
        return cached
