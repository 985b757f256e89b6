"""Encoders whose work a child process does, for units during which processes keep dying.

`QuarantinedEncoder` stands in for an `Encoder`: the same batches go to the child, which computes them as the rank
itself would, to the bit. Where the child dies, each sequence of that batch is tried alone; the ones that kill it alone
become NaN, which makes their rows failed. The others are computed again with harmless sequences of the same lengths in
the bad ones' places: the batch has its undisturbed shape, on which bits depend. Where that kills the child too, they
keep what they got alone, which may differ in the last digits.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from vpdist.encoder_kinds import KINDS
from vpdist.encoders import DTYPES, Encoder, load_encoder
from vpdist.errors import VpdistError
from vpdist.ragged import Ragged

log = logging.getLogger(__name__)

POLL_S = 0.2
TRIES_ALONE = 2
"""A sequence is bad when the child dies of it alone this often: one kill from outside condemns nothing."""
Message = tuple[dict[str, Any], bytes]


class ChildDied(Exception):  # noqa: N818 - what happened, and never shown to people
    """The child process ended during a request."""


class ChildHung(ChildDied):
    """The child process gave no answer in time, and was killed."""


class Quarantine:
    """The child process: started when first needed, and again after each death."""

    def __init__(self, device: torch.device, threads: int, check: Callable[[], None], patience_s: float) -> None:
        """The child computes on `device` with `threads`; `check` is called while this process waits, and may raise.
        An answer may take `patience_s`."""
        self._arguments = [str(device), str(threads)]
        self._check, self._patience_s = check, patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def load(self, kind: str, dtype: str, folder: Path) -> None:
        """Have the child load an encoder, unless it has it. Raises torch.OutOfMemoryError, VpdistError."""
        try:
            answer, _ = self._ask({"kind": kind, "dtype": dtype, "folder": str(folder), "ask": "load"})
        except ChildDied as death:
            raise VpdistError(f"{death} while loading {folder}: is there memory for a second copy?") from death
        if answer["said"] == "out of memory":
            raise torch.OutOfMemoryError(f"in the child process, while loading {folder}")

    def embed(self, kind: str, dtype: str, folder: Path, batch: Ragged) -> np.ndarray:
        """(B, width) float32. Raises ChildDied, torch.OutOfMemoryError, VpdistError when the encoder does not load."""
        what = {"kind": kind, "dtype": dtype, "folder": str(folder)}
        try:
            self.load(kind, dtype, folder)
        except torch.OutOfMemoryError as error:  # no fault of the batch's
            raise VpdistError(f"no memory for a second copy of {folder}, which computes units apart") from error
        tokens, offsets = (np.ascontiguousarray(array) for array in (batch.flat, batch.offsets))
        shapes = {"tokens": [str(tokens.dtype), len(tokens)], "offsets": [str(offsets.dtype), len(offsets)]}
        answer, payload = self._ask({**what, "ask": "embed", **shapes}, tokens.tobytes() + offsets.tobytes())
        if answer["said"] == "out of memory":
            raise torch.OutOfMemoryError("in the child process")
        return np.frombuffer(payload, dtype=np.float32).reshape(len(batch), -1).copy()

    def _ask(self, question: dict[str, Any], payload: bytes = b"") -> Message:
        channel = self._channel or self._start()
        until = time.monotonic() + self._patience_s

        def check() -> None:
            self._check()
            if time.monotonic() > until:
                raise ChildHung(f"the child process gave no answer for {self._patience_s:.0f} s")

        try:
            send(channel, question, payload)
            answer, payload = receive(channel, check)
        except ChildHung:
            self._end()
            raise
        except (EOFError, OSError) as error:
            status = self._end()
            raise ChildDied(f"the child process ended with status {status}") from error
        if answer["said"] == "refused":
            raise VpdistError(answer["why"])
        return answer, payload

    def _start(self) -> socket.socket:
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(POLL_S)
        with theirs:
            command = [sys.executable, "-m", "vpdist.quarantine", str(theirs.fileno()), *self._arguments]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
        log.info("computing apart in process %d", self._process.pid)
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


class QuarantinedEncoder(Encoder):
    """An encoder of a quarantine's child. It has no model here; what it returns lies on the CPU."""

    def __init__(self, quarantine: Quarantine, encoder: Encoder, dtype: torch.dtype) -> None:
        """Like `encoder`, in `dtype`."""
        self.kind, self.width, self.folder, self.dtype = encoder.kind, encoder.width, encoder.folder, dtype
        self.vocabulary, self.granule = encoder.vocabulary, encoder.granule
        self.device = torch.device("cpu")
        self._quarantine = quarantine
        self._dtype_name = next(name for name, each in DTYPES.items() if each == dtype)

    def embed(self, tokens: Ragged) -> torch.Tensor:
        """(B, width) float32; NaN where a sequence ends any process that computes it. Raises as `Quarantine.embed`."""
        n = len(tokens)
        try:
            return torch.from_numpy(self._ask(tokens))
        except ChildDied as death:
            log.warning("%s at %d %s sequences", death, n, self.kind)
        alone = [
            self._alone(tokens.between(row, row + 1), TRIES_ALONE if n > 1 else TRIES_ALONE - 1) for row in range(n)
        ]
        bad = [row for row in range(n) if alone[row] is None]
        rows_BD = np.full((n, self.width), np.nan, dtype=np.float32)
        good = [row for row in range(n) if row not in bad]
        if good:
            try:
                rows_BD[good] = self._ask(with_stand_ins(tokens, bad, good[0], KINDS[self.kind].not_pooled))[good]
            except ChildDied as death:
                log.warning("%s again: the %d good sequences keep what they got alone", death, len(good))
                rows_BD[good] = [alone[row] for row in good]
        return torch.from_numpy(rows_BD)

    def load(self) -> None:
        """Raises torch.OutOfMemoryError, VpdistError where the child cannot load it."""
        self._quarantine.load(self.kind, self._dtype_name, self.folder)

    def _ask(self, batch: Ragged) -> np.ndarray:
        return self._quarantine.embed(self.kind, self._dtype_name, self.folder, batch)

    def _alone(self, sequence: Ragged, tries: int) -> np.ndarray | None:
        """(width,) of one sequence, None where it is bad or fits nowhere."""
        for _ in range(tries):
            try:
                return np.asarray(self._ask(sequence)[0])
            except ChildDied as death:
                log.warning("%s at one %s sequence of %d tokens", death, self.kind, len(sequence.flat))
                if isinstance(death, ChildHung):
                    break  # nobody from outside did that
            except torch.OutOfMemoryError:
                break
        log.error("set aside: a %s sequence of %d tokens", self.kind, len(sequence.flat))
        return None


