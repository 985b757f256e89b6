"""The method, stage by stage: reads to token store, plan, layout, embeddings and calls, check, tables.

Every stage runs on every rank and takes its share by itself; what is complete is judged from files.
"""

from __future__ import annotations

import filecmp
import logging
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import vpdist
from vpdist import decide, hdf5, ingest, layout, parts, tables
from vpdist.calls import part_header, part_scores, summary_for_people, write_tables
from vpdist.classifier import Classifier, load_classifier
from vpdist.config import Decisions, Settings
from vpdist.control import Control
from vpdist.embed import UnitWork
from vpdist.encoders import DTYPES, Encoder, load_encoder
from vpdist.environment import limit_library_threads
from vpdist.errors import InputError, StorageError, UsageError, WeightsError
from vpdist.ingest import StoreSummary
from vpdist.parts import PartHeader
from vpdist.plan import Plan, build, longest_first
from vpdist.records import spool_stdin
from vpdist.runfolder import RunFolder
from vpdist.sampler import TokenWeightedDistributedSampler
from vpdist.session import Outcome, Session, conduct
from vpdist.tables import Totals
from vpdist.tokens import NucleotideTokenizer, ProteinTokenizer
from vpdist.weights import encoder_shape, model_fingerprint, resolve_model

log = logging.getLogger(__name__)


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

    @property
    def control(self) -> Control:
        return self.session.control

    @property
    def folder(self) -> RunFolder:
        return self.session.folder

    def stages(self) -> Outcome:
        """The method section."""
        started = time.monotonic()
        with self._stage("start"):
            models = self._resolve_models()
            classifier = load_classifier(self.settings.classifier) if self.settings.classifier else None
            _check_widths(classifier, models, self.settings)
            paths = self._inputs()
            decisions = self._decide(paths, models, classifier)
        limit_library_threads(decisions.threads)
        torch.set_num_threads(decisions.threads)
        with self._stage("ingest"):
            summary = self._ingest(paths, models, decisions)
        with self._stage("plan"):
            plan, plan_digest = self._plan(summary, models, decisions)
        with self._stage("layout"):
            self._lay_out(summary, plan, plan_digest)
        header = part_header(plan_digest, decisions)
        with self._stage("load", planned_units=plan.n_units):
            work = self._load(models, classifier, decisions, plan, plan_digest, header)
        self._embed_until_complete(work)
        with self._stage("tables"):
            totals = self._tables(summary, plan, header)
        self._record_end(started, totals)
        called = self.settings.classifier is not None
        message = summary_for_people(self.folder, totals, time.monotonic() - started, called=called)
        return Outcome(message, totals.failed_fragments)

    @contextmanager
    def _stage(
        self, name: str, planned_tokens: int = 0, planned_units: int = 0, *, shared: bool = False
    ) -> Iterator[None]:
        self.session.progress.stage(name, planned_tokens, planned_units, shared=shared)
        log.info("stage %s", name)
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)

    def _resolve_models(self) -> dict[str, Path]:
        """Folder of each encoder by kind; the first rank of a node downloads, the others wait."""
        wanted = {"nucleotide": self.settings.nucleotide_model, "protein": self.settings.protein_model}
        place = self.control.runtime.place
        folders = {}
        for kind, model in wanted.items():
            if model is None:
                continue
            key = f"model/{place.node}/{kind}"
            if place.local_rank == 0:
                folder = resolve_model(model, offline=self.settings.offline)
                self.control.publish(key, str(folder))
            folders[kind] = Path(self.control.wait_for(key))
            found = encoder_shape(folders[kind]).kind
            if found != kind:
                raise WeightsError(f"--{kind}-model {model}: is a {found} encoder")
        return folders

    def _inputs(self) -> list[Path]:
        """Where each input can be read; rank 0 spools standard input, which only one worker is given."""
        if "-" in self.settings.inputs:
            self.control.from_first("spool", lambda: str(self._spool()))
        return [self.folder.spool if name == "-" else Path(name) for name in self.settings.inputs]

    def _spool(self) -> Path:
        """Keep standard input in the run folder; when resumed, compare what comes now with what came before.

        Raises UsageError when it differs. Nothing at all is taken as "the same again".
        """
        spool = self.folder.spool
        if not spool.exists():
            return spool_stdin(spool)
        again = spool_stdin(spool.with_suffix(".again"))
        try:
            if again.stat().st_size == 0:
                self.session.progress.message("standard input is empty: going on with what was read from it before")
            elif not filecmp.cmp(spool, again, shallow=False):
                raise UsageError(
                    f"{self.folder.path} belongs to another configuration: standard input differs from what was read "
                    f"before; use another folder, or --restart to discard what it holds"
                )
        finally:
            again.unlink()
        return spool

    def _decide(self, paths: list[Path], models: dict[str, Path], classifier: Classifier | None) -> Decisions:
        def make() -> str:
            runtime = self.control.runtime
            decisions = decide.decide(
                self.settings,
                runtime.place,
                runtime.device,
                self.folder,
                inputs=decide.input_identity(self.settings.inputs, paths),
                models={kind: model_fingerprint(folder) for kind, folder in models.items()},
                classifier=classifier.fingerprint if classifier is not None else None,
            )
            self.folder.update_run(
                command=sys.argv,
                versions={
                    "vpdist": vpdist.__version__,
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                },
                host=platform.node(),
                world_size=runtime.world_size,
                launcher_restarts=runtime.place.restart,
                settings=self.settings.to_dict(),
                decisions=decisions.to_dict(),
                tables_from={"classifier": decisions.classifier, "command": "predict"},
                models={kind: str(folder) for kind, folder in models.items()},
                started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            )
            self.session.progress.message(
                f"{runtime.world_size} rank(s) on {decisions.device}, {decisions.dtype}, "
                f"{decisions.token_budget} tokens a batch, {decisions.threads} thread(s) per rank"
            )
            return decisions.to_json()

        decisions = Decisions.from_json(self.control.from_first("decisions", make))
        self.session.begin()
        log.info("decisions: %s", decisions)
        return decisions

    def _ingest(self, paths: list[Path], models: dict[str, Path], decisions: Decisions) -> StoreSummary:
        nucleotide = NucleotideTokenizer(models["nucleotide"]) if "nucleotide" in models else None
        protein = ProteinTokenizer(models["protein"]) if "protein" in models else None
        tokenizers = [tokenizer.fingerprint for tokenizer in (nucleotide, protein) if tokenizer is not None]
        basis = repr((decisions.input, decisions.chunk_length, decisions.min_length, tokenizers))
        have = self.control.from_first("have", lambda: str(ingest.load_summary(self.folder, basis) is not None))
        summary = ingest.load_summary(self.folder, basis) if have == "True" else None
        if summary is not None:
            return summary
        try:
            return ingest.ingest(
                self.control,
                self.folder,
                paths,
                basis,
                chunk_length=decisions.chunk_length,
                min_length=decisions.min_length,
                nucleotide_tokenizer=nucleotide,
                protein_tokenizer=protein,
            )
        except InputError as error:
            if error.path != str(self.folder.spool):
                raise
            raise InputError(error.reason, path="-", record=error.record, position=error.position) from error

    def _plan(self, summary: StoreSummary, models: dict[str, Path], decisions: Decisions) -> tuple[Plan, str]:
        """Rank 0 makes the plan (unless the folder has it), all ranks map it and compare its digest."""
        shapes = {kind: encoder_shape(folder) for kind, folder in models.items()}
        limits = decide.limits(decisions, shapes)
        costs = {kind: decide.cost_of(shape) for kind, shape in shapes.items()}
        basis = f"{summary.digest} {limits} {sorted(costs.items())}"

        def make() -> str:
            try:
                return layout.map_plan(self.folder.plan, basis)[1]
            except hdf5.DamagedFile as reason:
                log.info("a new plan: %s", reason)
            keys = ingest.fragment_keys(self.folder, summary)
            layout.write_plan(
                self.folder.plan, build(keys, limits, costs.get("nucleotide"), costs.get("protein")), basis
            )
            return layout.map_plan(self.folder.plan, basis)[1]

        expected = self.control.from_first("plan", make)
        plan, digest = layout.map_plan(self.folder.plan, basis)
        if digest != expected:
            raise StorageError(f"{self.folder.plan}: rank {self.control.runtime.rank} sees another plan than rank 0")
        if self.control.is_first:
            for warning in _warnings(summary, plan, self.control.runtime.world_size):
                self.session.progress.message(warning)
        return plan, digest

    def _lay_out(self, summary: StoreSummary, plan: Plan, plan_digest: str) -> None:
        blocks, first_fragment = ingest.block_paths(self.folder, summary), summary.first_fragment()

        def make(shard: int) -> None:
            if not layout.shard_is_valid(self.folder.tokens, shard, plan_digest):
                layout.lay_out(self.folder.tokens, shard, plan, plan_digest, blocks, first_fragment)

        self.control.share("layout", len(plan.shard_unit) - 1, make)

    def _load(
        self,
        models: dict[str, Path],
        classifier: Classifier | None,
        decisions: Decisions,
        plan: Plan,
        plan_digest: str,
        header: PartHeader,
    ) -> UnitWork:
        device = self.control.runtime.device
        wide: dict[str, Encoder] = {}

        def in_float32(kind: str) -> Encoder:
            if kind not in wide:
                wide[kind] = load_encoder(models[kind], kind, torch.float32, device)
            return wide[kind]

        encoders: dict[str, Encoder] = {}
        for kind, folder in models.items():
            encoders[kind] = load_encoder(folder, kind, DTYPES[decisions.dtype], device)
            self.control.check()
        return UnitWork(
            plan=plan,
            shards=layout.TokenShards(self.folder.tokens, plan, plan_digest),
            encoders=encoders,
            in_float32=in_float32,
            classifier=classifier,
            header=header,
            token_budget=decisions.token_budget,
            stored=np.dtype(decisions.embedding_dtype),
            folder=self.folder.parts,
        )

    def _embed_until_complete(self, work: UnitWork) -> None:
        """Compute what is left, check every part, and again, until no part is missing or damaged."""
        for attempt in range(3):
            todo = self._publish_remaining(work, attempt)
            if not todo:
                return
            self._embed(work, todo, attempt)
            self._check(work, attempt)
        if self.control.is_first and parts.remaining(self.folder.parts, work.plan, work.header):
            raise StorageError(f"{self.folder.parts}: parts keep getting damaged; is the disk sound?")

    def _publish_remaining(self, work: UnitWork, attempt: int) -> list[int]:
        """Rank 0 lists the folder, before anyone computes; the others take its word."""
        text = self.control.from_first(
            f"todo/{attempt}",
            lambda: " ".join(map(str, parts.remaining(self.folder.parts, work.plan, work.header))),
        )
        return [int(unit) for unit in text.split()]

    def _embed(self, work: UnitWork, todo: list[int], attempt: int) -> None:
        costs = work.plan.unit_cost[todo]
        runtime = self.control.runtime
        if self.settings.schedule == "dynamic":
            tokens = int(work.plan.unit_tokens[todo].sum()) // runtime.world_size
            units: Iterator[int] = self._drawn([todo[i] for i in longest_first(costs).tolist()], attempt)
            n_units = len(todo) // runtime.world_size
        else:
            sampler = TokenWeightedDistributedSampler(todo, costs.tolist(), runtime.world_size, runtime.rank)
            tokens, n_units = int(work.plan.unit_tokens[sampler.mine].sum()), len(sampler)
            units = iter(sampler)
        with self._stage("embed", tokens, n_units, shared=self.settings.schedule == "dynamic"):
            for unit in units:
                work.run(unit, self._report)
            self.control.runtime.keys.add(f"done/embed/{attempt}")
            self.control.wait_until(
                lambda: self.control.runtime.keys.add(f"done/embed/{attempt}", 0) >= runtime.world_size
            )

    def _drawn(self, todo: list[int], attempt: int) -> Iterator[int]:
        while (position := self.control.draw(f"embed/{attempt}")) < len(todo):
            yield todo[position]

    def _report(self, **counters: int) -> None:
        self.session.progress.add(**counters)
        self.control.check()

    def _check(self, work: UnitWork, attempt: int) -> None:
        """Compare the digest of every part, each rank its share; a damaged part is put aside."""

        def check(unit: int) -> None:
            for reason in parts.damaged(self.folder.parts, [unit], work.plan, work.header, full=True).values():
                log.warning("redone: %s", reason)
                parts.part_path(self.folder.parts, unit).unlink(missing_ok=True)

        with self._stage("check", planned_units=work.plan.n_units):
            self.control.share(f"check/{attempt}", work.plan.n_units, check)

    def _tables(self, summary: StoreSummary, plan: Plan, header: PartHeader) -> Totals:
        """Rank 0 writes the tables, the others wait."""
        made: list[Totals] = []

        def make() -> str:
            scores = part_scores(self.folder, plan, header, summary.n_fragments)
            made.append(write_tables(self.folder, summary, scores, self.settings.inputs, self.settings.consensus))
            if self.settings.legacy_output:
                tables.write_legacy(self.folder.path, scores)
            return "1"

        self.control.from_first("tables", make)
        return made[0] if made else Totals()

    def _record_end(self, started: float, totals: Totals) -> None:
        if self.control.is_first:
            self.folder.update_run(
                stage_seconds=self.seconds,
                seconds=round(time.monotonic() - started, 3),
                statuses=dict(totals.statuses),
            )


