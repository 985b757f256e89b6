"""ESM-2, the encoder of proteins (Lin et al. 2023): the library's `EsmModel`, run on packed batches.

Enters: a packed batch of token ids. Leaves: one vector per token, after the final LayerNorm. Packed as one row of T
tokens; positions restart with every sequence, attention stays within it through the library's attention interface.

Shapes: T tokens of all sequences, D width, H heads, E = D / H.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AttentionInterface, EsmConfig, EsmModel

from vpdist.errors import WeightsError
from vpdist.packing import Packing

ATTENTION = "vpdist_packed"

UNUSED = re.compile(
    r"lm_head\..*|contact_head\..*|pooler\..*|embeddings\.position_ids|embeddings\.position_embeddings\.weight"
)
"""Published names that embeddings do not need: heads, and a position table that rotary attention replaces."""

INV_FREQ = "rotary_embeddings.inv_freq"
LAYER_INV_FREQ = re.compile(r"encoder\.layer\.[^.]+\.attention\.self\.rotary_embeddings\.inv_freq")


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    packing: Packing,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention within every sequence of a packed row: query, key, value (1, H, T, E) -> (1, T, H, E).

    The library also passes its own settings, which do not concern an encoder at inference (dropout, use_cache, ...).
    On CUDA in half precision through the variable-length kernel, else through SDPA over runs of about equal lengths.
    """
    query_THE, key_THE, value_THE = (states[0].transpose(0, 1) for states in (query, key, value))
    if not has_varlen_kernel(query.device, query.dtype):
        return packing.attention(query_THE, key_THE, value_THE, scaling)[None], None
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = packing.cu_seqlens, packing.longest
    attended_THE = varlen_attn(query_THE, key_THE, value_THE, ends, ends, longest, longest, scale=scaling)
    assert isinstance(attended_THE, Tensor)  # a tuple only where auxiliary outputs are asked for
    return attended_THE[None], None


AttentionInterface.register(ATTENTION, packed_attention)


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the variable-length kernel serves this device and dtype: half precision, Ampere or newer."""
    half = dtype in (torch.float16, torch.bfloat16)
    return device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0)


def read_config(config: Mapping[str, Any], folder: Path) -> EsmConfig:
    """The library's configuration from a published config.json. Raises WeightsError unless it is an ESM-2."""
    try:
        described = EsmConfig.from_dict(dict(config))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder}: config.json is not an ESM-2 configuration: {error}") from error
    if described.position_embedding_type != "rotary" or described.is_decoder or described.is_folding_model:
        raise WeightsError(f"{folder}: not an ESM-2 encoder (rotary positions, neither decoder nor folding model)")
    described._attn_implementation = ATTENTION
    return described


def published_names(state: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The tensors by `EsmModel`'s names: without `esm.`, old LayerNorm names as new ones, rotary frequencies once.

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


class Esm2(nn.Module):
    """The encoder: `EsmModel` without pooler and contact head."""

    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.model = EsmModel(config, add_pooling_layer=False)
        del self.model.contact_head

    def set_frequencies(self, inv_freq: Tensor | None, device: torch.device) -> None:
        """Take the rotary frequencies (E / 2,) of the checkpoint, or those that follow from the configuration.

        They stay float32 whatever the weights' dtype. Raises WeightsError for another number of them.
        """
        rotary = self.model.rotary_embeddings
        computed, _ = rotary.compute_default_rope_parameters(self.model.config)
        if inv_freq is not None and inv_freq.shape != computed.shape:
            raise WeightsError(f"{INV_FREQ} is {tuple(inv_freq.shape)}, not {tuple(computed.shape)}")
        rotary.inv_freq = (computed if inv_freq is None else inv_freq).to(device, torch.float32, copy=True)

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        """(T, D): the last layer's vector of every token, normalised. `tokens_T` are integer ids.

        The embedding scale (token dropout: 0.88 where nothing is masked) depends on masked tokens only; proteins
        have none, so one row of all sequences gets the scale that each would get alone.
        """
        output = self.model(
            input_ids=tokens_T[None], position_ids=packing.positions[None], packing=packing, return_dict=True
        )
        return output.last_hidden_state[0]
