"""A child process that computes batches for its rank, and may die or hang without harm to it.

Questions and answers are bytes on a pair of sockets: a line of JSON, and arrays in numpy's own format. Nothing is
pickled. `python -m vpdist.embedding.encoder_process` is the child; it ends with its rank, even in the middle of a computation.
"""

from __future__ import annotations

import faulthandler
import io
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
from types import TracebackType
from typing import Any

import numpy as np
import torch

from vpdist.encoders.encoder import DTYPES, Encoder, load_encoder
from vpdist.errors import VpdistError
from vpdist.ragged import Ragged

logger = logging.getLogger(__name__)


POLL_S = 0.2
LONGEST = 1 << 32
"""Bytes of one message: more than any batch has."""
WHOLE_ANSWER_S = 60.0
"""Between an answer's first byte and its last: the child has computed it by then and only copies it."""
Message = tuple[dict[str, Any], list[np.ndarray]]


class ChildDied(Exception):  # noqa: N818 - what happened, and never shown to people
    """The child process ended during a request."""


class ChildHung(ChildDied):
    """The child process gave no answer in time, and was killed."""


class EncoderProcess:
    """The child process: started when first needed, and again after each death."""

    def __init__(
        self, device: torch.device, threads: int, raise_if_ending: Callable[[], None], patience_s: float
    ) -> None:
        """The child computes on `device` with `threads`. While this process waits for an answer, for `patience_s` at
        most, it calls `raise_if_ending`."""
        self._arguments = [str(device), str(threads)]
        self._raise_if_ending, self._patience_s = raise_if_ending, patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection | None = None

    def __enter__(self) -> EncoderProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def load(self, kind: str, dtype: str, folder: Path) -> None:
        """Have the child load an encoder, unless it has it. Raises torch.OutOfMemoryError, VpdistError."""
        try:
            answer, _ = self._ask({"kind": kind, "dtype": dtype, "folder": str(folder)})
        except ChildDied as death:
            raise VpdistError(f"{death} while loading {folder}: is there memory for a second copy?") from death
        if answer["said"] == "out of memory":
            raise torch.OutOfMemoryError(f"in the child process, while loading {folder}")

    def embed(self, kind: str, dtype: str, folder: Path, batch: Ragged) -> np.ndarray:
        """(B, width) float32. Raises ChildDied, torch.OutOfMemoryError, VpdistError when the encoder does not load."""
        try:
            self.load(kind, dtype, folder)
        except torch.OutOfMemoryError as error:  # no fault of the batch's
            raise VpdistError(f"no memory for a second copy of {folder}, which computes units apart") from error
        answer, rows = self._ask({"kind": kind, "dtype": dtype, "folder": str(folder)}, batch.flat, batch.offsets)
        if answer["said"] == "out of memory":
            raise torch.OutOfMemoryError("in the child process")
        return rows[0]

    def _ask(self, question: dict[str, Any], *batch: np.ndarray) -> Message:
        """Its encoder's rows for a batch, or, without one, only that it is loaded."""
        channel = self._channel or self._start()
        until = time.monotonic() + self._patience_s
        try:
            channel.send_bytes(packed(question, *batch))
            while not channel.poll(POLL_S):
                self._raise_if_ending()
                if time.monotonic() > until:
                    raise ChildHung(f"the child process gave no answer for {self._patience_s:.0f} s")
            answer, rows = unpacked(self._received(channel))
        except ChildHung:
            self._end()
            raise
        except (EOFError, OSError) as error:
            status = self._end()
            raise ChildDied(f"the child process ended with status {status}") from error
        if answer["said"] == "refused":
            raise VpdistError(answer["why"])
        return answer, rows

    def _received(self, channel: Connection) -> bytes:
        """A message that has begun to arrive. A child that stops in the middle of one is killed."""
        watch = threading.Timer(WHOLE_ANSWER_S, self._process.kill if self._process is not None else channel.close)
        watch.start()
        try:
            return channel.recv_bytes(LONGEST)
        finally:
            watch.cancel()

    def _start(self) -> Connection:
        self._channel, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", "vpdist.embedding.encoder_process", str(theirs.fileno()), *self._arguments]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
        logger.info("computing apart in process %d", self._process.pid)
        return self._channel

    def _end(self) -> int | None:
        """End the child, if there is one; returns its exit status."""
        if self._channel is not None:
            self._channel.close()
        status = None
        if self._process is not None:
            if not _ended_by_itself(self._process):
                self._process.kill()
            status = self._process.wait()
        self._process = self._channel = None
        return status


def _ended_by_itself(process: subprocess.Popen[bytes]) -> bool:
    """Its end of the channel is closed a moment before a dying process can be reaped."""
    try:
        process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        return False
    return True


def packed(words: dict[str, Any], *arrays: np.ndarray) -> bytes:
    """One message."""
    message = io.BytesIO()
    message.write(json.dumps(words).encode() + b"\n")
    for array in arrays:
        np.save(message, array, allow_pickle=False)
    return message.getvalue()


def unpacked(message: bytes) -> Message:
    """What `packed` was given."""
    file = io.BytesIO(message)
    words, arrays = json.loads(file.readline()), []
    while file.tell() < len(message):
        arrays.append(np.load(file, allow_pickle=False))
    return words, arrays


def serve(channel: Connection, device: torch.device) -> None:
    """The child: answer until the parent is gone, even in the middle of a computation."""
    questions: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                questions.put(channel.recv_bytes(LONGEST))
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    encoders: dict[tuple[str, str], Encoder] = {}
    while True:
        question, batch = unpacked(questions.get())
        kind, dtype = question["kind"], question["dtype"]
        rows = []
        try:
            if (kind, dtype) not in encoders:
                encoders[kind, dtype] = load_encoder(Path(question["folder"]), kind, DTYPES[dtype], device)
            if batch:
                rows.append(encoders[kind, dtype].embed(Ragged(*batch)).cpu().numpy())
            answer = {"said": "done"}
        except torch.OutOfMemoryError:
            answer = {"said": "out of memory"}
            if device.type == "cuda":
                torch.cuda.empty_cache()
        except VpdistError as error:
            answer = {"said": "refused", "why": str(error)}
        channel.send_bytes(packed(answer, *rows))


def main() -> None:
    """The child's entry: descriptor of the channel, device, threads."""
    descriptor, device, threads = sys.argv[1:]
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the parent decides: its group's signals reach this process as well
    torch.set_num_threads(int(threads))
    with Connection(int(descriptor)) as channel:
        serve(channel, torch.device(device))


if __name__ == "__main__":
    main()
