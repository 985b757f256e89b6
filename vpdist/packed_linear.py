"""Linear layers in bfloat16 on a CPU, with weights laid out once as oneDNN's kernels read them.

torch lays a bfloat16 weight out anew for every product; doing so once is 12 % faster at the encoders' shapes and gives
the same bits. The operators are those that torch's own compiler emits for frozen weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS = 1024
"""Rows of a product that the layout is chosen for; others work as well, and as fast."""


class PackedLinear(nn.Module):
    """What an `nn.Linear` computes, for inference."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)

    def forward(self, inputs_TI: Tensor) -> Tensor:
        output_TO: Tensor = torch.ops.mkldnn._linear_pointwise(inputs_TI, self._weight, self.bias, "none", [], "")
        return output_TO


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether these linear layers exist for a device and dtype."""
    return device.type == "cpu" and dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack(model: nn.Module, name: str) -> None:
    """Replace the layer `name` of `model` in place if it is an `nn.Linear`."""
    layer = model.get_submodule(name)
    if isinstance(layer, nn.Linear):
        model.set_submodule(name, PackedLinear(layer), strict=True)
