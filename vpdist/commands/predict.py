"""The method, stage by stage: reads to token store, plan, layout, embeddings and calls, check, tables.

Every stage runs on every rank and takes its share by itself; what is complete is judged from files.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from vpdist.commands import prepare, run_inputs
from vpdist.commands.run_inputs import RunInputs
from vpdist.config import Settings
from vpdist.embedding.encoder_process import EncoderProcess
from vpdist.embedding.isolated_encoder import IsolatedEncoder
from vpdist.embedding.unit_pipeline import Pipeline, UnitWork
from vpdist.embedding.units_in_progress import UnitsInProgress, count_crashes
from vpdist.encoders.encoder import Encoder
from vpdist.encoders.shape import encoder_shape
from vpdist.environment import limit_library_threads
from vpdist.errors import StorageError
from vpdist.planning.plan import Plan, longest_first
from vpdist.planning.sampler import TokenWeightedDistributedSampler
from vpdist.results import parts
from vpdist.results.parts import PartHeader, part_header
from vpdist.results.tables import Totals
from vpdist.results.write_results import checked_scores, part_scores, summary_for_people, write_tables
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.coordination import Control
from vpdist.session.run_session import run_session
from vpdist.session.session import Outcome, Session
from vpdist.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)


ATTEMPTS = 3
"""How often parts are computed that turn out damaged when they are checked."""
CRASHES_UNTIL_ISOLATED = 2
"""A unit during which processes died this often is computed isolated."""


def predict(settings: Settings) -> int:
    """Run `vpdist predict` (or `embed`, without a classifier) on this rank; returns the exit code."""
    return run_session(
        RunFolder(settings.output),
        lambda session: _Predict(settings, session).stages(),
        device=settings.device,
        progress=settings.progress,
        stall_timeout=settings.stall_timeout,
        restart=settings.restart,
    )


@dataclass(slots=True)
class _Predict:
    """One run of `predict` on one rank."""

    settings: Settings
    session: Session
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def control(self) -> Control:
        return self.session.control

    @property
    def folder(self) -> RunFolder:
        return self.session.folder

    def stages(self) -> Outcome:
        """The method section."""
        started = time.monotonic()
        self.session.begin()
        with self._stage("start"):
            inputs = run_inputs.resolve_inputs(self.settings, self.session)
            if self.control.is_first:
                run_inputs.record_inputs(self.settings, self.session, inputs)
        limit_library_threads(inputs.resolved.threads)
        torch.set_num_threads(inputs.resolved.threads)
        with self._stage("ingest"):
            summary = prepare.token_store(self.control, self.folder, inputs)
        with self._stage("plan"):
            plan, plan_id = prepare.make_plan(self.control, self.folder, summary, inputs)
            if self.control.is_first:
                self._report_plan(summary, plan)
        with self._stage("layout"):
            self._check_room(inputs, plan, plan_id)
            prepare.lay_out_tokens(self.control, self.folder, summary, plan, plan_id)
        with self._stage("load"):
            work = prepare.load_work(
                self.folder, inputs, plan, plan_id, self.control.runtime.device, self.control.raise_if_ending
            )
        self._embed_until_complete(work)
        with self._stage("tables"):
            totals = self._tables(summary, plan, work.header)
        return self._end(totals, time.monotonic() - started)

    @contextmanager
    def _stage(
        self, name: str, planned_tokens: int = 0, planned_units: int = 0, *, shared: bool = False
    ) -> Iterator[None]:
        self.session.progress.stage(name, planned_tokens, planned_units, shared=shared)
        logger.info("stage %s", name)
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)

    def _report_plan(self, summary: StoreSummary, plan: Plan) -> None:
        """What people should know once the plan is there; warnings come again at the end."""
        report = self.session.progress.message
        report(
            f"{summary.n_records:,} sequences, {summary.n_chunks:,} chunks, {summary.n_fragments:,} fragments "
            f"({plan.n_rows:,} different) in {plan.n_units:,} units"
        )
        if summary.n_records == 0:
            self.warnings.append("warning: the input holds no sequences; the tables have headers only")
        elif summary.n_fragments == 0:
            self.warnings.append("warning: no chunk has an open reading frame; nothing can be scored")
        if summary.n_renamed:
            self.warnings.append(
                f"warning: {summary.n_renamed:,} sequences had a name used before and were numbered, "
                f"such as {summary.example_renamed}"
            )
        for warning in self.warnings:
            report(warning)
        if 0 < plan.n_units < self.control.runtime.world_size:
            report(f"{plan.n_units} units for {self.control.runtime.world_size} ranks: some ranks stay idle")

    def _check_room(self, inputs: RunInputs, plan: Plan, plan_id: str) -> None:
        """Rank 0 compares what is to be written with what the disk has left, before models are loaded."""

        def check() -> str:
            width = sum(encoder_shape(folder).width for folder in inputs.models.values())
            parts.check_room(self.folder.parts, plan, part_header(plan_id, inputs.resolved), width)
            return "1"

        self.control.broadcast_from_rank_0("room", check)

    def _embed_until_complete(self, work: UnitWork) -> None:
        """Compute what is left, check every part, and again, until no part is missing or damaged."""
        for attempt in range(ATTEMPTS):
            todo, crashing = self._remaining(work, attempt)
            if todo:
                self._embed(work, todo, attempt)
            if crashing:
                self._embed_isolated(work, crashing, attempt)
            if not self._check(work, attempt):
                return
        raise StorageError(f"{self.folder.parts}: parts keep getting damaged; is the disk sound?")

    def _remaining(self, work: UnitWork, attempt: int) -> tuple[list[int], list[int]]:
        """Units without a part; and those among them during which processes have died too often, which come last.

        Rank 0 lists the folder, before anyone computes; the others take its word.
        """

        def look() -> str:
            crashes = count_crashes(self.folder)
            left = parts.remaining(self.folder.parts, work.plan, work.header)
            crashing = [unit for unit in left if crashes.get(unit, 0) >= CRASHES_UNTIL_ISOLATED]
            return json.dumps([sorted(set(left) - set(crashing)), crashing])

        todo, crashing = json.loads(self.control.broadcast_from_rank_0(f"todo/{attempt}", look))
        return todo, crashing

    def _embed(self, work: UnitWork, todo: list[int], attempt: int) -> None:
        """Compute the units of `todo`, dealt by cost beforehand or drawn one by one."""
        costs = work.plan.unit_cost[todo]
        runtime = self.control.runtime
        if dynamic := self.settings.schedule == "dynamic":
            tokens = int(work.plan.unit_tokens[todo].sum()) // runtime.world_size
            units: Iterator[int] = self._shared_units([todo[i] for i in longest_first(costs).tolist()], attempt)
            n_units = len(todo) // runtime.world_size
        else:
            sampler = TokenWeightedDistributedSampler(todo, costs.tolist(), runtime.world_size, runtime.rank)
            tokens, n_units = int(work.plan.unit_tokens[sampler.mine].sum()), len(sampler)
            units = iter(sampler)
        with self._stage("embed", tokens, n_units, shared=dynamic):
            at_once = 2 if runtime.device.type == "cuda" else 1
            with (
                UnitsInProgress(self.folder, runtime.rank, at_once) as at_work,
                Pipeline(work, self._report) as pipeline,
            ):
                for unit in units:
                    logger.info("unit %d", unit)
                    at_work.begin(unit)
                    pipeline.run(unit)
            self.control.barrier(f"embed/{attempt}")

    def _embed_isolated(self, work: UnitWork, crashing: list[int], attempt: int) -> None:
        """Compute units that may end the process in a child process, which loses only what cannot be computed."""
        runtime = self.control.runtime
        share = len(crashing) / runtime.world_size
        tokens = int(work.plan.unit_tokens[crashing].sum() / runtime.world_size)
        if self.control.is_first:
            self.session.progress.message(
                f"{len(crashing)} units during which {CRASHES_UNTIL_ISOLATED} processes crashed are computed in a "
                f"process of their own"
            )
        if runtime.device.type == "cuda":
            torch.cuda.empty_cache()  # the child has need of it
        patience_s = self.settings.stall_timeout
        with EncoderProcess(
            runtime.device, work.header.threads, self.control.raise_if_ending, patience_s
        ) as encoder_process:

            def isolated_encoder(kind: str, dtype: torch.dtype) -> IsolatedEncoder:
                return IsolatedEncoder(encoder_process, work.encoders[kind], dtype)

            def float32_fallback(kind: str) -> Encoder:
                encoder = isolated_encoder(kind, torch.float32)
                encoder.load()
                return encoder

            isolated = replace(
                work,
                encoders={kind: isolated_encoder(kind, encoder.dtype) for kind, encoder in work.encoders.items()},
                float32_fallback=float32_fallback,
            )
            with self._stage("embed", tokens, math.ceil(share), shared=True):
                self.control.share_dynamically(
                    f"isolated/{attempt}", len(crashing), lambda i: self._run_isolated(isolated, crashing[i])
                )

    def _run_isolated(self, isolated: UnitWork, unit: int) -> None:
        logger.info("unit %d, isolated", unit)
        failed = isolated.run(unit, self._report)
        logger.info("unit %d, isolated: %d rows failed", unit, failed)

    def _shared_units(self, todo: list[int], attempt: int) -> Iterator[int]:
        while (position := self.control.next_index(f"embed/{attempt}")) < len(todo):
            yield todo[position]

    def _report(self, **counters: int) -> None:
        self.session.progress.add(**counters)
        self.control.raise_if_ending()

    def _check(self, work: UnitWork, attempt: int) -> int:
        """Compare the digest of every part, each rank its share; returns how many were damaged and put aside."""
        keys, bad = self.control.runtime.keys, f"bad/{attempt}"

        def check(unit: int) -> None:
            for reason in parts.damaged(self.folder.parts, [unit], work.plan, work.header, full=True).values():
                logger.warning("redone: %s", reason)
                parts.discard(self.folder.parts, unit)
                keys.add(bad)

        with self._stage("check"):
            self.control.share_dynamically(f"check/{attempt}", work.plan.n_units, check)
        return keys.add(bad, 0)

    def _tables(self, summary: StoreSummary, plan: Plan, header: PartHeader) -> Totals:
        """Rank 0 writes the tables, the others wait."""
        made: list[Totals] = []

        def make() -> str:
            scores = part_scores(self.folder, plan, header, summary.n_fragments, self.control.raise_if_ending)
            made.append(
                write_tables(
                    self.folder,
                    summary,
                    checked_scores(scores) if header.classifier else scores,
                    self.settings.inputs,
                    self.settings.consensus,
                    self.control.raise_if_ending,
                    legacy=self.settings.legacy_output,
                )
            )
            self.folder.update_run(tables_from={"command": "predict", "classifier": header.classifier})
            return "1"

        self.control.broadcast_from_rank_0("tables", make)
        return made[0] if made else Totals()

    def _end(self, totals: Totals, seconds: float) -> Outcome:
        if self.control.is_first:
            self.folder.update_run(
                stage_seconds=self.seconds, seconds=round(seconds, 3), statuses=dict(totals.statuses)
            )
        called = self.settings.classifier is not None
        lines = [*self.warnings, summary_for_people(self.folder, totals, seconds, called=called)]
        return Outcome("\n".join(lines), totals.failed_fragments)
