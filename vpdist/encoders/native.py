"""Encoders that the transformers library computes with its own classes, for the model types of native_types.

Enters: a packed batch of token ids. Leaves: one vector per sequence, the mean over its tokens without special ones.
Sequences of one length are computed at once, without padding or masks, so that each is computed as it is alone.

Shapes: T tokens of all sequences, B sequences, N sequences of one length L, D width.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from vpdist.encoders import library_models, shape
from vpdist.encoders.native_types import TYPES, values_of
from vpdist.encoders.packing import Packing
from vpdist.encoders.special_tokens import end_tokens

RENAMED = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""Older names of parameters, which the library reads as well."""


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model in `folder`. Raises WeightsError where its weights do not fit its config.json."""
    content = shape.read_config(folder)
    known = TYPES[content["model_type"]]
    path = folder / "config.json"
    config = library_models.configuration(
        getattr(transformers, known.configuration), values_of(path, content) | {"use_cache": False}, path
    )
    ends = end_tokens(folder)
    kind = getattr(transformers, known.model)
    arguments = {"add_pooling_layer": False} if kind in (transformers.BertModel, transformers.EsmModel) else {}

    def named(name: str) -> str:
        for prefix in known.prefixes:
            name = name.removeprefix(prefix)
        for old, new in RENAMED:
            name = name.replace(old, new)
        return name

    model = library_models.with_weights(
        lambda: kind(config, **arguments), folder, dtype, device, re.compile(known.unused), named, packs=False
    )
    if isinstance(model, transformers.T5EncoderModel):
        model.encoder.embed_tokens = model.shared  # one table under two names, of which one was filled
    return Native(model, len(ends.first), len(ends.last))


class Native(nn.Module):
    """A model of the library over a packed batch."""

    def __init__(self, model: nn.Module, first: int, last: int) -> None:
        super().__init__()
        self.model, self.first, self.last = model, first, last

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        """(B, D) float32: the mean vector of every sequence, less `first` and `last` tokens at its ends."""
        starts = [0, *(np.flatnonzero(np.diff(packing.lengths)) + 1).tolist(), len(packing.lengths)]
        outputs = []
        for a, b in pairwise(starts):
            tokens_NL = tokens_T[int(packing.offsets[a]) : int(packing.offsets[b])].view(b - a, -1)
            outputs.append(self.model(input_ids=tokens_NL).last_hidden_state.flatten(0, 1))
        return packing.means(torch.cat(outputs), first=self.first, last=self.last)
