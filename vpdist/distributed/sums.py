"""Sums over ranks, for a fit: a group of its own beside that of the counters, which a thread uses at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from vpdist.distributed.runtime import Runtime

POLL_S, CHECK_S = 5e-5, 0.25
LOSS_NOTICED_S = 60.0
"""Time within which a rank that was lost, or that failed, is told by the exchange or the key store."""


class Sums:
    """Sums of tensors over all ranks. To be made by all ranks together, on the main thread."""

    def __init__(self, runtime: Runtime, timeout_s: float, raise_if_ending: Callable[[], None]) -> None:
        """`raise_if_ending` is called while this rank waits for the others, and raises when it must end."""
        self._raise_if_ending = raise_if_ending
        self._group: dist.ProcessGroup | None = None
        if runtime.world_size > 1:
            self._group = dist.new_group(timeout=timedelta(seconds=timeout_s), backend="gloo")

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace a contiguous CPU tensor by its sum over all ranks, and return it. All ranks get the same bits.

        Raises what `raise_if_ending` raises, RuntimeError where the ranks cannot be reached and nobody knows why.
        """
        if self._group is None:
            return tensor
        try:
            work = dist.all_reduce(tensor, group=self._group, async_op=True)
            checked = time.monotonic()
            while not work.is_completed():
                time.sleep(POLL_S)
                if time.monotonic() - checked > CHECK_S:
                    checked = time.monotonic()
                    self._raise_if_ending()
            work.wait()  # complete already; raises its error
        except RuntimeError:  # gloo's only class of error: another rank has ended
            until = time.monotonic() + LOSS_NOTICED_S
            while time.monotonic() < until:
                self._raise_if_ending()
                time.sleep(POLL_S * 100)
            raise
        return tensor
