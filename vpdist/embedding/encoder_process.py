"""A child process that computes batches for its rank, which survives a crash or hang of the child.

Requests and replies are bytes on a pair of sockets: a line of JSON, and arrays in numpy's format. Nothing is pickled.
`python -m vpdist.embedding.encoder_process` is the child; it ends with its rank, even in the middle of a computation.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import itertools
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpdist.distributed.device import make_current, return_free_memory
from vpdist.encoders.encoder import DTYPES, Encoder, load_encoder
from vpdist.environment import current_folder_off_path
from vpdist.errors import VpdistError
from vpdist.ragged import Ragged

logger = logging.getLogger(__name__)


POLL_S = 0.2
LONGEST = 1 << 32
"""Bytes of one message: more than any batch has."""
WHOLE_REPLY_S = 10.0
"""Between a reply's first byte and its last: the child has computed it by then and only copies it."""
Message = tuple[dict[str, Any], list[np.ndarray]]


class ChildDied(Exception):  # noqa: N818 - never shown to users
    """The child process ended during a request."""


class ChildHung(ChildDied):
    """The child process did not reply in time, and was killed."""


class EncoderProcess:
    """The child process: started when first needed, and again after it has died."""

    def __init__(
        self,
        device: torch.device,
        threads: int,
        raise_if_ending: Callable[[], None],
        timeout_s: float,
        read: Callable[[str, Callable[[], None]], None] = lambda kind, load: load(),
    ) -> None:
        """The child computes on `device` with `threads`. While this process waits for a reply, for `timeout_s` at most,
        it calls `raise_if_ending`. `read` is given a kind and a function that has the child load that encoder, calls
        it, and raises WeightsError where the files are not those of the run (see ModelFiles.read)."""
        self._read = read
        self._loaded: set[tuple[str, str]] = set()
        self._arguments = [str(device), str(threads)]
        self._raise_if_ending, self._timeout_s = raise_if_ending, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection | None = None

    def __enter__(self) -> EncoderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def load(self, kind: str, dtype: str, folder: Path) -> None:
        """Have the child load an encoder, unless it has it. Raises torch.OutOfMemoryError, VpdistError."""
        if (kind, dtype) in self._loaded:
            return
        times = itertools.count()

        def load() -> None:
            self._request({"kind": kind, "dtype": dtype, "folder": str(folder), "again": next(times) > 0})

        try:
            self._read(kind, load)
        except ChildDied as error:
            raise VpdistError(f"{error} while loading {folder}: is there memory for a second copy?") from error
        self._loaded.add((kind, dtype))

    def embed(self, kind: str, dtype: str, folder: Path, batch: Ragged) -> np.ndarray:
        """(B, width) float32. Raises ChildDied, torch.OutOfMemoryError, VpdistError when the encoder does not load."""
        try:
            self.load(kind, dtype, folder)
        except torch.OutOfMemoryError as error:  # not caused by the batch
            raise VpdistError(f"no memory for a second copy of {folder}, which computes units in isolation") from error
        [rows] = self._request({"kind": kind, "dtype": dtype, "folder": str(folder)}, batch.flat, batch.offsets)
        return rows

    def release(self, kind: str, dtype: str) -> None:
        """Have the child give back an encoder's memory, if it has it; a child that dies of that has none left."""
        if (kind, dtype) in self._loaded:
            self._loaded.remove((kind, dtype))
            with contextlib.suppress(ChildDied):  # another one is started when it is needed
                self._request({"kind": kind, "dtype": dtype, "release": True})

    def _request(self, header: dict[str, Any], *batch: np.ndarray) -> list[np.ndarray]:
        """The encoder's rows for a batch; without a batch nothing, once the encoder is loaded."""
        channel = self._channel or self._start()
        until = time.monotonic() + self._timeout_s
        try:
            channel.send_bytes(packed(header, *batch))
            while not channel.poll(POLL_S):
                self._raise_if_ending()
                if time.monotonic() > until:
                    raise ChildHung(f"the child process did not reply for {self._timeout_s:.0f} s")
            reply, rows = unpacked(self._received(channel))
        except ChildHung:
            self._end()
            raise
        except (EOFError, OSError) as error:
            status = self._end()
            raise ChildDied(f"the child process ended with status {status}") from error
        if reply["result"] == "out of memory":
            raise torch.OutOfMemoryError(f"in the child process, which has {header['folder']}")
        if reply["result"] == "refused":
            raise VpdistError(reply["reason"])
        return rows

    def _received(self, channel: Connection) -> bytes:
        """A message that has begun to arrive. A child that stops in the middle of one is killed."""
        watch = threading.Timer(WHOLE_REPLY_S, self._process.kill if self._process is not None else channel.close)
        watch.start()
        try:
            return channel.recv_bytes(LONGEST)
        finally:
            watch.cancel()

    def _start(self) -> Connection:
        self._channel, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", "vpdist.embedding.encoder_process", str(theirs.fileno()), *self._arguments]
            with current_folder_off_path():
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
        logger.info("started the isolated encoder process %d", self._process.pid)
        return self._channel

    def _end(self) -> int | None:
        """End the child, if there is one; returns its exit status."""
        if self._channel is not None:
            self._channel.close()
        status = None
        if self._process is not None:
            try:  # its end of the channel closes a moment before a dying process can be reaped
                self._process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
            status = self._process.wait()
        self._process = self._channel = None
        self._loaded.clear()
        return status


def packed(header: dict[str, Any], *arrays: np.ndarray) -> bytes:
    """A message as bytes."""
    message = io.BytesIO()
    message.write(json.dumps(header).encode() + b"\n")
    for array in arrays:
        np.save(message, array, allow_pickle=False)
    return message.getvalue()


def unpacked(message: bytes) -> Message:
    """The arguments of `packed`."""
    file = io.BytesIO(message)
    header, arrays = json.loads(file.readline()), []
    while file.tell() < len(message):
        arrays.append(np.load(file, allow_pickle=False))
    return header, arrays


def serve(channel: Connection, device: torch.device) -> None:
    """The child: reply to requests until the parent is gone, which ends it even in the middle of a computation."""
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                requests.put(channel.recv_bytes(LONGEST))
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    encoders: dict[tuple[str, str], Encoder] = {}
    while True:
        request, batch = unpacked(requests.get())
        kind, dtype = request["kind"], request["dtype"]
        rows = []
        try:
            if request.get("again") or request.get("release"):
                encoders.pop((kind, dtype), None)
            if request.get("release"):
                return_free_memory(device)
            elif (kind, dtype) not in encoders:
                encoders[kind, dtype] = load_encoder(Path(request["folder"]), kind, DTYPES[dtype], device)
            if batch:
                rows.append(encoders[kind, dtype].embed(Ragged(*batch)).cpu().numpy())
            reply = {"result": "done"}
        except torch.OutOfMemoryError:
            reply = {"result": "out of memory"}
            return_free_memory(device)
        except VpdistError as error:
            reply = {"result": "refused", "reason": str(error)}
        channel.send_bytes(packed(reply, *rows))


def main() -> None:
    """The child's entry point; its arguments: descriptor of the channel, device, threads."""
    descriptor, device, threads = sys.argv[1:]
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the process group's signals are for the parent, which ends this process
    torch.set_num_threads(int(threads))
    make_current(torch.device(device))
    with Connection(int(descriptor)) as channel:
        serve(channel, torch.device(device))


if __name__ == "__main__":
    main()
