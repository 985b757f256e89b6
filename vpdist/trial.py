"""A few batches of a plan through the real encoders, timed in as many processes at once as ranks share this machine.

Ranks side by side slow one another through caches and memory bandwidth, so they are timed side by side: every process
loads the encoders, all begin together, and all go on computing until the last has timed its batches. They speak to
the process that asks in lines of JSON; `python -m vpdist.trial` is one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import IO, Any

import psutil

from vpdist.errors import VpdistError, WeightsError

LEAST = 4
"""Batches of each encoder that are timed in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch of a plan, by its number in its unit."""

    kind: str
    """Of its encoder."""
    unit: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one process does."""

    folder: str
    """Where plan.h5 and the shards of the batches' units lie."""
    models: dict[str, str]
    """Folder of each encoder by kind."""
    dtype: str
    device: str
    threads: int
    token_budget: int
    batches: list[Batch]
    """In the order in which they are timed."""
    longest: list[Batch]
    """Run at the end, untimed, for the memory they need."""
    seconds: float
    """When this has passed, and at least LEAST batches of each encoder are through, the rest is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one process found. Memory in bytes."""

    import_s: float
    """From the process's start until all modules were there."""
    load_s: float
    program_bytes: int
    """Memory of the process before it loaded the encoders."""
    encoder_bytes: int
    """What the encoders added, on their device."""
    batch_bytes: int
    """What the batches added at most, on their device."""
    device_bytes: int
    """Memory of the device; 0 on a CPU, where the machine's counts."""
    seconds: dict[str, list[float]]
    """Of each batch that was timed, by kind."""
    costs: dict[str, list[int]]
    """By the plan's cost model, of the same batches."""


def measure(requests: Sequence[Request], check: Callable[[], None]) -> list[Timing]:
    """Carry out the requests side by side, one process each; `check` is called meanwhile and may raise to stop.

    Raises WeightsError where an encoder cannot be loaded, VpdistError where a process ends on its own.
    """
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_Process.started(request)) for request in requests]
        answers: list[dict[str, Any]] = [{} for _ in processes]
        for step in ("load", "time", "end"):
            for process in processes:
                process.send(step)
            for process, answer in zip(processes, answers, strict=True):
                answer |= process.answer(check)
    return [Timing(**answer) for answer in answers]


@dataclass(slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    words: IO[bytes]
    """What it wrote to its standard error."""

    @classmethod
    @contextlib.contextmanager
    def started(cls, request: Request) -> Iterator[_Process]:
        with tempfile.TemporaryFile() as words:
            command = [sys.executable, "-m", "vpdist.trial", json.dumps(asdict(request))]
            popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words)
            try:
                yield cls(popen, words)
            finally:
                popen.kill()
                popen.communicate()

    def send(self, step: str) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; its answer says so
            self.popen.stdin.write(f"{step}\n".encode())
            self.popen.stdin.flush()

    def answer(self, check: Callable[[], None]) -> dict[str, Any]:
        assert self.popen.stdout is not None
        while not select.select([self.popen.stdout], [], [], 0.2)[0]:
            check()
        line = self.popen.stdout.readline()
        if not line:
            code = self.popen.wait()
            self.words.seek(0)
            last = self.words.read().decode(errors="replace").strip().splitlines()[-1:]
            raise VpdistError(f"timing the encoders: a process ended with code {code}: {' '.join(last)}")
        fields: dict[str, Any] = json.loads(line)
        if "refused" in fields:
            raise WeightsError(fields["refused"])
        return fields


# What follows runs in the processes that are timed.


def main() -> None:
    """Answer the steps that arrive on standard input; end when it does."""
    from vpdist import run  # noqa: F401 - the time until here is that of a rank's imports

    import_s = time.time() - psutil.Process().create_time()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not come between the answers
    fields = json.loads(sys.argv[1])
    for name in ("batches", "longest"):
        fields[name] = [Batch(**batch) for batch in fields[name]]
    try:
        for answer in _answers(Request(**fields), import_s):
            answers.write(json.dumps(answer) + "\n")
    except WeightsError as error:
        answers.write(json.dumps({"refused": str(error)}) + "\n")


def _answers(request: Request, import_s: float) -> Iterator[dict[str, Any]]:
    """The answers to load, time and end, each when it is asked for."""
    import torch

    from vpdist import decide, layout
    from vpdist.batches import batches
    from vpdist.encoders import DTYPES, load_encoder
    from vpdist.telemetry import most_memory_bytes
    from vpdist.weights import encoder_shape

    sys.stdin.readline()
    torch.set_num_threads(request.threads)
    device, folder = torch.device(request.device), Path(request.folder)
    gpu = device.type == "cuda"

    def memory_bytes() -> int:
        return torch.cuda.memory_allocated(device) if gpu else psutil.Process().memory_info().rss

    program_bytes = psutil.Process().memory_info().rss
    started = time.perf_counter()
    models = {kind: Path(model) for kind, model in request.models.items()}
    costs = {kind: decide.cost_of(encoder_shape(model)) for kind, model in models.items()}
    encoders = {kind: load_encoder(model, kind, DTYPES[request.dtype], device) for kind, model in models.items()}
    load_s = time.perf_counter() - started
    before_bytes = memory_bytes()
    plan, plan_id = layout.map_plan(folder / "plan.h5")
    shards = layout.TokenShards(folder, plan, plan_id)

    def embed(batch: Batch) -> tuple[float, int]:
        """Seconds and cost of one batch."""
        tokens = shards.unit(batch.unit)[batch.kind]
        rows = list(batches(tokens.lengths, request.token_budget))[batch.number]
        begun = time.perf_counter()
        encoders[batch.kind].embed(tokens.take(rows)).cpu()
        return time.perf_counter() - begun, int(costs[batch.kind].of(tokens.lengths[rows]).sum())

    for kind in encoders:  # whatever the first batch of a process takes longer for
        embed(next(batch for batch in request.batches if batch.kind == kind))
    yield {"import_s": import_s, "load_s": load_s, "program_bytes": program_bytes}

    sys.stdin.readline()
    times: dict[str, list[float]] = {kind: [] for kind in encoders}
    found: dict[str, list[int]] = {kind: [] for kind in encoders}
    until = time.perf_counter() + request.seconds
    for batch in request.batches:
        if time.perf_counter() > until and len(times[batch.kind]) >= LEAST:
            continue
        seconds, cost = embed(batch)
        times[batch.kind].append(seconds)
        found[batch.kind].append(cost)
    yield {"seconds": times, "costs": found}

    again = cycle(request.batches)
    while not select.select([sys.stdin], [], [], 0)[0]:
        embed(next(again))
    for batch in request.longest:
        embed(batch)
    yield {
        "encoder_bytes": before_bytes - (0 if gpu else program_bytes),
        "batch_bytes": max(0, most_memory_bytes(device) - before_bytes),
        "device_bytes": torch.cuda.get_device_properties(device).total_memory if gpu else 0,
    }


if __name__ == "__main__":
    main()
