"""Between host and device: tokens go in from pinned memory, embeddings come out on a stream of their own.

On a CPU all of it is immediate. On CUDA only `InFlight` waits for the device: it bounds how far the launching thread
runs ahead, so that counters follow what is done and a request to stop takes effect within a few batches. Events that
are waited for are blocking: the thread sleeps, where torch's default spins on a core that other threads need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import torch

from vpdist.encoders.packing import to_device

BATCHES_AHEAD = 3
"""Most batches launched and not yet done: enough that the device never waits for the next one."""


class InFlight:
    """Batches that were launched, in order, each with a function to call once it is done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._launched: deque[tuple[torch.cuda.Event, Callable[[], None]]] = deque()

    def launched(self, done: Callable[[], None]) -> None:
        """A batch has been launched; on a CPU it is done. Waits where more than BATCHES_AHEAD are in flight."""
        if self._device.type == "cpu":
            done()
            return
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        self._launched.append((event, done))
        self.wait(BATCHES_AHEAD)

    def wait(self, left: int = 0) -> None:
        """Wait until at most `left` batches are in flight."""
        while len(self._launched) > left:
            event, done = self._launched.popleft()
            event.synchronize()
            done()


class EmbeddingRows:
    """(m, width) embeddings of one encoder, filled batch by batch on the device, then copied to the host.

    `stored` is their number format. On CUDA the copy runs on `stream`, while the next unit is computed.
    """

    def __init__(
        self, m: int, width: int, stored: np.dtype, device: torch.device, stream: torch.cuda.Stream | None
    ) -> None:
        dtype = torch.from_numpy(np.empty(0, stored)).dtype
        self._rows_MD = torch.empty((m, width), dtype=dtype, device=device)
        self._stream = stream
        self._copied: torch.cuda.Event | None = None

    def put(self, positions: np.ndarray, rows_BD: torch.Tensor) -> None:
        """Rows (B, width) float32 at their positions (B,)."""
        index_B = to_device(positions, self._rows_MD.device)
        self._rows_MD.index_copy_(0, index_B, rows_BD.to(self._rows_MD.device, self._rows_MD.dtype))

    def start_copy(self) -> None:
        """Copy the rows to the host, once the device has done what was launched."""
        if self._stream is None:
            return
        computed = torch.cuda.Event()
        computed.record(torch.cuda.current_stream(self._rows_MD.device))
        self._stream.wait_event(computed)
        with torch.cuda.stream(self._stream):
            host_MD = torch.empty_like(self._rows_MD, device="cpu", pin_memory=True)
            host_MD.copy_(self._rows_MD, non_blocking=True)
            self._rows_MD.record_stream(self._stream)
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record(self._stream)
        self._rows_MD = host_MD

    @property
    def copy_done(self) -> bool:
        """Whether `on_host` would not wait."""
        return self._copied is None or self._copied.query()

    def on_host(self) -> np.ndarray:
        """The rows, once they are copied."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._rows_MD.numpy()
