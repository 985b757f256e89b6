"""ESM-2, the encoder of proteins, written from its published design (Lin et al. 2023).

Enters: a packed batch of token ids. Leaves: one vector per token, after the final LayerNorm. Pre-norm transformer with
rotary positions that restart with every sequence; attention stays within it. Queries, keys and values are one product,
GELU and rotation one pass each: the transformers library runs GELU as five kernels and rotation as eight.

Shapes: T tokens of all sequences, D width, H heads, E = D / H, I inner width of the feed-forward.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.nn import functional
from transformers import EsmConfig

from vpdist.encoders import shape, weights
from vpdist.encoders.checkpoint import filled
from vpdist.encoders.cuda_kernels import compiles, rotated_bfloat16
from vpdist.encoders.packing import Packing, to_device
from vpdist.errors import WeightsError

UNUSED = re.compile(
    r"lm_head\..*|contact_head\..*|pooler\..*|embeddings\.position_ids|embeddings\.position_embeddings\.weight"
)
"""Published parameters that embeddings do not need: heads, and a position table that rotary attention replaces."""

CONFIG_KEYS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("layer_norm_eps", "position_embedding_type", "rope_theta", "token_dropout"),
    *("emb_layer_norm_before", "is_decoder", "is_folding_model"),
)
"""What is read of a config.json. The library makes a name for each of `num_labels`, which may be millions, and more of
other keys."""

NUMBERS = {"layer_norm_eps": shape.EPS, "rope_theta": (1.0, 1e12)}
"""Least and most of the keys whose values are no sizes."""

INV_FREQ = "rotary_embeddings.inv_freq"
LAYER_INV_FREQ = re.compile(r"encoder\.layer\.[^.]+\.attention\.self\.rotary_embeddings\.inv_freq")

UNMASKED_IN_TRAINING = 1 - 0.15 * 0.8
"""Token dropout: embeddings are scaled by the share of tokens that training left unmasked; inference masks none."""


def read_config(config: Mapping[str, Any], folder: Path) -> EsmConfig:
    """The library's configuration from a published config.json. Raises WeightsError unless it is an ESM-2."""
    path = folder / "config.json"
    needed = {name: config[name] for name in CONFIG_KEYS if name in config}
    for name, limits in NUMBERS.items():
        if name in needed:
            needed[name] = shape.real_number(path, needed, name, math.nan, *limits)
    try:
        described = EsmConfig.from_dict(needed)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder}: config.json is not an ESM-2 configuration: {error}") from error
    if described.position_embedding_type != "rotary" or described.is_decoder or described.is_folding_model:
        raise WeightsError(f"{folder}: not an ESM-2 encoder (rotary positions, neither decoder nor folding model)")
    if described.emb_layer_norm_before:
        raise WeightsError(f"{folder}: not an ESM-2 encoder (it normalises its embeddings, as ESM-1b did)")
    if described.hidden_size % (2 * described.num_attention_heads):
        raise WeightsError(
            f"{path}: hidden_size {described.hidden_size} gives {described.num_attention_heads} attention heads no "
            f"even width, which rotary positions need"
        )
    return described


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model in `folder`. Raises WeightsError where its weights do not fit its config.json."""
    config = read_config(shape.read_config(folder), folder)
    with torch.device("meta"):
        model = Esm2(config)
    state = published_names(weights.load_state_dict(folder), folder)
    if (inv_freq := state.pop(INV_FREQ, None)) is not None:
        model.set_frequencies(inv_freq)
    wanted = {name: sources(name) for name, _ in model.named_parameters()}

    def arrange(name: str, tensor: Tensor) -> Tensor:
        return interleaved(name, tensor, config.num_attention_heads)

    return filled(model, state, wanted, dtype, device, folder, UNUSED, arrange)


def published_names(state: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The tensors by the library's names: without `esm.`, old LayerNorm names as new ones, rotary frequencies once.

    Raises WeightsError where layers have different frequencies, which no ESM-2 has.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("esm.")
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if LAYER_INV_FREQ.fullmatch(name):
            name = INV_FREQ
        if name == INV_FREQ and name in named and not torch.equal(named[name], tensor):
            raise WeightsError(f"{folder}: the layers' rotary frequencies (inv_freq) differ")
        named[name] = tensor
    return named


def sources(name: str) -> tuple[str, ...]:
    """The published tensors whose rows make up a parameter, in order: query, key and value make one product."""
    if ".qkv." not in name:
        return (name,)
    return tuple(name.replace("qkv", part) for part in ("query", "key", "value"))


def frequencies(config: EsmConfig) -> Tensor:
    """(E / 2,) float32: rotary frequencies as the configuration gives them (Su et al. 2021)."""
    size = config.hidden_size // config.num_attention_heads
    return 1.0 / (config.rope_theta ** (torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size))


class Embeddings(nn.Module):
    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.scale = UNMASKED_IN_TRAINING if config.token_dropout else 1.0

    def forward(self, tokens_T: Tensor) -> Tensor:
        return self.word_embeddings(tokens_T).mul_(self.scale)


class SelfAttention(nn.Module):
    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, hidden_TD: Tensor, packing: Packing, rotation_T1E: Tensor) -> Tensor:
        qkv_THE = self.qkv(hidden_TD).unflatten(1, (3 * self.heads, -1))
        query_THE, key_THE = rotated(qkv_THE[:, : 2 * self.heads], rotation_T1E).chunk(2, dim=1)
        scale = query_THE.shape[-1] ** -0.5
        return packing.attention(query_THE, key_THE, qkv_THE[:, 2 * self.heads :], scale).flatten(1)


class Output(nn.Module):
    """A linear layer whose output is added to the residual stream."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)

    def forward(self, inner_TI: Tensor, hidden_TD: Tensor) -> Tensor:
        return self.dense(inner_TI).add_(hidden_TD)


