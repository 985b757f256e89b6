"""`--manifest`: the objects of a run, what is known of each before it is read, and what run.json keeps of the manifest.

Enters: the manifest on rank 0. Leaves: identities as other inputs have them, and the objects to read. An object that
cannot be opened, or has another size than declared, is one that fails; it ends no run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from vpdist.commands.input_identity import (
    file_identities,
    input_identity,
    input_paths,
    refuse_changed_input,
    refuse_large_record,
)
from vpdist.config import InputIdentity, Settings
from vpdist.errors import InputError, StorageError, UsageError
from vpdist.option_declarations import parsed_shard
from vpdist.results.embedded_run import recorded_config
from vpdist.results.object_rows import ObjectRow
from vpdist.sequences import store_summary
from vpdist.sequences.manifest import Manifest, ManifestEntry, read_manifest, shard_bounds, shard_of, sizes, stretch
from vpdist.sequences.read_objects import ReadObject, told
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.atomic_files import read_json
from vpdist.storage.object_stores import Retries
from vpdist.storage.run_folder import RunFolder
from vpdist.text import bytes_text
from vpdist.urls import InputPath

MANIFEST = "manifest"
"""Field of run.json, see `record`."""
MOST_OBJECTS = 1 << 17
"""run.json names every object several times, see `refuse_large_record`."""
FAILED = "failed: "
"""Begins the digest in the identity of an object that could not be looked at; its size and time are 0."""


class ListedObjects(NamedTuple):
    """The objects of a run, on rank 0."""

    found: InputIdentity
    objects: tuple[ReadObject, ...]
    paths: list[InputPath]


def read_share(settings: Settings) -> Manifest:
    """The manifest, or the share of it that --shard names: the one that the run folder's run has, which it keeps when
    files have other sizes than they had. Raises InputError, UsageError, StorageError."""
    if settings.manifest is None:
        raise ValueError("no manifest is given")
    manifest = read_manifest(settings.manifest)
    share = manifest if settings.shard is None else _share_of_run(settings, manifest, *parsed_shard(settings.shard))
    refuse_too_many(len(share.entries))
    names = [entry.path for entry in share.entries]
    refuse_large_record(names, input_paths(names, [entry.input for entry in share.entries]), share.samples)
    if settings.offline and (remote := next((entry for entry in share.entries if entry.is_url), None)) is not None:
        raise UsageError(f"{settings.manifest}, line {remote.line}: --offline reads no objects; download it first")
    return share


def paths(settings: Settings) -> list[InputPath]:
    """The manifest and its objects; nothing without one. Raises InputError, UsageError, StorageError."""
    if settings.manifest is None:
        return []
    return [settings.manifest, *(entry.input for entry in read_share(settings).entries)]


def _share_of_run(settings: Settings, manifest: Manifest, number: int, count: int) -> Manifest:
    if not settings.dry_run:
        folder = RunFolder(settings.output)
        found, recorded = recorded_manifest(folder, read_json(folder.run) or {}), recorded_config(folder)
        if found is not None and recorded is not None and found["names"] == manifest.names:
            if (found["shard"], found["of"]) == (number, count):
                return stretch(manifest, found["first"], found["first"] + len(recorded.input))
            if not settings.restart:
                raise UsageError(
                    f"{folder.path} has shard {found['shard']}/{found['of']}, this command names {number}/{count}; use "
                    "another folder, or --restart to discard what it holds"
                )
    return shard_of(manifest, number, count)


def refuse_too_many(n_objects: int) -> None:
    """Raises UsageError for more objects than a run can have."""
    if n_objects > MOST_OBJECTS:
        raise UsageError(
            f"a run takes at most {MOST_OBJECTS:,} objects, these are {n_objects:,}; give them to more jobs (--shard)"
        )


def share_lines(settings: Settings) -> list[str]:
    """For `vpdist plan --shard`: how large the share is, beside the others. Raises InputError, UsageError."""
    if settings.manifest is None or settings.shard is None:
        return []
    manifest = read_manifest(settings.manifest)
    number, count = parsed_shard(settings.shard)
    size = sizes(manifest)
    bounds = shard_bounds(size, count)
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(size)))
    shares = np.diff(before[bounds])
    mean = shares.mean()
    mine, largest = (int(share) for share in (shares[number - 1], shares.max()))
    objects = int(bounds[number] - bounds[number - 1])
    beside = f", {mine / mean:.3f} x mean; the largest of {count} is {largest / mean:.3f} x mean" if mean else ""
    return [f"share {settings.shard}: {objects:,} of {manifest.n_objects:,} objects, {bytes_text(mine)}{beside}"]


def listed_objects(manifest: Manifest, folder: RunFolder, retries: Retries, *, retry: bool = False) -> ListedObjects:
    """Look at each object. One that has failed in the folder's run is not looked at again, unless with `retry`: its
    failure is kept.

    Raises UsageError where the run is another manifest's, StorageError.
    """
    kept = {} if retry else kept_failures(manifest, folder)
    found, objects = [], []
    for number, entry in enumerate(manifest.entries):
        identity, each = kept[number] if number in kept else _looked_at(entry, retries)
        found.append(identity)
        objects.append(each)
    return ListedObjects(tuple(found), tuple(objects), [entry.input for entry in manifest.entries])


def _looked_at(entry: ManifestEntry, retries: Retries) -> tuple[tuple[str, int, int, str], ReadObject]:
    path = entry.input
    try:
        identity = input_identity([entry.path], [path], retries)
        before = file_identities([entry.path], [path], retries)
    except InputError as error:
        reason = told(error)
        return (entry.path, 0, 0, FAILED + reason), ReadObject(path, 0, entry.records, reason)
    size, reason = identity[0][1], ""
    if entry.size is not None and size != entry.size:
        reason = f"has {size:,} bytes, declared are {entry.size:,}"
    unchanged = partial(refuse_changed_input, identity, before, [path], retries)
    return identity[0], ReadObject(path, size, entry.records, reason, unchanged)


def kept_failures(
    manifest: Manifest, folder: RunFolder, *, retry: bool = False
) -> dict[int, tuple[tuple[str, int, int, str], ReadObject]]:
    """Of the folder's run, the identities and objects that have failed, by number. With `retry` the manifest may
    declare other sizes and records than it did. Raises UsageError, StorageError."""
    recorded = recorded_config(folder)
    if recorded is None:
        return {}
    entries = manifest.entries
    same_names = recorded.input_names == tuple(entry.path for entry in entries)
    refuse_other_manifest(manifest, folder, declared_anew=retry and same_names)
    if not same_names:
        return {}  # compared and refused where the configuration is
    reasons = {
        number: each[3].removeprefix(FAILED) for number, each in enumerate(recorded.input) if each[3].startswith(FAILED)
    }
    if (summary := store_summary.load_summary(folder)) is not None:
        reasons |= {each.file: each.reason for each in summary.report.failed}
    return {
        number: (
            recorded.input[number],
            ReadObject(entries[number].input, recorded.input[number][1], entries[number].records, reason),
        )
        for number, reason in reasons.items()
        if number < len(entries)
    }


def record(settings: Settings) -> dict[str, Any]:
    """What run.json keeps of the manifest, so that shards can be compared and put together; nothing without one. Raises
    InputError."""
    if settings.manifest is None:
        return {}
    manifest = read_share(settings)
    number, count = (1, 1) if settings.shard is None else parsed_shard(settings.shard)
    samples = {"samples": manifest.samples} if manifest.samples else {}
    fields = {
        "path": str(manifest.path.absolute()),
        "digest": manifest.digest,
        "names": manifest.names,
        "objects": manifest.n_objects,
        "shard": number,
        "of": count,
        "first": manifest.first,
        **samples,
    }
    return {MANIFEST: fields}


def recorded_manifest(folder: RunFolder, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `run`, the folder's run.json, says of the manifest; None where the run has none. Raises StorageError for
    what is no record."""
    found = run.get(MANIFEST)
    if found is None:
        return None
    numbers = ("objects", "shard", "of", "first")
    if not (
        isinstance(found, dict)
        and all(type(found.get(name)) is str for name in ("digest", "names"))
        and all(type(found.get(name)) is int and found[name] >= 0 for name in numbers)
        and all(type(sample) is str for sample in found.get("samples", []))
    ):
        raise StorageError(f"{folder.run}: its record of the manifest cannot be read")
    return found


