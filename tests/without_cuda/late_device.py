"""A device that is late: what is launched on it is done later, stream by stream, as a schedule says.

Tensors lie in the host's memory. Every operator on a tensor of the device waits in its stream's queue; until it is done
its output holds what nobody computed, or what was there before. Waiting for an event lets the device work until there.
Memory that the host lets go of is given away again at once, as torch's allocator does it: it is overwritten in the
order of the stream that it was made on, unless `record_stream` named the streams that use it. Copies that would make
the host wait are refused, except `Tensor.cpu`.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.without_cuda.functions import marked_pinned
from tests.without_cuda.pretended import CUDA


def garbage(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` with what nobody computed: finite, as rows with other numbers would be computed again."""
    return tensor.fill_(-1)


class LateEvent:
    """torch.cuda.Event."""

    def __init__(self, device: LateDevice, blocking: bool = False) -> None:
        self.device, self.blocking, self.done, self.stream = device, blocking, False, device.default

    def record(self, stream: LateStream | None = None) -> None:
        self.stream, self.done = stream or self.device.current, False
        self.stream.queue.append(self)

    def query(self) -> bool:
        self.device.work()
        return self.done

    def synchronize(self) -> None:
        assert self.blocking, "the host spins while it waits"
        self.device.synchronized += 1
        self.stream.work_until(self)


class LateStream:
    """torch.cuda.Stream: what was launched and is not done, in order. An event marks a place, its wait another."""

    def __init__(self) -> None:
        self.queue: deque[Any] = deque()

    def wait_event(self, event: LateEvent) -> None:
        self.queue.append(("wait", event))

    def step(self, *, insist: bool = False) -> bool:
        """Do what is next. False where that waits for another stream, unless it is to work, too."""
        if not self.queue:
            return False
        match self.queue[0]:
            case LateEvent() as event:
                event.done = True
            case ("wait", event) if not event.done and not insist:
                return False
            case ("wait", event):
                event.stream.work_until(event)
            case launched:
                launched()
        self.queue.popleft()
        return True

    def work_until(self, event: LateEvent) -> None:
        while not event.done:
            assert self.step(insist=True), "an event that was never recorded"


