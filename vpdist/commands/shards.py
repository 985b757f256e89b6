"""The shards of a manifest that are to be put together: read from their run folders, and compared.

Enters: run folders. Leaves: the shards in the order of the manifest. Promises: every folder that does not belong to the
others is named, and so is every shard that is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vpdist.commands.input_identity import INPUT_PATHS, refuse_large_record
from vpdist.commands.manifest_inputs import recorded_manifest, refuse_too_many
from vpdist.commands.run_calibration import kept_judging
from vpdist.commands.verify import ENDED
from vpdist.config import ResolvedConfig
from vpdist.errors import UsageError
from vpdist.models.bundle import MODEL_FILE_LIMIT
from vpdist.planning import plan_file
from vpdist.planning.plan import Plan
from vpdist.results.embedded_run import recorded_config
from vpdist.results.parts import PartHeader, part_header
from vpdist.sequences import store_summary
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.atomic_files import read_json, read_limited, storage_error
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.table_switch import TablesOrigin, recorded_origin

MOST_NAMED = 10
KEPT_SETTINGS = ("legacy_output", "gzip_tables")


@dataclass(frozen=True, slots=True)
class Shard:
    """One finished run of a share of a manifest."""

    folder: RunFolder
    run: dict[str, Any]
    """The content of run.json."""
    manifest: dict[str, Any]
    """Its record of the manifest, see `manifest_inputs.record`."""
    resolved: ResolvedConfig
    summary: StoreSummary
    origin: TablesOrigin
    calibration: bytes
    """Content of the file by which the tables were judged, b"" where there is none."""

    @property
    def n_objects(self) -> int:
        return len(self.resolved.input)

    def plan(self) -> tuple[Plan, PartHeader]:
        """Plan and header of its parts. Raises DamagedFile."""
        plan, plan_id = plan_file.map_plan(
            self.folder.plan, n_fragments=self.summary.n_fragments, store=self.summary.digest
        )
        return plan, part_header(plan_id, self.resolved)


def read_shards(paths: Sequence[Path]) -> list[Shard]:
    """All shards, compared, in the order of the manifest. Raises UsageError, StorageError."""
    shards = [_read(path) for path in paths]
    _refuse_foreign(shards)
    shards.sort(key=lambda shard: shard.manifest["shard"])
    _refuse_missing(shards)
    return shards


def _read(path: Path) -> Shard:
    folder = RunFolder(path)
    folder.check_holds_run()
    if folder.linked is not None:
        raise UsageError(f"{folder.linked}: is a symbolic link, which leads out of the run")
    run, status = read_json(folder.run) or {}, read_json(folder.status) or {}
    manifest = recorded_manifest(folder, run)
    if manifest is None:
        raise UsageError(f"{path}: was not made with --manifest, so it is no shard of one")
    if "merged" in run:
        raise UsageError(f"{path}: was merged from shards; name those")
    resolved, summary = recorded_config(folder), store_summary.load_summary(folder)
    if status.get("state") not in ENDED or resolved is None or summary is None:
        raise UsageError(f"{path}: is not complete ({status.get('state')}); give its command again first")
    origin = recorded_origin(run)
    try:
        calibration = read_limited(folder.calibration, MODEL_FILE_LIMIT) if origin.calibration else b""
    except OSError as error:
        raise storage_error(folder.calibration, error, "read") from error
    return Shard(folder, run, manifest, resolved, summary, origin, calibration)


def _refuse_foreign(shards: Sequence[Shard]) -> None:
    """Raises UsageError naming the first shard that cannot be put together with the first one, and in what it
    differs."""
    first = shards[0]
    for shard in shards[1:]:
        for what, ours, theirs in _compared(first, shard):
            if ours != theirs:
                raise UsageError(
                    f"{shard.folder.path}: {what} is {_shown(theirs)}, that of {first.folder.path} is {_shown(ours)}: "
                    f"these are no shards of one run"
                )


def _compared(one: Shard, other: Shard) -> Iterable[tuple[str, Any, Any]]:
    for name, what in (
        ("names", "the manifest (a digest of its paths and samples)"),
        ("objects", "the manifest (its objects)"),
    ):
        yield what, one.manifest[name], other.manifest[name]
    yield "n of --shard i/n", one.manifest["of"], other.manifest["of"]
    ours, theirs = (replace(shard.resolved, input=()).to_dict() for shard in (one, other))
    for name in {**ours, **theirs}:
        yield name, ours.get(name), theirs.get(name)
    ours, theirs = one.origin.to_dict(), other.origin.to_dict()
    ours["min_score"], theirs["min_score"] = (_of(shard, "tables_from", "min_score") for shard in (one, other))
    for name in {**ours, **theirs}:
        yield f"{name} of the tables", ours.get(name), theirs.get(name)
    _refuse_earlier_judgement(one, other)
    yield "calibration.json, by which scores were judged,", one.calibration, other.calibration
    for name in KEPT_SETTINGS:
        yield f"--{name.replace('_', '-')}", _of(one, "settings", name), _of(other, "settings", name)


def _refuse_earlier_judgement(one: Shard, other: Shard) -> None:
    """Raises UsageError naming the shard that a version without today's caution has judged, if only that differs;
    StorageError for a calibration.json that is none."""
    if one.calibration == other.calibration or not (one.calibration and other.calibration):
        return
    judged = {shard.folder.path: kept_judging(shard.folder) for shard in (one, other)}
    (earlier, ours), (later, theirs) = sorted(judged.items(), key=lambda each: each[1].cautious)
    if ours != theirs == replace(ours, cautious=True):
        raise UsageError(
            f"{earlier}: an earlier version of vpdist has judged its scores, by other rules than those of {later}; "
            f"give its command again"
        )


def _of(shard: Shard, field: str, name: str) -> Any:
    """A value of an object in run.json."""
    found = shard.run.get(field)
    return found.get(name) if isinstance(found, dict) else None


def _shown(value: Any) -> str:
    text = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_missing(shards: Sequence[Shard]) -> None:
    """`shards` in the order of their numbers. Raises UsageError unless each is there once and they are the manifest."""
    count = shards[0].manifest["of"]
    by_number: dict[int, Shard] = {}
    for shard in shards:
        number = shard.manifest["shard"]
        if number in by_number:
            raise UsageError(f"{shard.folder.path} and {by_number[number].folder.path} are both shard {number}/{count}")
        by_number[number] = shard
    if missing := [number for number in range(1, count + 1) if number not in by_number]:
        named = ", ".join(f"{number}/{count}" for number in missing[:MOST_NAMED])
        more = f" and {len(missing) - MOST_NAMED:,} more" if len(missing) > MOST_NAMED else ""
        raise UsageError(f"{len(missing):,} of {count:,} shards are missing: {named}{more}")
    following = 0
    for shard in shards:
        if shard.manifest["first"] != following:
            raise UsageError(
                f"{shard.folder.path}: begins with object {shard.manifest['first'] + 1:,} of the manifest, not with "
                f"{following + 1:,}: its job saw files of other sizes than the others; declare sizes in the manifest"
            )
        following += shard.n_objects
    refuse_too_many(following)
    refuse_large_record(
        [entry[0] for shard in shards for entry in shard.resolved.input],
        [path for shard in shards for path in shard.run.get(INPUT_PATHS, [])],
        [sample for shard in shards for sample in shard.manifest.get("samples", [])],
    )
    if following != shards[0].manifest["objects"]:
        raise UsageError(f"the shards have {following:,} objects, the manifest {shards[0].manifest['objects']:,}")
