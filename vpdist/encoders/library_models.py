"""Models of the transformers library: made without weights, filled from a folder, and attention over a packed batch.

Enters: a class of the library and its configuration. Leaves: the model with a folder's weights, which are fitted as for
the models of our own; nothing is downloaded, and no code that comes with a model is run.

Shapes: T tokens of all sequences, H heads, E numbers per head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.initialization import no_init_weights

from vpdist.encoders import weights
from vpdist.encoders.checkpoint import filled
from vpdist.encoders.packing import Packing
from vpdist.errors import WeightsError

PACKED = "vpdist_packed"
"""Name of `packed_attention` in the library's table of attention functions."""


def configuration(kind: type[PretrainedConfig], values: Mapping[str, Any], path: Path) -> PretrainedConfig:
    """The library's configuration from these values of the config.json `path`. Raises WeightsError."""
    try:
        return kind.from_dict(dict(values))
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path}: is not a {kind.model_type} configuration: {error}") from error


def with_weights(
    make: Callable[[], nn.Module],
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    unused: re.Pattern[str],
    named: Callable[[str], str],
    *,
    packs: bool = True,
) -> nn.Module:
    """The model that `make` makes, with the weights in `folder`, on `device`; parameters as `dtype`, buffers as made.

    `named`: a parameter's name in the model for that of a tensor in the folder; tensors that fit `unused` by that name
    are passed over. `packs`: whether linear layers may be replaced (cpu_kernels), whose weights the library then does
    not find. Raises WeightsError where weights are missing, surplus, or do not fit.

    It is made twice: on the meta device to compare sizes, then with parameters that are memory which nothing touches,
    so that the machine does not provide it, and with all else that follows from the configuration.
    """
    state = {named(name): tensor for name, tensor in weights.load_state_dict(folder).items()}
    with torch.device("meta"):
        sizes = [(name, tuple(each.shape)) for name, each in make().named_parameters()]
    weights.fitted(state, sizes, folder, unused)
    with no_init_weights():
        model = make()
    model = filled(model, state, {name: (name,) for name, _ in sizes}, dtype, device, folder, unused, packs=packs)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))
    return model


def packed_attention(
    module: nn.Module,
    query_1HTE: Tensor,
    key_1HTE: Tensor,
    value_1HTE: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """(1, T, H, E): attention within every sequence of a packed batch, called by a layer of the library."""
    query_THE, key_THE, value_THE = (each[0].transpose(0, 1) for each in (query_1HTE, key_1HTE, value_1HTE))
    return packing.attention(query_THE, key_THE, value_THE, scaling)[None], None


AttentionInterface.register(PACKED, packed_attention)
