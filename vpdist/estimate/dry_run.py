"""`vpdist plan`: the stages of a run up to its plan in a temporary folder, and a few timed batches.

What can be counted is made as a run makes it: token store, plan, some parts, the tables (with invented scores). Time is
that of a few batches of the real encoders, scaled by the plan's cost model. Nothing stays, no run folder is touched.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from vpdist import environment
from vpdist.commands import manifest_inputs, prepare, resolve_config, run_inputs
from vpdist.commands.run_inputs import RunInputs
from vpdist.commands.short_sequences import refuse_mostly_short
from vpdist.commands.threads import use_threads
from vpdist.config import ResolvedConfig, Settings
from vpdist.cpu_quota import available_cores
from vpdist.distributed import runtime
from vpdist.encoder_kinds import CLASSIFIED
from vpdist.encoders.shape import encoder_shape
from vpdist.environment import LaunchContext
from vpdist.errors import Interrupted, StorageError, VpdistError
from vpdist.estimate import sample_files, timing_process, virus_files
from vpdist.estimate.forecast import Counts, Disk, Forecast
from vpdist.estimate.measured import counts_of, memory_of, time_of_stages, work_of_ranks
from vpdist.estimate.sample_files import SampledParts, SampledShards, total_bytes
from vpdist.estimate.timing_process import TimingRequest
from vpdist.estimate.workload import Workload
from vpdist.models import choose
from vpdist.monitoring.telemetry import most_memory_bytes
from vpdist.planning import fragment_keys
from vpdist.planning.fragment_order import plan_order, shared_rows
from vpdist.results.classifier import Classifier
from vpdist.results.heads import Heads
from vpdist.results.parts import part_header
from vpdist.results.scores import Scores
from vpdist.results.tables import Totals
from vpdist.results.write_results import write_tables
from vpdist.sequences import token_store
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.coordination import Control
from vpdist.session.progress import Progress
from vpdist.session.session import Session
from vpdist.session.signals import StopRequest
from vpdist.storage.run_folder import TABLES, RunFolder
from vpdist.storage.table_switch import TablesOrigin

STRETCHES = 16
"""Stretches of the plan, at equal steps of its cost, that every process times."""
HIDDEN_WIDTH = 512
"""Of the classifier that is assumed where none is named."""


def forecast(
    settings: Settings,
    ranks: int,
    output: Path | None,
    *,
    timed: bool = True,
    counted: Callable[[RunFolder, StoreSummary, RunInputs], None] = lambda *_: None,
) -> Forecast:
    """The forecast of a run with these settings (with `dry_run`; its output is not used) on so many ranks.

    `output`: where the run folder would be, if known. `timed`: whether batches are computed, for memory and time.
    `counted` is given the token store while it is there. Raises InputError, WeightsError, UsageError as the run would,
    StorageError where `output` or the temporary folder (TMPDIR) cannot be used, Interrupted by a signal.
    """
    settings = choose.applied(settings)
    if output is not None:
        sample_files.free_bytes(output)  # a name that no folder can have is told at once
    try:
        temporary = Path(tempfile.mkdtemp(prefix="vpdist-plan-"))
    except OSError as error:
        raise StorageError(f"no temporary folder can be written, give one in TMPDIR ({error.strerror})") from error
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)

        def clean_up(stopped: Interrupted) -> int:
            shutil.rmtree(temporary, ignore_errors=True)
            return stopped.exit_code

        stop = StopRequest(on_second_signal=clean_up)
        stack.enter_context(stop.installed())
        context = environment.launch_context()
        control = Control(runtime.alone(context, settings.device if settings.models else "cpu"), stop)
        folder = RunFolder(temporary)
        folder.prepare(restart=False)
        control.progress = Progress(control.runtime, settings.progress, None, sys.stderr)
        try:
            session = Session(control, folder, control.progress)
            local_ranks = ranks_here(ranks, context, control.runtime.device)
            result = _DryRun(settings, session, ranks, local_ranks, timed, counted).forecast(output)
            control.progress.close()
        except VpdistError as error:
            control.progress.abort(str(error))
            raise
    return result


def ranks_here(ranks: int, context: LaunchContext, device: torch.device) -> int:
    """The number of ranks that would share this machine: one per device, or on a CPU at most one per core."""
    if device.type == "cuda":
        return min(ranks, torch.cuda.device_count())
    return min(ranks, context.local_world_size if context.launched else available_cores())


@dataclass(slots=True)
class _DryRun:
    """One dry run."""

    settings: Settings
    session: Session
    ranks: int
    local_ranks: int
    timed: bool
    counted: Callable[[RunFolder, StoreSummary, RunInputs], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def control(self) -> Control:
        return self.session.control

    @property
    def folder(self) -> RunFolder:
        return self.session.folder

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.session.progress.stage(name)
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def forecast(self, output: Path | None) -> Forecast:
        """The stages of a run that need no embeddings, and the timing of a few batches."""
        with self._stage("start"):
            inputs = self._gather()
        use_threads(inputs.resolved.threads)
        with self._stage("ingest"):
            summary = prepare.token_store(
                self.control, self.folder, inputs, replace_unknown=self.settings.replace_unknown
            )
        reading_s = self._reading_s(inputs, summary)
        with self._stage("tables"):
            totals = self._tables(summary, inputs.resolved)
        self.counted(self.folder, summary, inputs)
        warnings = manifest_inputs.share_lines(self.settings)
        warnings += summary.warnings(inputs.resolved.input_names, self.settings.min_length)
        model, shortest = self.settings.model, inputs.resolved.shortest_chunk
        warnings += refuse_mostly_short(self.folder, summary, model, shortest, allowed=True)
        if not inputs.models:
            keys = fragment_keys.fragment_keys(self.folder, summary)
            n_rows = len(shared_rows(keys, plan_order(keys))) - 1
            return Forecast(counts=counts_of(summary, totals, n_rows), warnings=warnings)
        with self._stage("plan"):
            plan, plan_id = prepare.make_plan(self.control, self.folder, summary, inputs)
            work = Workload.of(plan, fragment_keys.fragment_keys(self.folder, summary), inputs.models)
        planning_bytes = most_memory_bytes(torch.device("cpu"))
        stretches, costs = work.stretches(STRETCHES, inputs.resolved.token_budget)
        longest = work.longest(inputs.resolved.token_budget) if plan.n_units else stretches
        rows = np.concatenate((stretches, longest))[:, 0]
        with self._stage("layout"):
            shards = sample_files.write_shards(self.folder, summary, plan, plan_id, rows, self.control.raise_if_ending)
        with self._stage("check"):
            header = part_header(plan_id, inputs.resolved)
            sampled = sample_files.write_parts(self.folder.parts, work, header, self.control.raise_if_ending)
        counts, disk = counts_of(summary, totals, plan.n_rows), self._disk(shards, sampled, output)
        disk = replace(disk, virus_files=self._virus_files(counts, inputs.resolved))
        if not (plan.n_units and self.timed):
            nothing = work_of_ranks(work, inputs.resolved, self.ranks, 0.0, 0.0)
            return Forecast(counts=counts, warnings=warnings, work=nothing, disk=disk)
        with self._stage("embed"):
            batches = {"stretches": stretches, "costs": costs, "longest": longest}
            request = TimingRequest(folder=self.folder, inputs=replace(inputs, objects=()), **batches)
            timings = timing_process.measure(request, self.local_ranks, self.control.raise_if_ending)
        seconds_per_cost = sum(timing.seconds for timing in timings) / sum(timing.cost for timing in timings)
        ranks = work_of_ranks(work, inputs.resolved, self.ranks, seconds_per_cost, sampled.write_s)
        return Forecast(
            counts=counts,
            warnings=warnings,
            work=ranks,
            disk=disk,
            memory=memory_of(timings, planning_bytes),
            time=time_of_stages(ranks, timings, self.seconds, reading_s, shards, sampled),
        )

    def _gather(self) -> RunInputs:
        """The inputs of the run; its threads divide this machine among the ranks that share it."""
        context = LaunchContext(world_size=self.local_ranks, local_world_size=self.local_ranks)
        threads = self.settings.threads or resolve_config.default_threads(context, self.control.runtime.device)
        settings = replace(self.settings, threads=threads, output=self.folder.path)
        inputs = run_inputs.resolve_inputs(settings, self.session)
        if inputs.models.keys() >= set(CLASSIFIED) and inputs.classifier is None:
            # size and time do not depend on the classifier's weights
            width = sum(encoder_shape(inputs.models[kind]).width for kind in CLASSIFIED)
            resolved = replace(inputs.resolved, classifier="any")
            inputs = replace(inputs, classifier=Heads.of(Classifier(width, HIDDEN_WIDTH).eval()), resolved=resolved)
        return inputs

    def _reading_s(self, inputs: RunInputs, summary: StoreSummary) -> float:
        """Seconds of reading, which one rank does for all; estimated by reading the first few blocks again."""
        resolved, started = inputs.resolved, time.monotonic()
        replace, rules = self.settings.replace_unknown, (resolved.chunk_length, resolved.min_length)
        failed = {each.file for each in summary.report.failed}
        paths = [path for number, path in enumerate(inputs.paths) if number not in failed]
        n = sum(1 for _ in islice(token_store.read_blocks(paths, *rules, replace_unknown=replace), 4))
        return (time.monotonic() - started) * summary.n_blocks / max(1, n)

    def _tables(self, summary: StoreSummary, resolved: ResolvedConfig) -> Totals:
        """The tables of the run, with invented scores of the usual length."""
        scores = Scores.empty(summary.n_fragments)
        if resolved.classifier:
            scores.virus[:], scores.nonvirus[:] = 0.493123, 0.506877
        origin = TablesOrigin(command="plan", classifier="", consensus=self.settings.consensus, plan="")
        sources, raise_if_ending = resolved.input_names, self.control.raise_if_ending
        return write_tables(self.folder, summary, scores, sources, origin, raise_if_ending, legacy=False)

    def _disk(self, shards: SampledShards, sampled: SampledParts, output: Path | None) -> Disk:
        return Disk(
            parts=sampled.part_bytes,
            tokens=shards.token_bytes,
            tables=total_bytes(*(self.folder.path / name for name in TABLES)),
            where=str(output or ""),
            free=None if output is None else sample_files.free_bytes(output),
        )

    def _virus_files(self, counts: Counts, resolved: ResolvedConfig) -> int:
        return virus_files.most_bytes(self.folder.path, counts, resolved.input_names, called=bool(resolved.classifier))