def with_stand_ins(batch: Ragged, bad: list[int], good: int, kept: int) -> Ragged:
    """The batch with the tokens of bad rows, but `kept` ones at both ends, replaced by one token of a good row."""
    replaced = Ragged(batch.flat.copy(), batch.offsets)
    filler = batch[good][kept]
    for row in bad:
        replaced[row][kept : len(replaced[row]) - kept] = filler
    return replaced


HEADER = struct.Struct("!II")


def send(channel: socket.socket, words: dict[str, Any], payload: bytes = b"") -> None:
    """Send one message: JSON and bytes."""
    text = json.dumps(words).encode()
    view = memoryview(HEADER.pack(len(text), len(payload)) + text + payload)
    while view:
        try:
            view = view[channel.send(view) :]
        except TimeoutError:  # the reader at the other end is never busy for long
            continue


def receive(channel: socket.socket, check: Callable[[], None]) -> Message:
    """Receive one message, calling `check` while there is nothing. Raises EOFError when the other end is gone."""
    n_words, n_payload = HEADER.unpack(_receive(channel, HEADER.size, check))
    words = json.loads(_receive(channel, n_words, check))
    return words, _receive(channel, n_payload, check)


def _receive(channel: socket.socket, size: int, check: Callable[[], None]) -> bytes:
    received = bytearray()
    while len(received) < size:
        try:
            piece = channel.recv(min(size - len(received), 1 << 20))
        except TimeoutError:
            check()
            continue
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)


def serve(channel: socket.socket, device: torch.device) -> None:
    """The child: answer until the parent is gone, even in the middle of a computation."""
    questions: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                questions.put(receive(channel, lambda: None))
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    encoders: dict[tuple[str, str], Encoder] = {}
    while True:
        question, payload = questions.get()
        key = question["kind"], question["dtype"]
        try:
            if key not in encoders:
                encoders[key] = load_encoder(Path(question["folder"]), key[0], DTYPES[key[1]], device)
            answer: dict[str, Any] = {"said": "done"}
            rows = b""
            if question["ask"] == "embed":
                rows = encoders[key].embed(_unpack(question, payload)).cpu().numpy().tobytes()
        except torch.OutOfMemoryError:
            answer, rows = {"said": "out of memory"}, b""
            if device.type == "cuda":
                torch.cuda.empty_cache()
        except VpdistError as error:
            answer, rows = {"said": "refused", "why": str(error)}, b""
        send(channel, answer, rows)


def _unpack(question: dict[str, Any], payload: bytes) -> Ragged:
    (token_type, n_tokens), (offset_type, n_offsets) = question["tokens"], question["offsets"]
    tokens = np.frombuffer(payload, dtype=token_type, count=int(n_tokens))
    return Ragged(tokens, np.frombuffer(payload, dtype=offset_type, count=int(n_offsets), offset=tokens.nbytes))


def main() -> None:
    """The child's entry: descriptor of the channel, device, threads."""
    descriptor, device, threads = sys.argv[1:]
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the parent decides: its group's signals reach this process as well
    torch.set_num_threads(int(threads))
    with socket.socket(fileno=int(descriptor)) as channel:
        serve(channel, torch.device(device))


if __name__ == "__main__":
    main()