def refuse_other_manifest(manifest: Manifest, folder: RunFolder, *, declared_anew: bool = False) -> None:
    """Raises UsageError unless the folder's run is of this manifest and shard, with `declared_anew` of one with the
    same objects; StorageError."""
    run = read_json(folder.run) or {}
    found = recorded_manifest(folder, run)
    hint = "use another folder, or --restart to discard what it holds"
    if "merged" in run:
        raise UsageError(f"{folder.path} was merged from shards, and is complete; {hint}")
    if found is None:
        raise UsageError(f"{folder.path} belongs to another configuration: it was not made with --manifest; {hint}")
    if found["digest"] != manifest.digest and not declared_anew:
        raise UsageError(f"{folder.path} belongs to another configuration: --manifest was another one; {hint}")
    if found["first"] != manifest.first:
        raise UsageError(
            f"{folder.path} belongs to another configuration: --shard was {found['shard']}/{found['of']}; {hint}"
        )


def object_rows(folder: RunFolder, summary: StoreSummary, n_objects: int) -> list[ObjectRow] | None:
    """What summary.tsv says of each object beside its sequences; None for a run without a manifest. Raises
    StorageError."""
    found = recorded_manifest(folder, read_json(folder.run) or {})
    if found is None:
        return None
    samples: Sequence[str] = found.get("samples") or [""] * n_objects
    if len(samples) != n_objects:
        raise StorageError(f"{folder.run}: names {len(samples)} samples for {n_objects} objects")
    reasons = {each.file: each.reason for each in summary.report.failed}
    return [ObjectRow(sample, reasons.get(number)) for number, sample in enumerate(samples)]