class Attention(nn.Module):
    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Output(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_TD: Tensor, packing: Packing, rotation_T1E: Tensor) -> Tensor:
        return self.output(self.self(self.LayerNorm(hidden_TD), packing, rotation_T1E), hidden_TD)


class Intermediate(nn.Module):
    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, hidden_TD: Tensor) -> Tensor:
        return functional.gelu(self.dense(hidden_TD))


class Layer(nn.Module):
    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = Intermediate(config)
        self.output = Output(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_TD: Tensor, packing: Packing, rotation_T1E: Tensor) -> Tensor:
        hidden_TD = self.attention(hidden_TD, packing, rotation_T1E)
        return self.output(self.intermediate(self.LayerNorm(hidden_TD)), hidden_TD)


class Layers(nn.Module):
    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Esm2(nn.Module):
    """The encoder, without pooler and heads. For inference only: sums are made in place."""

    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config)
        self.inv_freq = frequencies(config)

    def set_frequencies(self, inv_freq: Tensor) -> None:
        """Use the checkpoint's rotary frequencies (E / 2,). Raises WeightsError for another number of them, or for what
        is no frequency."""
        if inv_freq.shape != self.inv_freq.shape:
            raise WeightsError(f"{INV_FREQ} is {tuple(inv_freq.shape)}, not {tuple(self.inv_freq.shape)}")
        if not inv_freq.is_floating_point() or not inv_freq.isfinite().all():
            raise WeightsError(f"{INV_FREQ} is {inv_freq.dtype}, or not finite; rotary frequencies are finite floats")
        self.inv_freq = inv_freq.to(torch.float32, copy=True)

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        """(T, D): the last layer's vector of every token, normalised. `tokens_T` are integer ids."""
        hidden_TD = self.embeddings(tokens_T)
        rotation_T1E = self._rotation(packing)
        for layer in self.encoder.layer:
            hidden_TD = layer(hidden_TD, packing, rotation_T1E)
        return self.encoder.emb_layer_norm_after(hidden_TD)

    def _rotation(self, packing: Packing) -> Tensor:
        """(T, 1, E / 2) complex64 of modulus 1: the rotation of each pair of numbers at each token's position."""
        if self.inv_freq.device != packing.device:
            self.inv_freq = to_device(self.inv_freq, packing.device)
        angle_TE = packing.positions[:, None].float() * self.inv_freq
        return torch.polar(torch.ones_like(angle_TE), angle_TE)[:, None]


def rotated(states_THE: Tensor, rotation_T1E: Tensor) -> Tensor:
    """Rotary position embedding in float32, whatever the dtype: numbers i and i + E / 2 of every head are the
    parts of a complex number, which is rotated. They are interleaved (see `interleaved`). May work in place.

    Halves as complex32 are multiplied in complex64 by the operator itself, and need no temporary."""
    if states_THE.dtype == torch.bfloat16 and states_THE.is_cuda and compiles(states_THE.device):
        return rotated_bfloat16(states_THE, rotation_T1E)
    exact_THE = states_THE if states_THE.dtype == torch.float16 else states_THE.float()
    torch.view_as_complex(exact_THE.unflatten(2, (-1, 2))).mul_(rotation_T1E)
    return exact_THE.to(states_THE.dtype)


def interleaved(name: str, tensor: Tensor, heads: int) -> Tensor:
    """The rows of a published query or key tensor in the order of `rotated`: 0, E / 2, 1, E / 2 + 1, ... of
    every head. Products of queries and keys don't change when both are reordered alike."""
    if not re.search(r"\.(query|key)\.", name):
        return tensor
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
