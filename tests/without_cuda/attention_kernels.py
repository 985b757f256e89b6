"""What torch's attention kernels demand, per compute capability, and which of them SDPA chooses.

From torch's sources: cuda/sdp_utils.cpp (the choice, with cuDNN off), attention.cpp (masks), flash_attn/flash_api.cpp
mha_varlen_fwd, mem_eff_attention/kernel_forward.h check_supported.

Shapes: N sequences, H heads, L queries, S keys, E numbers per head, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch

HALF = (torch.float16, torch.bfloat16)
VECTOR = 16
"""Bytes that a kernel loads at once."""


class RefusedByKernelError(AssertionError):
    """A kernel would raise, or read what is not there."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise RefusedByKernelError(message)


def alignment(dtype: torch.dtype, capability: tuple[int, int]) -> int:
    """Numbers of which head sizes and strides must be multiples in the memory-efficient kernel."""
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and dtype in HALF)
    smallest = 4 if capability >= (8, 0) else 1
    return max(smallest, VECTOR // dtype.itemsize) if tensor_cores else smallest


def chosen_kernel(query_NHLE: torch.Tensor, mask: torch.Tensor | None, capability: tuple[int, int]) -> str:
    """flash, efficient or math: the first that takes the inputs."""
    dtype, size = query_NHLE.dtype, query_NHLE.shape[-1]
    if mask is None and capability >= (8, 0) and dtype in HALF and size <= 256:
        return "flash"
    dtypes = (torch.float32, torch.float16, *((torch.bfloat16,) if capability >= (8, 0) else ()))
    mask_in_rows = mask is None or mask.stride(-1) == 1
    if dtype in dtypes and size % alignment(dtype, capability) == 0 and mask_in_rows:
        return "efficient"
    return "math"


def check_sdpa(
    query_NHLE: torch.Tensor, key_NHSE: torch.Tensor, value_NHSE: torch.Tensor, mask: torch.Tensor | None
) -> None:
    """What holds for every kernel."""
    for name, each in (("query", query_NHLE), ("key", key_NHSE), ("value", value_NHSE)):
        require(each.device.type == "cuda", f"{name} is on {each.device}")
        require(each.dim() == 4, f"{name} has {each.dim()} dimensions")
        require(each.dtype == query_NHLE.dtype, f"{name} is {each.dtype}, query {query_NHLE.dtype}")
        require(each.stride(-1) == 1, f"{name}: the last stride is {each.stride(-1)}")
        require(0 not in each.shape, f"{name} is empty: {tuple(each.shape)}")
    require(key_NHSE.shape == value_NHSE.shape, "keys and values differ in shape")
    require(query_NHLE.shape[:2] == key_NHSE.shape[:2], "queries and keys differ in sequences or heads")
    if mask is not None:
        require(mask.device.type == "cuda", f"the mask is on {mask.device}")
        require(mask.dtype == query_NHLE.dtype, f"the mask is {mask.dtype}, which is converted for every layer")


def check_rows(tensor: torch.Tensor, name: str, numbers: int) -> None:
    """Every row begins at a multiple of `numbers`."""
    strides = [stride for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True) if size > 1]
    require(all(stride % numbers == 0 for stride in strides), f"{name}: strides {tensor.stride()}, not of {numbers}")
    require(tensor.storage_offset() % numbers == 0, f"{name} begins at {tensor.storage_offset()}, not of {numbers}")


def check_efficient(
    query_NHLE: torch.Tensor,
    key_NHSE: torch.Tensor,
    value_NHSE: torch.Tensor,
    mask: torch.Tensor | None,
    capability: tuple[int, int],
) -> None:
    """The memory-efficient kernel: rows that can be loaded as vectors, a bias that is read within its memory."""
    numbers = alignment(query_NHLE.dtype, capability)
    for name, each in (("query", query_NHLE), ("key", key_NHSE), ("value", value_NHSE)):
        check_rows(each, name, numbers)
    if mask is None:
        return
    n, heads, length, _ = query_NHLE.shape
    keys = key_NHSE.shape[2]
    require(
        all(stride % 8 == 0 for stride in mask.stride()[:-1]),
        f"attn_bias is not correctly aligned: strides {mask.stride()}, so that it is copied for every layer",
    )
    bias = mask.expand(n, heads, length, keys)
    require(bias.storage_offset() % 8 == 0, "attn_bias does not begin at a multiple of 8")
    last = bias.storage_offset() + sum((s - 1) * t for s, t in zip(bias.shape[:-1], bias.stride()[:-1], strict=True))
    there = bias.untyped_storage().nbytes() // bias.element_size()
    require(last + -(-keys // 8) * 8 <= there, f"attn_bias is read past its end: {last} + {keys} of {there}")


def check_varlen(func: Any, args: tuple[Any, ...], capability: tuple[int, int]) -> None:
    """The variable-length kernel of FlashAttention 2."""
    names = [each.name for each in func._schema.arguments]
    given = dict(zip(names, args, strict=False))
    query_THE = given["query"]
    require(capability >= (8, 0), "FlashAttention only supports Ampere GPUs or newer")
    require(query_THE.dtype in HALF, f"FlashAttention only supports half precision, not {query_THE.dtype}")
    for name in ("query", "key", "value"):
        each = given[name]
        require(each.device.type == "cuda" and each.dim() == 3, f"{name}: {each.device}, {tuple(each.shape)}")
        require(each.dtype == query_THE.dtype, f"{name} is {each.dtype}, query {query_THE.dtype}")
        require(each.stride(-1) == 1, f"{name}: the last dimension is not contiguous")
        require(each.shape == query_THE.shape, f"{name} is {tuple(each.shape)}, query {tuple(query_THE.shape)}")
        check_rows(each, name, VECTOR // each.dtype.itemsize)
    size = query_THE.shape[-1]
    require(size % 8 == 0 and size <= 256, f"head size {size} is no multiple of 8, or more than 256")
    for name in ("cu_seq_q", "cu_seq_k"):
        each = given[name]
        require(each.dtype == torch.int32 and each.is_contiguous(), f"{name} is {each.dtype}")
        require(each.device.type == "cuda" and each.dim() == 1 and len(each) > 1, f"{name} is on {each.device}")
    require(type(given["max_q"]) is int and type(given["max_k"]) is int, "the longest length is no plain int")
