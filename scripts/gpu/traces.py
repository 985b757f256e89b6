"""What a device did, as torch's profiler saw it: which kernels, how many, and for how long it did nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

CUDNN = "cudnn"
"""In the names of cuDNN's kernels, and of torch's operators that call its attention."""
SHOWN = 12
"""Kernels that are listed."""
LONGEST_NAME = 90


@dataclass(frozen=True, slots=True)
class Trace:
    """Kernels and copies of a device in the order in which they began; on a CPU the outermost operators."""

    names: Sequence[str]
    starts_us: np.ndarray
    """(n,) float64, ascending."""
    ends_us: np.ndarray
    operators: frozenset[str] = frozenset()
    """Names of torch's operators on the host."""

    @classmethod
    def of(cls, events: Sequence[FunctionEvent], device: torch.device) -> Trace:
        """From the events of a profile."""
        wanted = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
        chosen = [
            each
            for each in events
            if each.device_type == wanted
            and not each.is_user_annotation
            and (wanted == DeviceType.CUDA or each.cpu_parent is None)
        ]
        chosen.sort(key=lambda each: each.time_range.start)
        return cls(
            [each.name for each in chosen],
            np.array([each.time_range.start for each in chosen], dtype=np.float64),
            np.array([each.time_range.end for each in chosen], dtype=np.float64),
            frozenset(each.name for each in events if each.device_type == DeviceType.CPU),
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def span_us(self) -> float:
        """From the first beginning to the last end."""
        return float(self.ends_us.max() - self.starts_us[0]) if len(self) else 0.0

    @property
    def gaps_us(self) -> np.ndarray:
        """Of each stretch in which nothing ran, whatever the stream."""
        if not len(self):
            return np.empty(0)
        gaps = self.starts_us[1:] - np.maximum.accumulate(self.ends_us)[:-1]
        return gaps[gaps > 0]

    @property
    def idle(self) -> float:
        """Share of the span in which nothing ran; NaN where nothing ever ran."""
        return float(self.gaps_us.sum()) / self.span_us if self.span_us else float("nan")

    @property
    def cudnn(self) -> list[str]:
        """Names of kernels and operators of cuDNN."""
        return sorted(name for name in {*self.names, *self.operators} if CUDNN in name.lower())

    def listed(self) -> str:
        """The kernels that took longest: their share of the busy time, how often they ran, their names."""
        times: defaultdict[str, float] = defaultdict(float)
        for name, start, end in zip(self.names, self.starts_us, self.ends_us, strict=True):
            times[name] += end - start
        counts, total = Counter(self.names), sum(times.values()) or 1.0
        longest = sorted(times, key=lambda name: -times[name])
        lines = [f"{100 * times[name] / total:5.1f} % {counts[name]:6d} x {name[:LONGEST_NAME]}" for name in longest]
        return "\n".join([*lines[:SHOWN], f"{len(lines)} kernels, {len(self)} launches"])


def traced(action: Callable[[], object], device: torch.device) -> Trace:
    """What an action makes the device do."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiled:
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return Trace.of(profiled.events(), device)


def per_layer(fewer: Trace, more: Trace, layers: int) -> float:
    """Launches of a layer, from two encoders of which one has so many layers more."""
    return (len(more) - len(fewer)) / layers


def synchronises(action: Callable[[], object], device: torch.device) -> str:
    """Where an action makes the host wait for a GPU, torch's words for it; else ''."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        action()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize(device)
    return ""
