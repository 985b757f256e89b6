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

from vpdist import materials, parts, prepare
from vpdist.at_work import AtWork, count_deaths
from vpdist.calls import checked_scores, part_header, part_scores, summary_for_people, write_tables
from vpdist.config import Settings
from vpdist.control import Control
from vpdist.embed import Pipeline, UnitWork
from vpdist.encoders import Encoder
from vpdist.environment import limit_library_threads
from vpdist.errors import StorageError
from vpdist.ingest import StoreSummary
from vpdist.materials import Materials
from vpdist.parts import PartHeader
from vpdist.plan import Plan, longest_first
from vpdist.quarantine import Quarantine, QuarantinedEncoder
from vpdist.runfolder import RunFolder
from vpdist.sampler import TokenWeightedDistributedSampler
from vpdist.session import Outcome, Session, conduct
from vpdist.tables import Totals
from vpdist.weights import encoder_shape

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often parts are computed that turn out damaged when they are checked."""
DEATHS = 2
"""A unit during which processes died this often is computed apart."""


def predict(settings: Settings) -> int:
    """Run `vpdist predict` (or `embed`, without a classifier) on this rank; returns the exit code."""
    return conduct(
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
            made_of = materials.gather(self.settings, self.session)
            if self.control.is_first:
                materials.record(self.settings, self.session, made_of)
        limit_library_threads(made_of.decisions.threads)
        torch.set_num_threads(made_of.decisions.threads)
        with self._stage("ingest"):
            summary = prepare.token_store(self.control, self.folder, made_of)
        with self._stage("plan"):
            plan, plan_id = prepare.make_plan(self.control, self.folder, summary, made_of)
            if self.control.is_first:
                self._tell_plan(summary, plan)
        with self._stage("layout"):
            self._check_room(made_of, plan, plan_id)
            prepare.lay_out(self.control, self.folder, summary, plan, plan_id)
        with self._stage("load"):
            work = prepare.load_work(
                self.folder, made_of, plan, plan_id, self.control.runtime.device, self.control.check
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
        log.info("stage %s", name)
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)

    def _tell_plan(self, summary: StoreSummary, plan: Plan) -> None:
        """What people should know once the plan is there; warnings come again at the end."""
        tell = self.session.progress.message
        tell(
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
            tell(warning)
        if 0 < plan.n_units < self.control.runtime.world_size:
            tell(f"{plan.n_units} units for {self.control.runtime.world_size} ranks: some ranks stay idle")

    def _check_room(self, made_of: Materials, plan: Plan, plan_id: str) -> None:
        """Rank 0 compares what is to be written with what the disk has left, before models are loaded."""

        def check() -> str:
            width = sum(encoder_shape(folder).width for folder in made_of.models.values())
            parts.check_room(self.folder.parts, plan, part_header(plan_id, made_of.decisions), width)
            return "1"

        self.control.from_first("room", check)

    def _embed_until_complete(self, work: UnitWork) -> None:
        """Compute what is left, check every part, and again, until no part is missing or damaged."""
        for attempt in range(ATTEMPTS):
            todo, deadly = self._remaining(work, attempt)
            if todo:
                self._embed(work, todo, attempt)
            if deadly:
                self._embed_apart(work, deadly, attempt)
            if not self._check(work, attempt):
                return
        raise StorageError(f"{self.folder.parts}: parts keep getting damaged; is the disk sound?")

    def _remaining(self, work: UnitWork, attempt: int) -> tuple[list[int], list[int]]:
        """Units without a part; and those among them during which processes have died too often, which come last.

        Rank 0 lists the folder, before anyone computes; the others take its word.
        """

        def look() -> str:
            deaths = count_deaths(self.folder)
            left = parts.remaining(self.folder.parts, work.plan, work.header)
            deadly = [unit for unit in left if deaths.get(unit, 0) >= DEATHS]
            return json.dumps([sorted(set(left) - set(deadly)), deadly])

        todo, deadly = json.loads(self.control.from_first(f"todo/{attempt}", look))
        return todo, deadly

    def _embed(self, work: UnitWork, todo: list[int], attempt: int) -> None:
        """Compute the units of `todo`, dealt by cost beforehand or drawn one by one."""
        costs = work.plan.unit_cost[todo]
        runtime = self.control.runtime
        if dynamic := self.settings.schedule == "dynamic":
            tokens = int(work.plan.unit_tokens[todo].sum()) // runtime.world_size
            units: Iterator[int] = self._drawn([todo[i] for i in longest_first(costs).tolist()], attempt)
            n_units = len(todo) // runtime.world_size
        else:
            sampler = TokenWeightedDistributedSampler(todo, costs.tolist(), runtime.world_size, runtime.rank)
            tokens, n_units = int(work.plan.unit_tokens[sampler.mine].sum()), len(sampler)
            units = iter(sampler)
        with self._stage("embed", tokens, n_units, shared=dynamic):
            at_once = 2 if runtime.device.type == "cuda" else 1
            with AtWork(self.folder, runtime.rank, at_once) as at_work, Pipeline(work, self._report) as pipeline:
                for unit in units:
                    log.info("unit %d", unit)
                    at_work.begin(unit)
                    pipeline.run(unit)
            self.control.meet(f"embed/{attempt}")

    def _embed_apart(self, work: UnitWork, deadly: list[int], attempt: int) -> None:
        """Compute units that may end the process in a child process, which loses only what cannot be computed."""
        runtime = self.control.runtime
        share = len(deadly) / runtime.world_size
        tokens = int(work.plan.unit_tokens[deadly].sum() / runtime.world_size)
        if self.control.is_first:
            self.session.progress.message(
                f"{len(deadly)} units during which processes died {DEATHS} times are computed apart"
            )
        if runtime.device.type == "cuda":
            torch.cuda.empty_cache()  # the child has need of it
        patience_s = self.settings.stall_timeout
        with Quarantine(runtime.device, work.header.threads, self.control.check, patience_s) as quarantine:

            def quarantined(kind: str, dtype: torch.dtype) -> QuarantinedEncoder:
                return QuarantinedEncoder(quarantine, work.encoders[kind], dtype)

            def in_float32(kind: str) -> Encoder:
                encoder = quarantined(kind, torch.float32)
                encoder.load()
                return encoder

            apart = replace(
                work,
                encoders={kind: quarantined(kind, encoder.dtype) for kind, encoder in work.encoders.items()},
                in_float32=in_float32,
            )
            with self._stage("embed", tokens, math.ceil(share), shared=True):
                self.control.share(f"apart/{attempt}", len(deadly), lambda i: self._run_apart(apart, deadly[i]))

    def _run_apart(self, apart: UnitWork, unit: int) -> None:
        log.info("unit %d, apart", unit)
        failed = apart.run(unit, self._report)
        log.info("unit %d, apart: %d rows failed", unit, failed)

    def _drawn(self, todo: list[int], attempt: int) -> Iterator[int]:
        while (position := self.control.draw(f"embed/{attempt}")) < len(todo):
            yield todo[position]

    def _report(self, **counters: int) -> None:
        self.session.progress.add(**counters)
        self.control.check()

    def _check(self, work: UnitWork, attempt: int) -> int:
        """Compare the digest of every part, each rank its share; returns how many were damaged and put aside."""
        keys, bad = self.control.runtime.keys, f"bad/{attempt}"

        def check(unit: int) -> None:
            for reason in parts.damaged(self.folder.parts, [unit], work.plan, work.header, full=True).values():
                log.warning("redone: %s", reason)
                parts.discard(self.folder.parts, unit)
                keys.add(bad)

        with self._stage("check"):
            self.control.share(f"check/{attempt}", work.plan.n_units, check)
        return keys.add(bad, 0)

    def _tables(self, summary: StoreSummary, plan: Plan, header: PartHeader) -> Totals:
        """Rank 0 writes the tables, the others wait."""
        made: list[Totals] = []

        def make() -> str:
            scores = part_scores(self.folder, plan, header, summary.n_fragments, self.control.check)
            made.append(
                write_tables(
                    self.folder,
                    summary,
                    checked_scores(scores) if header.classifier else scores,
                    self.settings.inputs,
                    self.settings.consensus,
                    self.control.check,
                    legacy=self.settings.legacy_output,
                )
            )
            self.folder.update_run(tables_from={"command": "predict", "classifier": header.classifier})
            return "1"

        self.control.from_first("tables", make)
        return made[0] if made else Totals()

    def _end(self, totals: Totals, seconds: float) -> Outcome:
        if self.control.is_first:
            self.folder.update_run(
                stage_seconds=self.seconds, seconds=round(seconds, 3), statuses=dict(totals.statuses)
            )
        called = self.settings.classifier is not None
        lines = [*self.warnings, summary_for_people(self.folder, totals, seconds, called=called)]
        return Outcome("\n".join(lines), totals.failed_fragments)
