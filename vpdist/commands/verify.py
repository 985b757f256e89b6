"""`vpdist verify`: whether every file of a run is whole and belongs to this run, and the tables are those of its parts.

Checked in this order: the run's state, token store, plan, token shards, parts, tables. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpdist.commands import resolve_config
from vpdist.commands.run_calibration import kept_judging
from vpdist.config import ResolvedConfig
from vpdist.errors import StorageError, UsageError
from vpdist.planning import plan_file, token_shards
from vpdist.planning.plan import Plan
from vpdist.results import check_tables, parts, write_results
from vpdist.results.parts import PartHeader, part_header
from vpdist.sequences import check_store, store_summary
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.atomic_files import read_json
from vpdist.storage.hdf5_files import DamagedFile
from vpdist.storage.run_folder import CALL_FILES, LEGACY, RunFolder
from vpdist.storage.table_switch import (
    NAMES,
    SWITCHING,
    FileDigest,
    TablesOrigin,
    TablesRecord,
    recorded_origin,
    recorded_tables,
)

ENDED = ("done", "done_with_failures")
"""The states of a run whose tables are complete."""


def problems(path: Path) -> Iterator[str]:
    """The problems of the run in `path`, a line each; none if it is complete and undamaged.

    Raises UsageError where there is no run, StorageError where its run.json or status.json cannot be read.
    """
    folder = RunFolder(path)
    recorded = resolve_config.recorded_config(folder)
    if recorded is None:
        raise UsageError(f"{path} holds no run (there is no run.json)")
    if folder.linked is not None:
        yield f"{folder.linked}: is a symbolic link, which leads out of the run"
        return
    yield from _of_state(folder)
    summary = store_summary.load_summary(folder)
    if summary is None:
        yield f"{folder.store}: is missing or damaged: the run is not complete"
        return
    found = list(check_store.problems(folder, summary))
    yield from found
    try:
        plan, plan_id = plan_file.map_plan(folder.plan, n_fragments=summary.n_fragments, store=summary.digest)
    except DamagedFile as error:
        yield str(error)
        return
    if "merged" not in (read_json(folder.run) or {}):  # a merged run needs no tokens
        yield from _of_shards(folder, plan, plan_id)
    header = part_header(plan_id, recorded)
    damaged = parts.damaged(folder.parts, range(plan.n_units), plan, header, full=True)
    yield from damaged.values()
    yield from _of_tables(folder, recorded, summary, None if found or damaged else plan, header)


def _of_state(folder: RunFolder) -> Iterator[str]:
    status = read_json(folder.status)
    state = None if status is None else status.get("state")
    if state not in ENDED:
        ended = " or ".join(ENDED)
        yield f"{folder.status}: the state is {state!r}, not {ended}: let it end, or resume it by its first command"


def _of_shards(folder: RunFolder, plan: Plan, plan_id: str) -> Iterator[str]:
    for shard in range(len(plan.shard_unit) - 1):
        if not token_shards.shard_is_valid(folder.tokens, shard, plan, plan_id, {}):
            path = token_shards.shard_path(folder.tokens, shard)
            yield f"{path}: is missing, damaged, or belongs to another plan"


def _of_tables(
    folder: RunFolder, recorded: ResolvedConfig, summary: StoreSummary, plan: Plan | None, header: PartHeader
) -> Iterator[str]:
    """Problems of the tables. `plan`: None where the tables cannot be made again, because what they come from is
    damaged."""
    record = recorded_tables(folder)
    if record is not None and record.state == SWITCHING:
        yield (
            f"{folder.run}: a command was killed while it replaced the tables; the next `vpdist predict` or `classify` "
            f"of this folder finishes that"
        )
        return
    if record is not None and record.plan != header.plan:
        yield f"{folder.run}: the tables come from another plan, so its record belongs to another run"
    wrong = {} if record is None else dict(_other_digests(folder, record))
    if plan is not None and (record is None or wrong):
        made_again = list(_differences(folder, recorded, summary, plan, header))
        yield from made_again
        wrong = {name: text for name, text in wrong.items() if not any(name in each for each in made_again)}
    elif record is None:
        yield f"{folder.path}: the tables cannot be checked, because what they were made from is damaged"
    yield from wrong.values()


def _other_digests(folder: RunFolder, record: TablesRecord) -> Iterator[tuple[str, str]]:
    """Each table that is not the one that run.json describes, and what is wrong with it."""
    for name in NAMES:
        path, expected = folder.path / name, record.files.get(name)
        if expected is None:
            if name not in CALL_FILES and (path.exists() or path.is_symlink()):
                yield name, f"{path}: does not belong to the tables that run.json describes"
            continue
        try:
            found = FileDigest.of(path)
        except OSError as error:
            yield name, f"{path}: cannot be read: {error.strerror or error}"
            continue
        if found != expected:
            yield name, f"{path}: is not the file that was written: {found}, but run.json has {expected}"


def _differences(
    folder: RunFolder, recorded: ResolvedConfig, summary: StoreSummary, plan: Plan, header: PartHeader
) -> Iterator[str]:
    """How the tables differ from those that parts and token store give."""
    run = read_json(folder.run) or {}
    origin = recorded_origin(run)
    try:
        judging = kept_judging(folder) if origin.calibration else None
    except StorageError as error:
        yield f"{error}; so the tables cannot be made again"
        return
    known = origin.classifier in ("", header.classifier) and origin.summary == header.summary
    scores = write_results.part_scores(folder, plan, header, summary.n_fragments, lambda: None)
    if not known:
        scores = check_tables.unknown_scores(scores)
    yield from check_tables.problems(
        folder,
        summary,
        scores,
        [name for name, *_ in recorded.input],
        origin.consensus,
        known=known,
        legacy=_has_legacy_files(folder, run, origin),
        shortest_chunk=origin.shortest_chunk,
        judging=judging,
    )


def _has_legacy_files(folder: RunFolder, run: dict[str, Any], origin: TablesOrigin) -> bool:
    """Whether the original's two files are there, or must be."""
    settings = run.get("settings")
    asked = isinstance(settings, dict) and settings.get("legacy_output") is True and origin.command != "classify"
    return asked or any((folder.path / name).exists() for name in LEGACY)


def verify(path: Path) -> list[str]:
    """All problems of the run in `path`. Raises UsageError, StorageError."""
    try:
        return list(problems(path))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
