"""`vpdist merge`: the runs of all shards of a manifest become the run of the whole manifest.

Enters: finished runs of `--shard 1/n` to `n/n`. Leaves: a run folder whose tables are, byte for byte, those of one run
without `--shard`. Blocks and parts are copied with other numbers, shard after shard; then the tables are made as
`classify` makes them, so that repeated names are numbered, and probabilities and q-values judged, over the whole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vpdist.commands import further_files
from vpdist.commands.input_identity import INPUT_PATHS
from vpdist.commands.manifest_inputs import MANIFEST
from vpdist.commands.platforms import embedded_with, several
from vpdist.commands.run_calibration import kept_judging
from vpdist.commands.run_record import runs_with, this_run
from vpdist.commands.shards import Shard, read_shards
from vpdist.config import ResolvedConfig
from vpdist.errors import UsageError
from vpdist.planning import plan_file
from vpdist.planning.object_plans import joined
from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.carried_parts import carry_block, carry_parts
from vpdist.results.parts import PartHeader, part_header
from vpdist.results.write_results import checked_scores, part_scores, summary_text, write_tables
from vpdist.sequences import store_summary, token_store
from vpdist.sequences.input_report import InputReport
from vpdist.sequences.store_summary import StoreSummary
from vpdist.sequences.unique_names import name_hashes
from vpdist.session.run_session import run_session
from vpdist.session.session import Outcome, Session
from vpdist.storage.atomic_files import read_json, write_json
from vpdist.storage.run_folder import RunFolder

MERGED = "merged"
"""In run.json of a merged run: the folders of its shards."""


def merge(runs: Sequence[Path], output: Path, *, progress: str) -> int:
    """Run `vpdist merge`; returns the exit code: 5 where objects or fragments of a shard have failed.

    Args:
        runs: the run folders of all shards, in any order.
        output: the new run folder; one that an interrupted merge has left is filled again.
        progress: auto, bars, log or none.
    """

    def body(session: Session) -> Outcome:
        outcome = Outcome("")

        def make() -> str:
            nonlocal outcome
            outcome = _merge(session, runs)
            return "1"

        session.control.broadcast_from_rank_0("merged", make)
        return outcome

    return run_session(RunFolder(output), body, device="cpu", progress=progress, stall_timeout=1800.0)


@dataclass(slots=True)
class _Store:
    """The token store of the merged run, as it grows."""

    folder: RunFolder
    n_blocks: int = 0
    n_records: int = 0
    n_inputs: int = 0
    digests: list[str] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    fragments: list[int] = field(default_factory=list)
    blocks_per_object: list[int] = field(default_factory=list)
    report: InputReport = field(default_factory=InputReport)
    n_chunks: int = 0
    n_bases: int = 0

    def add(self, shard: Shard, session: Session) -> None:
        """Copy the blocks of a shard. Raises DamagedFile, StorageError."""
        store_summary.check_digest(shard.folder, shard.summary)
        records = self.n_records
        for path in store_summary.block_paths(shard.folder, shard.summary):
            target = token_store.block_path(self.folder.tokens, self.n_blocks)
            table = carry_block(path, target, index=self.n_blocks, records=records, inputs=self.n_inputs)
            self.digests.append(table.raw_digest)
            self.hashes.append(name_hashes(table.names))
            self.fragments.append(len(table.fragment_chunk))
            self.n_blocks += 1
            session.control.raise_if_ending()
        of_objects = shard.summary.blocks_per_object or (0,) * shard.n_objects
        self.blocks_per_object += of_objects
        self.report.add(shard.summary.report, self.n_inputs)
        self.n_inputs += shard.n_objects
        self.n_records += shard.summary.n_records
        self.n_chunks += shard.summary.n_chunks
        self.n_bases += shard.summary.n_bases

    def finish(self, basis: str) -> StoreSummary:
        """Write names.h5 and store.json."""
        blocks = [token_store.block_path(self.folder.tokens, block) for block in range(self.n_blocks)]
        renamed = store_summary.write_names(self.folder, basis, self.hashes, blocks)
        summary = StoreSummary(
            basis=basis,
            digest=store_summary.store_digest(basis, self.digests),
            n_records=self.n_records,
            n_chunks=self.n_chunks,
            n_bases=self.n_bases,
            fragments_per_block=tuple(self.fragments),
            n_renamed=len(renamed),
            example_renamed=next(iter(renamed.values()), ""),
            report=self.report,
            blocks_per_object=tuple(self.blocks_per_object),
        )
        write_json(self.folder.store, summary.to_dict())
        return summary


def _merge(session: Session, runs: Sequence[Path]) -> Outcome:
    """All of `vpdist merge`, on rank 0. Raises UsageError, StorageError."""
    started = time.monotonic()
    folder = session.folder
    shards = read_shards(runs)
    run = read_json(folder.run)
    if run is not None and MERGED not in run:
        raise UsageError(f"{folder.path}: holds another run; choose a new or empty folder")
    if run is not None and set(run[MERGED]) != set(_paths(shards)):
        raise UsageError(f"{folder.path}: was merged from other runs than these; choose a new or empty folder")
    session.begin()
    resolved = _record(session, shards)
    session.progress.stage("ingest", planned_steps=len(shards))
    store = _Store(folder)
    for shard in shards:
        store.add(shard, session)
        session.progress.add(steps=1)
    basis = xxhash.xxh3_128_hexdigest(" ".join(["merged", *(shard.summary.digest for shard in shards)]).encode())
    summary = store.finish(basis)
    session.progress.stage("check", planned_steps=len(shards))
    plan, header = _plan(folder, shards, summary, resolved)
    _carry_all(session, shards, plan, header)
    session.progress.stage("tables")
    return _tables(session, shards[0], summary, plan, header, resolved, started)


def _paths(shards: Sequence[Shard]) -> list[str]:
    return [str(shard.folder.path.absolute()) for shard in shards]


def _record(session: Session, shards: Sequence[Shard]) -> ResolvedConfig:
    """Write run.json: what the run of the whole manifest would have there, and the shards."""
    first = shards[0]
    resolved = replace(first.resolved, input=tuple(entry for shard in shards for entry in shard.resolved.input))
    settings = first.run.get("settings")
    manifest: dict[str, Any] = first.manifest | {"shard": 1, "of": 1, "first": 0}
    if any("samples" in shard.manifest for shard in shards):
        manifest["samples"] = [
            sample for shard in shards for sample in shard.manifest.get("samples", [""] * shard.n_objects)
        ]
    this = this_run(session.control.runtime)
    kept = {
        name: first.run[name]
        for name in ("model", "models", "tables_model", "plugins", "platform")
        if name in first.run
    }
    used = dict.fromkeys(platform for shard in shards for platform in embedded_with(shard.folder))
    paths = [path for shard in shards for path in shard.run.get(INPUT_PATHS, [])]
    session.folder.update_run(
        **this,
        **kept,
        settings=(settings if isinstance(settings, dict) else {}) | {"shard": None, "output": str(session.folder.path)},
        decisions=resolved.to_dict(),
        platforms=[platform.to_dict() for platform in used],
        **{MANIFEST: manifest, INPUT_PATHS: paths, MERGED: _paths(shards)},
        runs=runs_with(read_json(session.folder.run) or {}, this),
    )
    return resolved


def _plan(
    folder: RunFolder, shards: Sequence[Shard], summary: StoreSummary, resolved: ResolvedConfig
) -> tuple[Plan, PartHeader]:
    """Write the plan of the whole: those of the shards one after the other."""
    plans, first = [], 0
    for shard in shards:
        plans.append((first, shard.plan()[0]))
        first += shard.summary.n_fragments
    n_units = sum(plan.n_units for _, plan in plans)
    whole = joined(plans, np.array([0, n_units] if n_units else [0], np.int64))
    del plans
    plan_file.write_plan(folder.plan, whole, f"{summary.digest} merged")
    plan, plan_id = plan_file.map_plan(folder.plan, n_fragments=summary.n_fragments, store=summary.digest)
    return plan, part_header(plan_id, resolved)


def _carry_all(session: Session, shards: Sequence[Shard], plan: Plan, header: PartHeader) -> None:
    """Copy the parts of all shards. Raises DamagedFile, StorageError."""
    unit = fragment = 0
    for shard in shards:
        shard_plan, shard_header = shard.plan()
        if missing := parts.remaining(shard.folder.parts, shard_plan, shard_header):
            raise UsageError(
                f"{shard.folder.path}: {len(missing)} of {shard_plan.n_units} units are missing or damaged, the first "
                f"is {missing[0]}; give its command again first"
            )
        for old in range(shard_plan.n_units):
            source, target = (shard.folder.parts, shard_plan, shard_header), (session.folder.parts, plan, header)
            carry_parts(source, [(old, unit + old)], target, fragment)
            session.control.raise_if_ending()
        unit += shard_plan.n_units
        fragment += shard.summary.n_fragments
        session.progress.add(steps=1)


def _tables(
    session: Session,
    first: Shard,
    summary: StoreSummary,
    plan: Plan,
    header: PartHeader,
    resolved: ResolvedConfig,
    started: float,
) -> Outcome:
    """Write the tables as the shards' were written. Raises StorageError."""
    folder, ending = session.folder, session.control.raise_if_ending
    scores = part_scores(folder, plan, header, summary.n_fragments, ending)
    if header.classifier:
        scores = checked_scores(scores)
    settings = first.run.get("settings")
    asked = settings if isinstance(settings, dict) else {}
    tables_from = first.run.get("tables_from")
    min_score = float(tables_from.get("min_score", 0.0)) if isinstance(tables_from, dict) else 0.0
    origin = replace(first.origin, plan=header.plan, min_score=min_score)
    further = further_files.of_merge(session, summary, resolved, origin, gzip_tables=asked.get("gzip_tables") is True)
    totals = write_tables(
        folder,
        summary,
        scores,
        resolved.input_names,
        origin,
        ending,
        legacy=asked.get("legacy_output") is True,
        judging=kept_judging(first.folder) if first.origin.calibration else None,
        further=further,
    )
    warnings = [*summary.warnings(resolved.input_names, resolved.min_length), *several(embedded_with(folder))]
    empty = summary.report.names_without_records(resolved.input_names)
    folder.update_run(warnings=warnings, files_without_records=empty, statuses=dict(totals.statuses))
    text = summary_text(folder, totals, time.monotonic() - started, called=bool(origin.classifier))
    return Outcome("\n".join([*warnings, text, *further.told]), totals.failures)
