"""Attention at the head sizes of the published encoders: the kernels of a GPU against float64, sequence by sequence."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from vpdist.encoders.packing import Packing, has_varlen_kernel

HEAD_SIZES = (16, 24, 32, 64)
"""Of ESM-2 6x320, 12x480, 30x640, and of 33x1280 and larger."""
LENGTHS = np.array([3, 20, 20, 37, 168, 168, 1024])
HEADS = 20
ERROR = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Of values of about 1: a few roundings."""

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def worst_error(device: torch.device, dtype: torch.dtype, head_size: int) -> float:
    """The largest difference of a number of packed attention from float64 on the CPU."""
    generator = torch.Generator().manual_seed(head_size)
    qkv_3THE = torch.randn(3, int(LENGTHS.sum()), HEADS, head_size, generator=generator).to(dtype)
    query_THE, key_THE, value_THE = qkv_3THE.to(device)
    packing = Packing(LENGTHS, device, 16 if device.type == "cuda" else 1)
    attended_THE = packing.attention(query_THE, key_THE, value_THE, head_size**-0.5).double().cpu()
    worst = 0.0
    for start, stop in pairwise(packing.offsets.tolist()):
        query, key, value = qkv_3THE[:, start:stop].double()
        scores_HTT = torch.einsum("ihe,jhe->hij", query, key) * head_size**-0.5
        exact = torch.einsum("hij,jhe->ihe", scores_HTT.softmax(-1), value)
        worst = max(worst, float((attended_THE[start:stop] - exact).abs().max()))
    return worst


@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_attention_on_the_cpu_is_right_at_every_head_size(head_size: int) -> None:
    assert worst_error(torch.device("cpu"), torch.float32, head_size) <= ERROR[torch.float32]


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("head_size", HEAD_SIZES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_variable_length_kernel_serves_every_head_size(head_size: int, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    if not has_varlen_kernel(device, dtype):
        pytest.skip("this GPU has no variable-length kernel")
    assert worst_error(device, dtype, head_size) <= ERROR[dtype]


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_length_groups_on_a_gpu_serve_every_head_size(head_size: int) -> None:
    assert worst_error(torch.device("cuda"), torch.float32, head_size) <= ERROR[torch.float32]