class LateDevice:
    """`schedule`: how much the device does whenever something is launched or asked: number k lets stream k modulo 2 do
    k // 2 things. It begins again at its end. `recorded`: whether `record_stream` is heeded."""

    def __init__(self, schedule: Sequence[int], *, recorded: bool = True) -> None:
        self.schedule, self.recorded = deque(schedule or [0]), recorded
        self.default = LateStream()
        self.streams = [self.default]
        self.entered = [self.default]
        self.memory: dict[int, np.ndarray | None] = {}
        """By storage; None where it is torch's own."""
        self.kept: set[int] = set()
        """Storages that other streams use."""
        self.synchronized = 0
        self.reused = 0
        """Blocks of memory that were given away while something that uses them waited."""

    @property
    def current(self) -> LateStream:
        return self.entered[-1]

    def event(self, blocking: bool = False) -> LateEvent:
        return LateEvent(self, blocking)

    def stream(self, device: torch.device | None = None) -> LateStream:
        self.streams.append(LateStream())
        return self.streams[-1]

    @contextlib.contextmanager
    def on(self, stream: LateStream) -> Iterator[None]:
        self.entered.append(stream)
        try:
            yield
        finally:
            self.entered.pop()

    def work(self) -> None:
        self.schedule.rotate(-1)
        number = self.schedule[-1]
        stream = self.streams[number % 2 % len(self.streams)]
        for _ in range(number // 2):
            stream.step()

    def launch(self, action: Callable[[], object]) -> None:
        self.current.queue.append(action)
        self.work()

    def finish(self) -> None:
        """Let the current stream do all there is."""
        end = LateEvent(self)
        end.record()
        end.stream.work_until(end)

    def owns(self, tensor: Any) -> bool:
        return isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata in self.memory

    def adopt(self, tensor: torch.Tensor, memory: np.ndarray | None = None) -> torch.Tensor:
        """`tensor` is on the device from now on, in `memory`."""
        storage, key, made_on = tensor.untyped_storage(), tensor.untyped_storage()._cdata, self.current
        if key not in self.memory:
            self.memory[key] = memory
            weakref.finalize(storage, self._let_go, key, memory, made_on)
        return tensor

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        memory = garbage(torch.empty(tuple(shape), dtype=dtype)).numpy()
        return self.adopt(torch.from_numpy(memory), memory)

    def alias(self, tensor: Any) -> Any:
        """The same numbers, for a queue to hold without keeping the tensor's memory from being given away."""
        memory = self.memory.get(tensor.untyped_storage()._cdata) if isinstance(tensor, torch.Tensor) else None
        if memory is None:
            return tensor
        return torch.from_numpy(memory).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _let_go(self, key: int, memory: np.ndarray | None, made_on: LateStream) -> None:
        self.memory.pop(key, None)
        if memory is not None and not (self.recorded and key in self.kept):
            self.reused += any(stream.queue for stream in self.streams)
            made_on.queue.append(lambda: garbage(torch.from_numpy(memory)))
        self.kept.discard(key)


class _Operators(TorchDispatchMode):
    """Operators on tensors of the device wait in the current stream."""

    def __init__(self, device: LateDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device, kwargs = self.device, kwargs or {}
        if not any(map(device.owns, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        later = tree_map(device.alias, args), tree_map(device.alias, kwargs)
        if any(each.alias_info is not None and each.alias_info.is_write for each in func._schema.arguments):
            if func._schema.name == "aten::copy_" and not device.owns(args[0]):
                assert getattr(args[0], "pinned", False), "a copy to memory that is not pinned waits"
                assert args[2:] or kwargs.get("non_blocking"), "a copy to the host waits"
            device.launch(lambda: func(*later[0], **later[1]))
            return args[0]
        output = func(*args, **kwargs)
        mine = {each.untyped_storage()._cdata for each in tree_leaves(args) if isinstance(each, torch.Tensor)}
        if output.untyped_storage()._cdata in mine:
            return output  # a view
        made = device.empty(output.shape, output.dtype)
        into = device.alias(made)
        device.launch(lambda: into.copy_(func(*later[0], **later[1])))
        return made


class _Functions(TorchFunctionMode):
    """What names a device, or memory, is done here."""

    def __init__(self, device: LateDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device, kwargs = self.device, kwargs or {}
        named = kwargs.get("device")
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return CUDA if device.owns(args[0]) else func(*args)
        if func is torch.Tensor.pin_memory:
            return marked_pinned(args[0])
        if func is torch.Tensor.cpu or (func is torch.Tensor.numpy and device.owns(args[0])):
            assert func is torch.Tensor.cpu, "a tensor of the device has no numbers on the host"
            device.finish()
            return device.alias(args[0]).clone()
        if func is torch.Tensor.to:
            return self._to(args[0], *args[1:], **kwargs)
        if func is torch.empty_like and kwargs.pop("pin_memory", False):
            return marked_pinned(garbage(torch.empty(args[0].shape, dtype=args[0].dtype)))
        if named is not None and torch.device(named).type == "cuda":
            assert func in (torch.empty, torch.full), f"{func} on the device"
            if func is torch.empty:
                return device.empty(args[0], kwargs["dtype"])
            return device.adopt(torch.full(*args))
        return func(*args, **kwargs)

    def _to(self, tensor: torch.Tensor, *wanted: Any, non_blocking: bool = False) -> torch.Tensor:
        """To another device, or number format."""
        device = self.device
        on_device = any(isinstance(each, torch.device) and each.type == "cuda" for each in wanted)
        dtypes = [each for each in wanted if isinstance(each, torch.dtype)]
        if on_device and not device.owns(tensor):
            assert getattr(tensor, "pinned", False), "a copy from memory that is not pinned waits"
            assert non_blocking, "a copy to the device waits"
            made = device.empty(tensor.shape, tensor.dtype)
            into = device.alias(made)
            device.launch(lambda: into.copy_(tensor))
            return self._to(made, *dtypes)
        return tensor.to(dtypes[0]) if dtypes else tensor


@contextlib.contextmanager
def late(device: LateDevice) -> Iterator[LateDevice]:
    """torch's device is this one."""
    replaced = {
        "Event": device.event,
        "Stream": device.stream,
        "stream": device.on,
        "current_stream": lambda _=None: device.current,
        "empty_cache": lambda: None,
    }

    def record_stream(tensor: torch.Tensor, stream: LateStream) -> None:
        device.kept.add(tensor.untyped_storage()._cdata)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", record_stream))
        for name, function in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(_Operators(device))
        stack.enter_context(_Functions(device))
        yield device
