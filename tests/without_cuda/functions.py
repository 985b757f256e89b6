"""Calls of torch that a CPU build refuses for CUDA tensors, or that must choose a kernel, expressed otherwise.

Indexing and `contiguous` make a device guard, which a CPU build has not: their operators are called instead.
Pinned memory needs a driver: tensors are marked as pinned. SDPA asks the device for a kernel: it is chosen here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tests.without_cuda.attention_kernels import check_efficient, check_sdpa, chosen_kernel
from tests.without_cuda.watch import WaitsForDeviceError, Watch

aten = torch.ops.aten


class Functions(TorchFunctionMode):
    """Replaces indexing, pinning and SDPA while it is active."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.__getitem__ and args[0].device.type == "cuda":
            return indexed(*args)
        if func is torch.Tensor.pin_memory:
            return marked_pinned(torch.empty_like(args[0], device="cpu"))
        if func is torch.empty_like and kwargs.pop("pin_memory", False):
            return marked_pinned(func(*args, **kwargs))
        if func is torch.Tensor.contiguous and args[0].device.type == "cuda":
            return args[0] if args[0].is_contiguous() else aten.clone(args[0], memory_format=torch.contiguous_format)
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            raise WaitsForDeviceError(f"{func.__name__} on the device copies from memory that is not pinned")
        if func is torch.nn.functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        scale: float | None = None,
    ) -> torch.Tensor:
        """A tensor with the strides that the chosen kernel gives its output."""
        check_sdpa(query, key, value, attn_mask)
        capability = self.watch.capability
        kernel = chosen_kernel(query, attn_mask, capability)
        n, heads, length, size = query.shape
        if kernel == "math":
            scores = query.new_empty(n, heads, length, length)
            output = query.new_empty(n, heads, length, size)
            self.watch.launched("sdpa::math", query, key, value, scores, scores, output)
            return output
        if kernel == "efficient":
            check_efficient(query, key, value, attn_mask, capability)
        output = query.new_empty(n, length, heads, size).transpose(1, 2)
        masks = () if attn_mask is None else (attn_mask,)
        self.watch.launched(f"sdpa::{kernel}", query, key, value, *masks, output)
        return output


def marked_pinned(tensor: torch.Tensor) -> torch.Tensor:
    tensor.pinned = True  # type: ignore[attr-defined]
    return tensor


def indexed(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """tensor[index] by operators: integers, slices, None, ..., and one tensor of indices by itself."""
    if isinstance(index, torch.Tensor):
        if index.dtype == torch.bool:
            raise WaitsForDeviceError("indexing by a mask waits for the number of its elements")
        return aten.index.Tensor(tensor, [index])
    entries = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in entries:
        place = entries.index(Ellipsis)
        missing = tensor.dim() - sum(each is not None for each in entries) + 1
        entries[place : place + 1] = [slice(None)] * missing
    dim = 0
    for entry in entries:
        if entry is None:
            tensor = aten.unsqueeze.default(tensor, dim)
        elif isinstance(entry, slice):
            bounds = [None if bound is None else int(bound) for bound in (entry.start, entry.stop)]
            tensor = aten.slice.Tensor(tensor, dim, *bounds, 1 if entry.step is None else int(entry.step))
        else:
            tensor = aten.select.int(tensor, dim, int(entry))
            continue
        dim += 1
    return tensor