def _check_widths(classifier: Classifier | None, models: dict[str, Path], settings: Settings) -> None:
    """Raises WeightsError when the classifier was made for other encoders or another chunk length."""
    if classifier is None:
        return
    widths = [encoder_shape(folder).width for folder in models.values()]
    if classifier.input_width != sum(widths):
        raise WeightsError(
            f"{settings.classifier}: takes {classifier.input_width} numbers, "
            f"the encoders give {' + '.join(map(str, widths))}"
        )
    trained_on = classifier.metadata.get("chunk_length")
    if trained_on is not None and int(trained_on) != settings.chunk_length:
        raise WeightsError(
            f"{settings.classifier}: was trained on chunks of {trained_on} bases, "
            f"--chunk-length is {settings.chunk_length}"
        )


def _warnings(summary: StoreSummary, plan: Plan, world_size: int) -> list[str]:
    """What people should know once the plan is there."""
    lines = [
        f"{summary.n_records:,} sequences, {summary.n_chunks:,} chunks, {summary.n_fragments:,} fragments "
        f"({plan.n_rows:,} different) in {plan.n_units:,} units"
    ]
    if summary.n_records == 0:
        lines.append("warning: the input holds no sequences; the tables will have headers only")
    elif summary.n_fragments == 0:
        lines.append("warning: no chunk has an open reading frame; nothing can be scored")
    elif plan.n_units < world_size:
        lines.append(f"{plan.n_units} units for {world_size} ranks: some ranks stay idle")
    if summary.new_names:
        record, name = next(iter(summary.new_names.items()))
        lines.append(
            f"{len(summary.new_names):,} sequences had a name used before and were numbered "
            f"(record {record + 1} is {name})"
        )
    return lines
