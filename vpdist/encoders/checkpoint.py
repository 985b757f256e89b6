"""Fills a model that was built on the meta device with a checkpoint's tensors, one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vpdist.encoders import cpu_kernels
from vpdist.encoders.weights import fitted


def filled(
    model: nn.Module,
    state: dict[str, Tensor],
    wanted: Mapping[str, tuple[str, ...]],
    dtype: torch.dtype,
    device: torch.device,
    folder: Path,
    unused: re.Pattern[str],
    arrange: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
    *,
    packs: bool = True,
) -> nn.Module:
    """`model`, each parameter a copy of the tensors of `state` that `wanted` names for it, concatenated by rows, which
    `arrange` orders. Raises WeightsError as `fitted` does. `packs`: whether linear layers may become
    cpu_kernels.PackedLinear.

    Copied (and reordered for the processor) one by one, so that the host never holds a second set; copied at all,
    because the tensors are mapped from files that may be replaced during the run.
    """
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters()}
    fit = fitted(
        state,
        [
            (source, (shapes[name][0] // len(names), *shapes[name][1:]))
            for name, names in wanted.items()
            for source in names
        ],
        folder,
        unused,
    )
    packs = packs and cpu_kernels.serves(device, dtype)
    for name, names in wanted.items():
        parameter = torch.empty(shapes[name], dtype=dtype, device=device)
        for part, source in zip(parameter.chunk(len(names)), names, strict=True):
            part.copy_(arrange(source, fit[source]))
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, leaf, nn.Parameter(parameter, requires_grad=False))
        if packs and not any(tensor.is_meta for tensor in module.parameters()):
            cpu_kernels.pack(model, owner)
    return model
