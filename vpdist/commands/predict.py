"""The method, stage by stage: token store, plan, tokens in plan order, embeddings and calls, check, tables.

Every stage runs on every rank, which takes its share of the work; what is complete is judged from files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
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
from vpdist.commands.units import Units
from vpdist.config import Settings
from vpdist.models import choose
from vpdist.planning.plan import Plan
from vpdist.results.parts import PartHeader
from vpdist.results.table_files import table_path
from vpdist.results.tables import Totals
from vpdist.results.write_results import summary_text
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.coordination import Control
from vpdist.session.run_session import run_session
from vpdist.session.session import Outcome, Session
from vpdist.storage.run_folder import RunFolder
from vpdist.text import number_of

logger = logging.getLogger(__name__)


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
            Units(self.settings, self.session, work, self._stage).compute(self._note_platforms)
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
        message(f"{summary.counts()} ({plan.n_rows:,} different) in {number_of(plan.n_units, 'unit')}")
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

    def _note_platforms(self, computing: bool) -> None:
        """Record with what the embeddings are computed, and warn where that is not one device and version."""
        device = self.control.runtime.device if computing else None
        told = note_platforms(self.folder, device, self.settings.reuse)
        self.warnings += told
        self.folder.update_run(warnings=self.warnings)
        for warning in told:
            self.session.progress.message(warning)

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
