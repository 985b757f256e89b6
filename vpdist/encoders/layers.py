"""Layers that encoders share: a product whose output goes through GELU, the same with a gate, and an empty embedding.

On a CPU each becomes one product with the rest done on it while it is in the cache (cpu_kernels.py).

Shapes: T tokens, D inputs, I outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpdist.encoders.cuda_kernels import gelu_times


class GeluLinear(nn.Linear):
    """GELU (erf) of a linear layer."""

    def forward(self, inputs_TD: Tensor) -> Tensor:
        """(T, I)."""
        return functional.gelu(super().forward(inputs_TD))


class GatedGeluLinear(nn.Linear):
    """A linear layer without bias to 2 I numbers: GELU (erf) of the first half, the gate, times the second half."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """`outputs`: I."""
        super().__init__(inputs, 2 * outputs, bias=False)

    def forward(self, inputs_TD: Tensor) -> Tensor:
        """(T, I)."""
        gate_TI, value_TI = super().forward(inputs_TD).chunk(2, dim=1)
        return gelu_times(gate_TI, value_TI)


def embedding(vocabulary: int, width: int) -> nn.Embedding:
    """A table that is filled later. nn.Embedding() fills it with random numbers, and for those on the meta device torch
    imports its compiler: 0.7 s at each start."""
    return nn.Embedding.from_pretrained(torch.empty(vocabulary, width), freeze=False)
