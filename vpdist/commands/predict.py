"""The method, stage by stage: token store, plan, tokens in plan order, embeddings and calls, check, tables.

Every stage runs on every rank, which takes its share of the work; what is complete is judged from files.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from vpdist.commands import prepare, resolve_config, retry, run_end, run_inputs, told_to_displays
from vpdist.commands.platforms import note_platforms
from vpdist.commands.publishing import Publishing
from vpdist.commands.reuse import earlier_run
from vpdist.commands.run_inputs import RunInputs
from vpdist.commands.short_sequences import refuse_mostly_short
from vpdist.commands.tables_of_run import tables_of_run
from vpdist.commands.threads import use_threads
from vpdist.config import Settings
from vpdist.distributed.device import return_free_memory
from vpdist.embedding.encoder_process import EncoderProcess
from vpdist.embedding.isolated_encoder import isolated_work
from vpdist.embedding.unit_pipeline import Pipeline, UnitWork
from vpdist.embedding.units_in_progress import UnitsInProgress, count_crashes, two_lists_of_units
from vpdist.errors import StorageError
from vpdist.models import choose
from vpdist.planning.plan import COSTS_PER_MFLOP, Plan, longest_first
from vpdist.planning.sampler import TokenWeightedDistributedSampler
from vpdist.results import parts
from vpdist.results.parts import PartHeader
from vpdist.results.table_files import table_path
from vpdist.results.tables import Totals
from vpdist.results.write_results import summary_text
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.coordination import Control
from vpdist.session.run_session import run_session
from vpdist.session.session import Outcome, Session
from vpdist.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times that parts are computed which are found damaged when they are checked."""
CRASHES_UNTIL_ISOLATED = 2
"""A unit during which processes crashed this often is computed in isolation."""


def predict(settings: Settings) -> int:
    """Run `vpdist predict` (or `embed`, without a classifier) on this rank; returns the exit code."""
    return run_session(
        RunFolder(settings.output),
        lambda session: Predict(choose.applied(settings, run_inputs.Waiting(session.control)), session).stages(),
        device=settings.device,
        progress=settings.progress,
        stall_timeout=settings.stall_timeout,
        log_interval=settings.log_interval,
        restart=(lambda control: run_inputs.check_inputs(settings, control)) if settings.restart else None,
    )


