"""ESM-2, the encoder of proteins, written from its published design (Lin et al. 2023).

Enters: a packed batch of token ids. Leaves: one vector per token, after the final LayerNorm. Pre-norm transformer with
rotary positions that restart with every sequence; attention stays within it. Queries, keys and values are one product,
GELU and rotation one pass each: the transformers library runs GELU as five kernels and rotation as eight.

Shapes: T tokens of all sequences, D width, H heads, E = D / H, I inner width of the feed-forward.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpdist.encoders import shape, weights
from vpdist.encoders.checkpoint import filled
from vpdist.encoders.cuda_kernels import compiles, rotated_bfloat16
from vpdist.encoders.layers import GeluLinear, embedding
from vpdist.encoders.packing import Packing, to_device
from vpdist.errors import WeightsError

UNUSED = re.compile(
    r"lm_head\..*|contact_head\..*|pooler\..*|embeddings\.position_ids|embeddings\.position_embeddings\.weight"
)
"""Published parameters that embeddings do not need: heads, and a position table that rotary attention replaces."""

RARE_FORMS = ("is_decoder", "is_folding_model")
"""Flags of a config.json that no ESM-2 encoder sets."""

ROPE_THETA = (1.0, 1e12)
"""Least and most."""

INV_FREQ = "rotary_embeddings.inv_freq"
LAYER_INV_FREQ = re.compile(r"encoder\.layer\.[^.]+\.attention\.self\.rotary_embeddings\.inv_freq")

UNMASKED_IN_TRAINING = 1 - 0.15 * 0.8
"""Token dropout: embeddings are scaled by the share of tokens that training left unmasked; inference masks none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Esm2Config:
    """Sizes and numbers of the model."""

    width: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    layer_norm_eps: float = 1e-12
    rope_theta: float = 10_000.0
    token_dropout: bool = False


def read_config(config: Mapping[str, Any], folder: Path) -> Esm2Config:
    """The sizes in a published config.json, read without the transformers library, which takes a second to import.

    Raises WeightsError unless it is an ESM-2, and for a size that is absent or a value out of range.
    """
    path = folder / "config.json"

    def flag(name: str) -> bool:
        value = config.get(name, False)
        if value is not None and type(value) is not bool:
            raise WeightsError(f"{path}: {name} must be true or false, not {value!r}")
        return bool(value)

    if config.get("position_embedding_type") != "rotary" or any(map(flag, RARE_FORMS)):
        raise WeightsError(f"{folder}: not an ESM-2 encoder (rotary positions, neither decoder nor folding model)")
    if flag("emb_layer_norm_before"):
        raise WeightsError(f"{folder}: not an ESM-2 encoder (it normalises its embeddings, as ESM-1b did)")
    width, heads = (shape.whole_number(path, config, name) for name in ("hidden_size", "num_attention_heads"))
    if width % (2 * heads):
        raise WeightsError(
            f"{path}: hidden_size {width} gives {heads} attention heads no even width, which rotary positions need"
        )
    return Esm2Config(
        width=width,
        heads=heads,
        layers=shape.whole_number(path, config, "num_hidden_layers"),
        intermediate=shape.whole_number(path, config, "intermediate_size"),
        vocabulary=shape.whole_number(path, config, "vocab_size"),
        layer_norm_eps=shape.real_number(path, config, "layer_norm_eps", 1e-12, *shape.EPS),
        rope_theta=shape.real_number(path, config, "rope_theta", 10_000.0, *ROPE_THETA),
        token_dropout=flag("token_dropout"),
    )


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
        return interleaved(name, tensor, config.heads)

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


def frequencies(config: Esm2Config) -> Tensor:
    """(E / 2,) float32: rotary frequencies as the configuration gives them (Su et al. 2021)."""
    size = config.width // config.heads
    return 1.0 / (config.rope_theta ** (torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size))


class Embeddings(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.word_embeddings = embedding(config.vocabulary, config.width)
        self.scale = UNMASKED_IN_TRAINING if config.token_dropout else 1.0

    def forward(self, tokens_T: Tensor) -> Tensor:
        return self.word_embeddings(tokens_T).mul_(self.scale)


class SelfAttention(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)

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
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Output(config.width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, hidden_TD: Tensor, packing: Packing, rotation_T1E: Tensor) -> Tensor:
        return self.output(self.self(self.LayerNorm(hidden_TD), packing, rotation_T1E), hidden_TD)


class Intermediate(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.dense = GeluLinear(config.width, config.intermediate)

    def forward(self, hidden_TD: Tensor) -> Tensor:
        inner_TI: Tensor = self.dense(hidden_TD)
        return inner_TI


class Layer(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.intermediate = Intermediate(config)
        self.output = Output(config.intermediate, config.width)

    def forward(self, hidden_TD: Tensor, packing: Packing, rotation_T1E: Tensor) -> Tensor:
        hidden_TD = self.attention(hidden_TD, packing, rotation_T1E)
        return self.output(self.intermediate(self.LayerNorm(hidden_TD)), hidden_TD)


class Layers(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.width, eps=config.layer_norm_eps)


class Esm2(nn.Module):
    """The encoder, without pooler and heads. For inference only: sums are made in place."""

    def __init__(self, config: Esm2Config) -> None:
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
