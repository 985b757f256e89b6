"""Times a few stretches of a plan in the real pipeline, in as many processes as ranks share this machine.

Ranks side by side slow one another through caches and memory bandwidth (two are 1.93 to 1.97 times as fast as one, see
BENCHMARKS.md). So every process computes from when it has loaded the encoders until the last has timed its stretches.
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
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import numpy as np
import psutil
import torch

from vpdist.commands.prepare import load_work
from vpdist.commands.run_inputs import RunInputs
from vpdist.distributed.device import make_current
from vpdist.embedding.unit_pipeline import Pipeline, UnitWork
from vpdist.environment import LaunchContext, current_folder_off_path
from vpdist.errors import EXIT_BUG, Interrupted, VpdistError, limit_reached
from vpdist.estimate.workload import cut_out
from vpdist.monitoring.telemetry import most_memory_bytes
from vpdist.planning import plan_file
from vpdist.storage.log_file import output_to_log
from vpdist.storage.run_folder import RunFolder

TIMING_S = 10.0
"""A process stops timing after this, once it has timed LEAST stretches."""
LEAST = 4
POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRequest:
    """The work of every process."""

    folder: RunFolder
    """With the plan and the shards of the stretches."""
    inputs: RunInputs
    """Without the objects of a manifest: they have been read, and hold what cannot be sent to a process."""
    stretches: np.ndarray
    """(n, 2) first and last row + 1 of each; every prefix of the list is spread over the plan."""
    costs: np.ndarray
    """(n,) by the plan's cost model."""
    longest: np.ndarray
    """(k, 2) stretches computed at the end, untimed, for the memory they need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The times and memory (bytes) of one process."""

    import_s: float
    """From the process's start until all modules were imported."""
    load_s: float
    program_bytes: int
    """Memory of the process before it loaded the encoders."""
    encoder_bytes: int
    """Added by the encoders, on their device."""
    batch_bytes: int
    """Added by the batches at most, on their device."""
    device_bytes: int
    """Memory of the device; 0 on a CPU, where the machine's counts."""
    seconds: float
    """In the encoders and the classifier, for all stretches that were timed."""
    cost: int
    """By the plan's cost model, of the same stretches."""
    batches: int


def measure(request: TimingRequest, ranks: int, raise_if_ending: Callable[[], None]) -> list[Timing]:
    """Carry out the request in this many processes side by side, calling `raise_if_ending` meanwhile.

    Raises WeightsError where an encoder cannot be loaded, StorageError where a part cannot be written, VpdistError
    where a process ends on its own.
    """
    spawn = multiprocessing.get_context("spawn")
    receivers, senders = zip(*(spawn.Pipe(duplex=False) for _ in range(ranks)), strict=True)
    arguments = (request, senders, time.monotonic())
    processes = [spawn.Process(target=_run, args=(rank, *arguments), daemon=True) for rank in range(ranks)]
    with current_folder_off_path():
        resource_tracker.ensure_running()  # starting it unblocks SIGINT
    # SIGINT is blocked until `_run` makes it end the process without a traceback
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with current_folder_off_path():
            for process in processes:
                process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _timings(request, processes, receivers, raise_if_ending)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _timings(
    request: TimingRequest,
    processes: Sequence[SpawnProcess],
    receivers: Sequence[Connection],
    raise_if_ending: Callable[[], None],
) -> list[Timing]:
    """What each process sends, in order. Raises the error that one sends, or VpdistError where one ends without."""
    waiting, timings = dict(enumerate(receivers)), dict[int, Timing]()
    while waiting:
        wait([*waiting.values(), *(processes[rank].sentinel for rank in waiting)], timeout=POLL_S)
        raise_if_ending()
        for rank, receiver in list(waiting.items()):
            code = processes[rank].exitcode  # before it is known whether there is a message, so that none is missed
            if receiver.poll():
                received = receiver.recv()
                if isinstance(received, VpdistError):
                    raise received
                timings[rank] = received
                del waiting[rank]
            elif code is not None:
                log = request.folder.log(rank)
                last_line = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
                raise VpdistError(" ".join([f"timing the encoders: a process ended with code {code}", *last_line]))
    return [timings[rank] for rank in range(len(processes))]


def _run(rank: int, request: TimingRequest, senders: Sequence[Connection], started: float) -> None:
    """The process: sends its Timing, or the error by which it ends."""
    import_s = time.monotonic() - started  # this clock is the same for all processes of a machine
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from the terminal; the parent reports it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    ranks = len(senders)
    context = LaunchContext(rank=rank, world_size=ranks, local_rank=rank, local_world_size=ranks)
    with output_to_log(request.folder.log(rank), context):
        try:
            senders[rank].send(_timing(request, context, import_s))
        except Exception as error:  # noqa: BLE001 - the parent reports its last line
            told = error if isinstance(error, VpdistError) else limit_reached(error)
            if told is None:
                traceback.print_exc()
                sys.exit(EXIT_BUG)
            senders[rank].send(told)
            sys.exit(told.exit_code)


def _timing(request: TimingRequest, context: LaunchContext, import_s: float) -> Timing:
    resolved = request.inputs.resolved
    torch.set_num_threads(resolved.threads)
    gpu = resolved.device == "cuda"
    device = torch.device("cuda", context.local_rank) if gpu else torch.device("cpu")
    make_current(device)

    def memory_bytes() -> int:
        return torch.cuda.memory_allocated(device) if gpu else psutil.Process().memory_info().rss

    plan, plan_id = plan_file.map_plan(request.folder.plan)
    plan, units = cut_out(plan, np.concatenate((request.stretches, request.longest)))
    program_bytes = psutil.Process().memory_info().rss
    started = time.perf_counter()
    work = load_work(request.folder, request.inputs, plan, plan_id, device, lambda: None)
    if work.classifier is not None and work.classifier.needs_bases:
        work = replace(work, row_bases=np.full(plan.n_rows, request.inputs.resolved.chunk_length, np.int32))
    load_s = time.perf_counter() - started
    loaded_bytes = memory_bytes()
    seconds, cost, batches = _timed(request, context, work, units)
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


def _timed(request: TimingRequest, context: LaunchContext, work: UnitWork, units: list[int]) -> tuple[float, int, int]:
    """Seconds, cost and batches of the stretches that were timed, the first of `units`; the rest are the longest."""
    n = len(request.costs)
    mine = np.roll(np.arange(n), -context.rank)  # no two processes compute the same one at the same time
    counted: Counter[str] = Counter()
    parent = parent_process()
    parts = request.folder.path / f"parts-{context.rank}"
    parts.mkdir()

    def report(**counters: int) -> None:
        counted.update(counters)
        if parent is None or not parent.is_alive():
            sys.exit(Interrupted.exit_code)

    def mark(step: str) -> None:
        (request.folder.path / f"{step}-{context.rank}").touch()

    def marked_by_all(step: str) -> bool:
        return len(list(request.folder.path.glob(f"{step}-*"))) == context.world_size

    # Each part is written before the next stretch begins, so that the time to write can be subtracted.
    with Pipeline(replace(work, folder=parts), report, overlap=False) as pipeline:
        pipeline.run(units[mine[0]])  # the first one takes longer
        mark("loaded")
        while not marked_by_all("loaded"):
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
        mark("timed")
        again = cycle(mine)
        while not marked_by_all("timed"):
            pipeline.run(units[next(again)])
        for unit in units[n:]:
            pipeline.run(unit)
    return seconds, cost, batches
