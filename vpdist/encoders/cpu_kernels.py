"""Two settings for encoders on a CPU: weights reordered once for oneDNN, and a heap that keeps freed pages.

Linear layers: torch reorders a bfloat16 weight for every product; doing so once is 12 % faster at the encoders' shapes
and gives the same bits. A product in float32 goes through MKL, which takes twice oneDNN's time on AMD processors. GELU
and the gate are computed on a product while it is in the cache: 17.4 instead of 19.4 ms for DNABERT-S's 920 x 768 x
6,144 in bfloat16. The operators are those that torch's own compiler emits for frozen weights.

Heap: by default glibc returns free memory at the heap's end to the system. In every other process the largest temporary
lay there, and was returned and faulted in again for every layer: 4 % of ESM-2's time. docs/design.md says how to
measure both again.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from vpdist.encoders.layers import GatedGeluLinear, GeluLinear

Then = tuple[str, list[float], str]
NOTHING: Then = ("none", [], "")
GELU: Then = ("gelu", [], "none")
"""What follows a product; GELU by the error function, in float32, on the sums before they are rounded."""
ROWS = 1024
"""Rows of a product that the order is chosen for; other numbers work as well, and as fast."""


class PackedLinear(nn.Module):
    """What an `nn.Linear`, or a GeluLinear, computes, for inference."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weight = _reordered(linear.weight)
        self._then = GELU if isinstance(linear, GeluLinear) else NOTHING

    def forward(self, inputs_TI: Tensor) -> Tensor:
        output_TO: Tensor = torch.ops.mkldnn._linear_pointwise(inputs_TI, self._weight, self.bias, *self._then)
        return output_TO


class PackedGatedGeluLinear(nn.Module):
    """What a GatedGeluLinear computes, for inference: two products, the second one times the first."""

    def __init__(self, linear: GatedGeluLinear) -> None:
        super().__init__()
        self._gate, self._value = map(_reordered, linear.weight.chunk(2))

    def forward(self, inputs_TI: Tensor) -> Tensor:
        gate_TO = torch.ops.mkldnn._linear_pointwise(inputs_TI, self._gate, None, *GELU)
        output_TO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs_TI, gate_TO, self._value, None, "mul")
        return output_TO


def _reordered(weight: Tensor) -> Tensor:
    reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)
    return reordered


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether these linear layers exist for a device and dtype."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(model: nn.Module, name: str) -> None:
    """Replace the layer `name` of `model` in place if it is an `nn.Linear`."""
    layer = model.get_submodule(name)
    if isinstance(layer, GatedGeluLinear):
        model.set_submodule(name, PackedGatedGeluLinear(layer), strict=True)
    elif isinstance(layer, nn.Linear):
        model.set_submodule(name, PackedLinear(layer), strict=True)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt(3): free bytes at the heap's end from which they are returned; size from which a block is mapped alone."""
KEPT_BYTES = 128 << 20
"""More than a layer's temporaries take at a CPU's token budget (52 MB for ESM-2 33x1280 in float32)."""
MAPPED_BYTES = 32 << 20
"""The most that glibc allows on 64-bit systems."""


def keep_freed_pages() -> bool:
    """Keep freed memory in this process from now on. Returns whether the C library has that setting (glibc only)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(M_TRIM_THRESHOLD, KEPT_BYTES), mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)])
