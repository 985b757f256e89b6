"""ESM C (ESM Cambrian), an encoder of proteins, through the transformers library's own modules.

Enters: a packed batch of token ids. Leaves: one vector per token, after the final LayerNorm. The library's layers work
on the whole batch as if it were one sequence; positions restart with every sequence, and attention, which we supply,
stays within it.

Shapes: T tokens of all sequences, D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EsmcConfig, EsmcModel

from vpdist.encoders import library_models, shape
from vpdist.encoders.packing import Packing
from vpdist.errors import WeightsError

UNUSED = re.compile(r"lm_head\..*|classifier\..*|score\..*|.*inv_freq")
"""Parameters that embeddings do not need: heads, and rotary frequencies, which follow from the configuration."""
FLAGS = ("attention_bias", "mlp_bias")
THETA = (1.0, 1e12)
"""Least and most of the base of rotary frequencies."""


def read_config(config: Mapping[str, Any], folder: Path) -> EsmcConfig:
    """The library's configuration from a published config.json, of which nothing else is read than is needed.

    Raises WeightsError unless it is an ESM C: SwiGLU, as many key and value heads as query heads, default rotation.
    """
    path = folder / "config.json"
    sizes = {
        name: shape.whole_number(path, config, name)
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    heads, width = sizes["num_attention_heads"], sizes["hidden_size"]
    if width % (2 * heads):
        raise WeightsError(
            f"{path}: hidden_size {width} gives {heads} attention heads no even width, as rotation needs"
        )
    for name, only in (("hidden_act", "silu"), ("num_key_value_heads", heads), ("head_dim", width // heads)):
        if config.get(name) not in (None, only) or type(config.get(name)) is bool:
            raise WeightsError(f"{path}: {name} is {config[name]!r}, an ESM C of this size has {only!r}")
    for name in FLAGS:
        if type(config.get(name, False)) is not bool:
            raise WeightsError(f"{path}: {name} must be true or false, not {config[name]!r}")
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise WeightsError(f"{path}: rope_parameters are {rope!r}, ESM C rotates by the default rule")
    given = rope if "rope_theta" in rope else config
    theta = shape.real_number(path, given, "rope_theta", 10_000.0, *THETA)
    rotation = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    flags = {name: config.get(name, False) for name in FLAGS}
    described = library_models.configuration(EsmcConfig, {**sizes, **flags, **rotation}, path)
    assert isinstance(described, EsmcConfig)
    return described


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model in `folder`. Raises WeightsError where its weights do not fit its config.json."""
    config = read_config(shape.read_config(folder), folder)
    config._attn_implementation = library_models.PACKED

    def named(name: str) -> str:
        return name.removeprefix("esmc.")

    return PackedEsmc(library_models.with_weights(lambda: EsmcModel(config), folder, dtype, device, UNUSED, named))


class PackedEsmc(nn.Module):
    """The library's encoder over a packed batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        """(T, D): the last layer's vector of every token, normalised. `tokens_T` are integer ids."""
        output = self.model(input_ids=tokens_T[None], position_ids=packing.positions[None], packing=packing)
        hidden_TD: Tensor = output.last_hidden_state[0]
        return hidden_TD
