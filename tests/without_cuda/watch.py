"""What reaches the device: every operator on fake CUDA tensors is seen, counted, and refused where it would wait.

A launch is an operator that writes memory of the device: views and allocations are none. Bytes are those that a kernel
must read and write; those of matrix products are counted apart. Memory is that of live storages.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.without_cuda.attention_kernels import check_varlen

WAITING = {
    *("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal"),
    *("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_consecutive"),
}
"""Operators whose result, or the size of it, the host must know."""
WITHOUT_KERNEL = {
    *("aten::empty", "aten::empty_strided", "aten::empty_like", "aten::new_empty", "aten::new_empty_strided"),
    *("aten::detach", "aten::detach_", "aten::lift_fresh"),
}
PRODUCTS = {"aten::addmm", "aten::mm", "aten::bmm"}
TWICE_OUTPUT = {"aten::embedding", "aten::index", "aten::index_select"}
"""Read as much as they write, whatever the size of the table."""
VARLEN = "torch_attn::_varlen_attn"


class WaitsForDeviceError(AssertionError):
    """The host would wait for the device."""


@dataclass
class Memory:
    """Bytes of live storages on the device."""

    now: int = 0
    peak: int = 0
    live: set[int] = field(default_factory=set)

    def hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.live:
            return
        self.live.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.now -= size

    def measure(self) -> int:
        """Bytes held now; the peak is counted from here on."""
        self.peak = self.now
        return self.now


@dataclass
class Watch(TorchDispatchMode):
    """`capability`: of the GPU that is pretended."""

    capability: tuple[int, int]
    launches: Counter[str] = field(default_factory=Counter)
    moved: int = 0
    """Bytes of all kernels but matrix products."""
    to_device: int = 0
    """Copies from the host."""
    num_splits: list[int | None] = field(default_factory=list)
    """As given to the variable-length kernel."""
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        super().__init__()

    def restart(self) -> int:
        """Forget what was counted; returns the bytes held, from which the peak is measured on."""
        self.launches.clear()
        self.num_splits.clear()
        self.moved = self.to_device = 0
        return self.memory.measure()

    def launched(self, name: str, *tensors: torch.Tensor) -> None:
        """A kernel that reads or writes these tensors."""
        self.launches[name] += 1
        self.moved += sum(map(touched, tensors))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, inputs = func._schema.name, tensors_in((args, kwargs))
        on_device = [each for each in inputs if each.device.type == "cuda"]
        if name in WAITING and on_device:
            raise WaitsForDeviceError(f"{name} waits for the device")
        if func.namespace == "aten":
            with self:  # in inference mode operators that are made of others come here first
                made_of_others = func.decompose(*args, **(kwargs or {}))
            if made_of_others is not NotImplemented:
                return made_of_others
        if name == VARLEN:
            check_varlen(func, args, self.capability)
            self.num_splits.append(argument(func, args, "num_splits"))
        before = {each.untyped_storage()._cdata for each in inputs}
        result = func(*args, **(kwargs or {}))
        outputs = [each for each in tensors_in(result) if each.device.type == "cuda"]
        for each in outputs:
            self.memory.hold(each)
        refuse_waiting_copies(name, inputs, tensors_in(result), args, kwargs or {})
        self.to_device += name == "aten::_to_copy" and bool(outputs) and not on_device
        written = any(each.alias_info is not None and each.alias_info.is_write for each in func._schema.arguments)
        fresh = any(each.untyped_storage()._cdata not in before for each in outputs)
        if outputs and (written or fresh) and name not in WITHOUT_KERNEL:
            self._count(name, on_device, outputs)
        return result

    def _count(self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        self.launches[name] += 1
        if name == VARLEN:
            self.launches["zeros of its random state"] += 1
            outputs = outputs[:2]
        if name in TWICE_OUTPUT:
            inputs = outputs
        elif name == "aten::index_copy_":
            inputs, outputs = inputs[1:], inputs[2:]
        if name not in PRODUCTS:
            self.moved += sum(map(touched, [*inputs, *outputs]))


def tensors_in(tree: Any) -> list[torch.Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, torch.Tensor)]


def touched(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements; those of a repeated dimension are read once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return tensor.element_size() * int(torch.Size(sizes).numel())


def argument(func: Any, args: tuple[Any, ...], name: str) -> Any:
    """The value of an operator's argument, its default where it isn't given."""
    for place, each in enumerate(func._schema.arguments):
        if each.name == name:
            return args[place] if place < len(args) else each.default_value
    raise KeyError(name)


def pairs_of_a_copy(
    name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(source, destination)."""
    if name == "aten::copy_":
        yield inputs[1], inputs[0]
    elif name == "aten::_to_copy":
        yield inputs[0], outputs[0]


def refuse_waiting_copies(
    name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """A copy between host and device waits unless it is asked not to and the host's memory is pinned."""
    for source, destination in pairs_of_a_copy(name, inputs, outputs):
        if source.device.type == destination.device.type:
            continue
        host = source if source.device.type == "cpu" else destination
        without_waiting = kwargs.get("non_blocking", False) or (name == "aten::copy_" and args[2:3] == (True,))
        if not (without_waiting and getattr(host, "pinned", False)):
            raise WaitsForDeviceError(
                f"a copy from {source.device} to {destination.device} waits: non_blocking is {without_waiting}, "
                f"pinned is {getattr(host, 'pinned', False)}"
            )
