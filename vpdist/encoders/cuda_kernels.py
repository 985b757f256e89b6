"""Two elementwise kernels for encoders on CUDA, and exact products.

Torch has GELU and the product with it as two kernels, and rotation of bfloat16 pairs as three, each with a temporary.
Here each is one, written as the function of one element, which torch's own compiler of such functions (the jiterator,
NVRTC) makes a kernel of, as it does for many of torch's operators. Where that is not possible on a machine, or gives
other numbers than torch's operators there, those are used instead, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

GELU_TIMES = """
template <typename T> T gelu_times(T gate, T value) {
    return T(0.5) * gate * (T(1) + erf(gate * T(0.70710678118654752440))) * value;
}
"""

ROTATED_BFLOAT16 = """
template <typename T> T rotated_bfloat16(T pair, T cosine, T sine) {
    union Bits { unsigned int bits; float value; };
    Bits even, odd, c, s, x, y;
    even.bits = static_cast<unsigned int>(pair) * 65536u;
    odd.bits = static_cast<unsigned int>(pair) & 0xffff0000u;
    c.bits = static_cast<unsigned int>(cosine);
    s.bits = static_cast<unsigned int>(sine);
    x.value = even.value * c.value - odd.value * s.value;
    y.value = even.value * s.value + odd.value * c.value;
    x.bits += x.value == x.value ? 0x7fffu + (x.bits / 65536u & 1u) : 0u;
    y.bits += y.value == y.value ? 0x7fffu + (y.bits / 65536u & 1u) : 0u;
    return static_cast<T>(x.bits / 65536u | (y.bits & 0xffff0000u));
}
"""
"""Of a pair of neighbours as one 32-bit integer, the first in its lower half; cosine and sine as the bits of float32.
Rounded to the nearest, ties to even, as torch rounds; NaN stays NaN."""


def exact_products() -> None:
    """Products and sums of products in the numbers' own format, or a wider one, whatever the environment says
    (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE) and torch's defaults are."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def gelu_times(gate_TI: Tensor, value_TI: Tensor) -> Tensor:
    """(T, I): GELU (erf) of the gate, times the value."""
    if gate_TI.is_cuda and compiles(gate_TI.device):
        output_TI: Tensor = _compiled(GELU_TIMES)(gate_TI, value_TI)
        return output_TI
    return functional.gelu(gate_TI).mul_(value_TI)


def rotated_bfloat16(states_THE: Tensor, rotation_T1E: Tensor) -> Tensor:
    """(T, H, E) bfloat16: each pair of neighbours, a complex number, times (T, 1, E / 2) complex64. On CUDA, where
    `compiles`."""
    cosine_T1E, sine_T1E = torch.view_as_real(rotation_T1E).view(torch.int32).unbind(-1)
    rotated_THE: Tensor = _compiled(ROTATED_BFLOAT16)(states_THE.view(torch.int32), cosine_T1E, sine_T1E)
    return rotated_THE.view(torch.bfloat16)


@cache
def compiles(device: torch.device) -> bool:
    """Whether both kernels are to be had on this device and give what torch's operators give."""
    try:
        agree = _agree(device)
    except RuntimeError as error:  # what NVRTC and the driver raise
        logger.warning("torch's own kernels instead of fused ones, which cannot be compiled here: %s", error)
        return False
    if not agree:
        logger.warning("torch's own kernels instead of fused ones, which give other numbers on this device")
    return agree


def _agree(device: torch.device) -> bool:
    """Whether the fused kernels give what torch's operators give, on numbers of either sign."""
    gate = torch.linspace(-6, 6, 256, device=device).reshape(4, 64)
    value = gate.flip(1)
    agree = True
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        gates, values = gate.to(dtype), value.to(dtype)
        expected = functional.gelu(gates.double()) * values.double()
        error = (_compiled(GELU_TIMES)(gates, values).double() - expected).abs()
        agree &= bool((error <= 4 * torch.finfo(dtype).eps * (1 + (gate * value).abs())).all())
    states_THE = gate.to(torch.bfloat16).view(4, 2, 32)
    rotation_T1E = torch.polar(torch.ones(4, 1, 16, device=device), value.reshape(4, 4, 16)[:, :1].contiguous())
    expected = torch.view_as_complex(states_THE.float().unflatten(2, (-1, 2))) * rotation_T1E
    error = (rotated_bfloat16(states_THE, rotation_T1E).float() - torch.view_as_real(expected).flatten(2)).abs()
    return agree and bool((error <= torch.finfo(torch.bfloat16).eps * 6).all())


@cache
def _compiled(text: str) -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = torch.cuda.jiterator._create_jit_fn(text)
    return function
