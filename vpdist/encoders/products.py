"""The rate of plain matrix products of an encoder's layers: the limit with which its own rate is compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from vpdist.encoders.cpu_kernels import PackedLinear, serves
from vpdist.encoders.shape import EncoderShape

PRODUCTS_AT_ONCE = {"cpu": 1, "cuda": 20}
"""Products that are launched before the device is synchronised."""
MOST_OPERATIONS = {"cpu": 2e9, "cuda": 2e12}
"""Of a product that is measured quickly."""


def products_rate(
    shape: EncoderShape,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    repeats: int = 5,
    most: float = 0.0,
    of_repeats: Callable[[list[float]], float] = statistics.median,
) -> float:
    """Operations per second of the matrix products of one layer alone, through the library that multiplies faster.

    Args:
        tokens: of a batch.
        repeats: measurements, of whose times `of_repeats` makes one.
        most: operations of a product at most, for which tokens are left out; 0: no limit.
    """
    width, inner = shape.width, shape.intermediate
    up = 2 * inner if shape.gated else inner
    done = seconds = 0.0
    for inputs, outputs in ((width, 3 * width), (width, width), (width, up), (inner, width)):
        rows = min(tokens, max(16, int(most / (2 * inputs * outputs)))) if most else tokens
        left = torch.randn(rows, inputs, dtype=dtype, device=device)
        layer = nn.Linear(inputs, outputs, bias=False, dtype=dtype, device=device)
        product = PackedLinear(layer) if serves(device, dtype) else layer
        at_once = PRODUCTS_AT_ONCE[device.type]
        seconds += of_repeats(_seconds(product, left, at_once, repeats))
        done += 2.0 * rows * inputs * outputs * at_once
    return done / seconds


def _seconds(product: nn.Module, left: torch.Tensor, at_once: int, repeats: int) -> list[float]:
    """The time of so many products, again and again after one warm-up."""
    taken = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            started = time.perf_counter()
            for _ in range(at_once):
                product(left)
            if left.device.type == "cuda":
                torch.cuda.synchronize(left.device)
            taken.append(time.perf_counter() - started)
    return taken[1:]


def quick_products_rate(shape: EncoderShape, tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    """The highest rate of some tenths of a second, for other programs may disturb; 0 for an encoder without layers."""
    if not shape.layers:
        return 0.0
    return products_rate(shape, tokens, dtype, device, repeats=5, most=MOST_OPERATIONS[device.type], of_repeats=min)