@dataclass(slots=True)
class Predict:
    """One run of `predict` on one rank."""

    settings: Settings
    session: Session
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """On rank 0: what people must know of the model that makes the calls."""

    @property
    def control(self) -> Control:
        return self.session.control

    @property
    def folder(self) -> RunFolder:
        return self.session.folder

    def stages(self) -> Outcome:
        """All stages, in order."""
        started = time.monotonic()
        self.session.begin()
        publishing = Publishing.begun(self.settings.publish, self.session)
        with self._stage("start"):
            inputs = run_inputs.resolve_inputs(self.settings, self.session)
            if self.control.is_first:
                self.told = run_inputs.report_inputs(self.settings, self.session, inputs.resolved)
                told_to_displays.describe_command(self.session, self.settings, inputs.resolved)
        use_threads(inputs.resolved.threads)
        with self._stage("ingest"):
            unknown = self.settings.replace_unknown
            summary = prepare.token_store(self.control, self.folder, inputs, replace_unknown=unknown)
        with self._stage("plan"):
            plan, plan_id = prepare.make_plan(self.control, self.folder, summary, inputs)
            if self.control.is_first:
                self._report_plan(summary, plan, inputs)
                retry.carry_over(self.session, summary, plan, plan_id)
            earlier = earlier_run(self.session, self.settings.reuse, summary, plan, plan_id, inputs)
        with self._stage("layout"):
            prepare.check_room(self.control, self.folder, inputs, plan, plan_id)
            prepare.lay_out_tokens(self.control, self.folder, summary, plan, plan_id, inputs)
        with self._stage("load"):
            work = prepare.load_work(
                self.folder, inputs, plan, plan_id, self.control.runtime.device, self.control.raise_if_ending
            )
            bases = prepare.bases_of_rows(self.control, self.folder, summary, plan, plan_id, inputs.classifier)
            work = replace(work, earlier=earlier, row_bases=bases)
            told_to_displays.measure_limit(self.session.progress, work)
        publishing.fetch(work)
        with publishing.beside(work) as work:
            self._embed_until_complete(work)
        with self._stage("tables"):
            totals = self._tables(summary, plan, work.header, inputs)
        return self._end(totals, time.monotonic() - started, publishing)

    @contextmanager
    def _stage(self, name: str, *planned: int, **more: Any) -> Iterator[None]:
        self.session.progress.stage(name, *planned, **more)
        logger.info("stage %s", name)
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)

    def _report_plan(self, summary: StoreSummary, plan: Plan, inputs: RunInputs) -> None:
        """Counts and warnings once the plan is made; warnings are repeated at the end."""
        names, classifier = inputs.resolved.input_names, str(self.settings.classifier)
        message = self.session.progress.message
        message(
            f"{summary.n_records:,} sequences, {summary.n_chunks:,} chunks, {summary.n_fragments:,} fragments "
            f"({plan.n_rows:,} different) in {plan.n_units:,} units"
        )
        self.warnings = summary.warnings(names, self.settings.min_length)
        length = inputs.resolved.chunk_length
        self.warnings += resolve_config.unknown_chunk_length(inputs.classifier, classifier, length)
        settings, shortest = self.settings, inputs.resolved.shortest_chunk
        self.warnings += refuse_mostly_short(
            self.folder, summary, settings.model, shortest, allowed=settings.allow_short
        )
        empty = summary.report.names_without_records(names)
        self.folder.update_run(warnings=self.warnings, files_without_records=empty)
        for warning in self.warnings:
            message(warning)
        if 0 < plan.n_units < self.control.runtime.world_size:
            message(f"{plan.n_units} units for {self.control.runtime.world_size} ranks: some ranks stay idle")

    def _embed_until_complete(self, work: UnitWork) -> None:
        """Compute missing parts and check all, until none is missing or damaged. Raises StorageError."""
        for attempt in range(ATTEMPTS):
            todo, crashing = self._remaining(work, attempt)
            if attempt == 0 and self.control.is_first:
                self._note_platforms(computing=bool(todo or crashing))
            if todo:
                self._embed(work, todo, attempt)
            if crashing:
                self._embed_isolated(work, crashing, attempt)
            if not self._check(work, attempt):
                return
        raise StorageError(f"{self.folder.parts}: parts were damaged {ATTEMPTS} times in a row; check the disk")

    def _note_platforms(self, *, computing: bool) -> None:
        """Record with what the embeddings are computed, and warn where that is not one device and version."""
        device = self.control.runtime.device if computing else None
        told = note_platforms(self.folder, device, self.settings.reuse)
        self.warnings += told
        self.folder.update_run(warnings=self.warnings)
        for warning in told:
            self.session.progress.message(warning)

    def _remaining(self, work: UnitWork, attempt: int) -> tuple[list[int], list[int]]:
        """Units without a valid part, in two lists: those to compute as usual, and those to compute in isolation.

        Rank 0 lists the folder, before any rank computes, and publishes both.
        """

        def make() -> str:
            crashes = count_crashes(self.folder)
            missing = parts.remaining(self.folder.parts, work.plan, work.header)
            left = {*missing, *self._found_damaged(attempt - 1)}
            told_to_displays.describe_work(self.session, work, left, crashes, attempt)
            crashing = [unit for unit in sorted(left) if crashes.get(unit, 0) >= CRASHES_UNTIL_ISOLATED]
            return json.dumps([sorted(left - set(crashing)), crashing])

        return two_lists_of_units(self.control.broadcast_from_rank_0(f"todo/{attempt}", make), work.plan.n_units)

    def _embed(self, work: UnitWork, todo: list[int], attempt: int) -> None:
        """Compute the units of `todo`, dealt by cost beforehand or taken one by one."""
        costs = work.unit_cost[todo]
        runtime = self.control.runtime
        if dynamic := self.settings.schedule == "dynamic":
            tokens, cost = (int(of[todo].sum()) // runtime.world_size for of in (work.unit_tokens, work.unit_cost))
            order = [todo[i] for i in longest_first(costs).tolist()]
            positions = iter(lambda: min(self.control.next_index(f"embed/{attempt}"), len(todo)), len(todo))
            units: Iterator[int] = (order[position] for position in positions)
            n_units = len(todo) // runtime.world_size
        else:
            sampler = TokenWeightedDistributedSampler(todo, costs.tolist(), runtime.world_size, runtime.rank)
            tokens, cost = (int(of[sampler.mine].sum()) for of in (work.unit_tokens, work.unit_cost))
            n_units = len(sampler)
            units = iter(sampler)
        with self._stage("embed", tokens, n_units, planned_work=cost // COSTS_PER_MFLOP, shared=dynamic):
            most = 2 if runtime.device.type == "cuda" else 1
            with (
                UnitsInProgress(self.folder, runtime.rank, most) as in_progress,
                Pipeline(work, self._report) as pipeline,
            ):
                for unit in units:
                    logger.info("unit %d", unit)
                    in_progress.begin(unit)
                    pipeline.run(unit)
            self.control.barrier(f"embed/{attempt}")

    def _embed_isolated(self, work: UnitWork, crashing: list[int], attempt: int) -> None:
        """Compute units that may crash their process in a child process: only rows that crash it fail."""
        runtime = self.control.runtime
        share = len(crashing) / runtime.world_size
        tokens = int(work.unit_tokens[crashing].sum() / runtime.world_size)
        if self.control.is_first:
            self.session.progress.message(
                f"{len(crashing)} units during which {CRASHES_UNTIL_ISOLATED} processes crashed are computed in a "
                f"child process"
            )
        return_free_memory(runtime.device)  # for the child
        limits = (work.header.threads, self.control.raise_if_ending, self.settings.stall_timeout)

        def read(kind: str, load: Callable[[], None]) -> None:
            work.files[kind].read(load)

        with EncoderProcess(runtime.device, *limits, read) as process:
            isolated = isolated_work(work, process)

            def run(position: int) -> None:
                unit = crashing[position]
                logger.info("unit %d, isolated", unit)
                with Pipeline(isolated, self._report) as pipeline:
                    pipeline.run(unit)
                logger.info("unit %d, isolated: %d rows failed", unit, pipeline.failures)

            with self._stage("embed", tokens, math.ceil(share), shared=True):
                self.control.share_dynamically(f"isolated/{attempt}", len(crashing), run)

    def _report(self, **counters: int) -> None:
        self.session.progress.add(**counters)
        self.control.raise_if_ending()

    def _check(self, work: UnitWork, attempt: int) -> int:
        """Check the digests of every part, each rank its share; returns the number of those damaged, which stay in
        their place until `_embed` replaces them."""
        keys, bad = self.control.runtime.keys, f"bad/{attempt}"

        def check(unit: int) -> None:
            for reason in parts.damaged(self.folder.parts, [unit], work.plan, work.header, full=True).values():
                logger.warning("redone: %s", reason)
                self.control.publish(f"{bad}/{keys.add(bad)}", str(unit))
            self.session.progress.add(steps=1)

        with self._stage("check", planned_steps=-(-work.plan.n_units // self.control.runtime.world_size), shared=True):
            self.control.share_dynamically(f"check/{attempt}", work.plan.n_units, check)
        return keys.add(bad, 0)

    def _found_damaged(self, attempt: int) -> list[int]:
        """Units whose parts `_check` has found damaged in this attempt."""
        bad = f"bad/{attempt}"
        n = self.control.runtime.keys.add(bad, 0)
        return [int(self.control.wait_for(f"{bad}/{number}")) for number in range(1, n + 1)]

    def _tables(self, summary: StoreSummary, plan: Plan, header: PartHeader, inputs: RunInputs) -> Totals:
        """Rank 0 writes the tables, the others wait."""
        totals = Totals()

        def make() -> str:
            nonlocal totals
            totals, told = tables_of_run(self.settings, self.session, summary, plan, header, inputs)
            self.told = [*told, *self.told]
            return "1"

        self.control.broadcast_from_rank_0("tables", make)
        return totals

    def _end(self, totals: Totals, seconds: float, publishing: Publishing) -> Outcome:
        """Record times and statuses in run.json; returns the summary."""
        if self.control.is_first:
            statuses, last = dict(totals.statuses), self.session.progress.last_snapshot
            told = {"stage_seconds": self.seconds, "seconds": round(seconds, 3), "statuses": statuses}
            self.folder.update_run(**told, hosts=run_end.hosts(last))
        called = self.settings.classifier is not None
        lines = [*self.warnings, summary_text(self.folder, totals, seconds, called=called)]
        if self.control.is_first:
            lines += run_end.end_lines(table_path(self.folder.path, "sequences"), last, called=called)
        lines += [*self.told, *publishing.told]
        return Outcome("\n".join(lines), totals.failures + publishing.failed)
