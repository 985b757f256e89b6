"""A machine with one GPU whose tensors hold nothing: the encoders run on it as they would on a real one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.without_cuda.functions import Functions
from tests.without_cuda.watch import Watch
from vpdist.encoders import cuda_kernels, esm2

CUDA = torch.device("cuda", 0)


def launch_by_jiterator(function: torch.cuda.jiterator._JittedFunction, *tensors: torch.Tensor) -> torch.Tensor:
    """An elementwise kernel that CUDA builds compile from its text; its output is dense, in the common format."""
    assert len(tensors) <= 8
    assert all(each.device.type == "cuda" for each in tensors)
    assert len({each.dtype for each in tensors}) == 1, "other formats are converted one by one"
    shape = torch.broadcast_shapes(*(each.shape for each in tensors))
    output = tensors[0].new_empty(shape)
    watch = next(mode for mode in reversed(active) if isinstance(mode, Watch))
    watch.launched(f"jiterator::{function.kernel_name}", *tensors, output)
    return output


active: list[Watch] = []


@contextlib.contextmanager
def pretended(capability: tuple[int, int] = (9, 0), *, fused: bool = True) -> Iterator[Watch]:
    """A GPU of this compute capability, and what it is given to do. `fused`: whether kernels of our own compile."""
    watch = Watch(capability)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # torch tells that fake tensors of a device that is not there are fake
        patch = mock.patch.object
        stack.enter_context(patch(torch.cuda, "get_device_capability", lambda device=None: capability))
        stack.enter_context(patch(torch.cuda.jiterator._JittedFunction, "__call__", launch_by_jiterator))
        stack.enter_context(patch(cuda_kernels, "compiles", lambda device: fused))
        stack.enter_context(patch(esm2, "compiles", lambda device: fused))
        active.append(watch)
        stack.callback(active.pop)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(watch)
        stack.enter_context(Functions(watch))
        yield watch
