"""A few stretches of a plan through the real pipeline, in as many processes at once as ranks share this machine.

Ranks side by side slow one another through caches and memory bandwidth (two are 1.93 to 1.97 times as fast as one, see
BENCHMARKS.md), so they are timed side by side: every process computes from when it has loaded the encoders until the
last has timed its stretches.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import psutil
import torch

from vpdist.commands.prepare import load_work
from vpdist.commands.run_inputs import RunInputs
from vpdist.embedding.unit_pipeline import Pipeline, UnitWork
from vpdist.environment import LaunchContext
from vpdist.errors import EXIT_BUG, Interrupted, VpdistError
from vpdist.estimate.workload import cut_out
from vpdist.monitoring.telemetry import most_memory_bytes
from vpdist.planning import plan_file
from vpdist.storage.log_file import output_to_log
from vpdist.storage.run_folder import RunFolder

TIMING_S = 10.0
"""A process stops timing after this, if it has timed LEAST stretches."""
LEAST = 4
POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRequest:
    """What every process does."""

    folder: RunFolder
    """Holds the plan and the shards of the stretches."""
    inputs: RunInputs
    stretches: np.ndarray
    """(n, 2) first and last row + 1 of each; every beginning of the list is spread over the plan."""
    costs: np.ndarray
    """(n,) by the plan's cost model."""
    longest: np.ndarray
    """(k, 2) rows computed at the end, untimed, for the memory they need."""


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
    seconds: float
    """In the encoders and the classifier, of all stretches that were timed."""
    cost: int
    """By the plan's cost model, of the same stretches."""
    batches: int


def measure(request: TimingRequest, ranks: int, raise_if_ending: Callable[[], None]) -> list[Timing]:
    """Carry out the request in so many processes side by side, calling `raise_if_ending` meanwhile.

    Raises WeightsError where an encoder cannot be loaded, StorageError where a part cannot be written, VpdistError
    where a process ends on its own.
    """
    spawn = multiprocessing.get_context("spawn")
    answers, ends = zip(*(spawn.Pipe(duplex=False) for _ in range(ranks)), strict=True)
    arguments = (request, ends, time.monotonic())
    processes = [spawn.Process(target=_answer, args=(rank, *arguments), daemon=True) for rank in range(ranks)]
    try:
        _start(processes)
        while any(process.exitcode is None for process in processes):
            wait([process.sentinel for process in processes], timeout=POLL_S)
            raise_if_ending()
            for rank, process in enumerate(processes):
                if process.exitcode:
                    raise _failure(answers[rank], process.exitcode, request.folder.log(rank))
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
    return [answer.recv() for answer in answers]


def _start(processes: Sequence[SpawnProcess]) -> None:
    """Start them with SIGINT held back until `_answer` makes it end them without a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _failure(answer: Connection, code: int, log: Path) -> VpdistError:
    """The error by which a process ended, or what is known of its end."""
    if answer.poll():
        error: VpdistError = answer.recv()
        return error
    words = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
    return VpdistError(" ".join([f"timing the encoders: a process ended with code {code}", *words]))


def _answer(number: int, request: TimingRequest, ends: Sequence[Connection], started: float) -> None:
    """Send what this process found, or the error by which it ends."""
    import_s = time.monotonic() - started  # this clock is the same for all processes of a machine
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from the terminal; the parent says so
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    ranks = len(ends)
    place = LaunchContext(rank=number, world_size=ranks, local_rank=number, local_world_size=ranks)
    with output_to_log(request.folder.log(number), place):
        try:
            ends[number].send(_timing(request, place, import_s))
        except VpdistError as error:
            ends[number].send(error)
            sys.exit(error.exit_code)
        except Exception:  # noqa: BLE001 - its last line is told by the process that asked
            traceback.print_exc()
            sys.exit(EXIT_BUG)


def _timing(request: TimingRequest, place: LaunchContext, import_s: float) -> Timing:
    resolved = request.inputs.resolved
    torch.set_num_threads(resolved.threads)
    gpu = resolved.device == "cuda"
    device = torch.device("cuda", place.local_rank) if gpu else torch.device("cpu")

    def memory_bytes() -> int:
        return torch.cuda.memory_allocated(device) if gpu else psutil.Process().memory_info().rss

    plan, plan_id = plan_file.map_plan(request.folder.plan)
    plan, units = cut_out(plan, np.concatenate((request.stretches, request.longest)))
    program_bytes = psutil.Process().memory_info().rss
    started = time.perf_counter()
    work = load_work(request.folder, request.inputs, plan, plan_id, device, lambda: None)
    load_s = time.perf_counter() - started
    loaded_bytes = memory_bytes()
    seconds, cost, batches = _timed(request, place, work, units)
    return Timing(
        import_s=import_s,
        load_s=load_s,
        program_bytes=program_bytes,
        encoder_bytes=loaded_bytes - (0 if gpu else program_bytes),
        batch_bytes=max(0, most_memory_bytes(device) - loaded_bytes),
        device_bytes=torch.cuda.get_device_properties(device).total_memory if gpu else 0,
        seconds=seconds,
        cost=cost,
        batches=batches,
    )


def _timed(request: TimingRequest, place: LaunchContext, work: UnitWork, units: list[int]) -> tuple[float, int, int]:
    """Seconds, cost and batches of the stretches that were timed, the first of `units`; the rest are the longest."""
    n = len(request.costs)
    mine = np.roll(np.arange(n), -place.rank)  # no two processes compute the same at once
    counted: Counter[str] = Counter()
    parent = parent_process()
    parts = request.folder.path / f"parts-{place.rank}"
    parts.mkdir()

    def report(**found: int) -> None:
        counted.update(found)
        if parent is None or not parent.is_alive():
            sys.exit(Interrupted.exit_code)

    def reached(step: str) -> bool:
        return len(list(request.folder.path.glob(f"{step}-*"))) == place.world_size

    def reach(step: str) -> None:
        (request.folder.path / f"{step}-{place.rank}").touch()

    # Each part is written before the next stretch begins, so that its time can be told apart.
    with Pipeline(replace(work, folder=parts), report, overlap=False) as pipeline:
        pipeline.run(units[mine[0]])  # whatever the first one takes longer for
        reach("loaded")
        while not reached("loaded"):
            pipeline.run(units[mine[0]])
        counted.clear()
        begun = time.perf_counter()
        cost = 0
        for done, stretch in enumerate(mine):
            if done >= LEAST and time.perf_counter() - begun > TIMING_S:
                break
            pipeline.run(units[stretch])
            cost += int(request.costs[stretch])
        seconds = time.perf_counter() - begun - (counted["load_us"] + counted["write_us"]) / 1e6
        batches = counted["batches"]
        reach("timed")
        again = cycle(mine)
        while not reached("timed"):
            pipeline.run(units[next(again)])
        for unit in units[n:]:
            pipeline.run(unit)
    return seconds, cost, batches
