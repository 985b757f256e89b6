"""`--retry-failed`: objects of a manifest that have failed are read again, and what the run has of the others is kept.

With a further object all numbers behind it change. So store and parts are set aside in RUN/before_retry, the input is
read again, and the parts of every object that is unchanged are taken over under their new numbers. Units of a manifest
are those of single objects, so these parts are what would be computed. RUN/before_retry is removed once the new tables
are there; a retry that is stopped goes on with the same command.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Container
from dataclasses import replace

import numpy as np

from vpdist.commands import manifest_inputs
from vpdist.commands.compare_configs import same_samples
from vpdist.commands.manifest_inputs import FAILED, ListedObjects, kept_failures, read_share
from vpdist.config import ResolvedConfig, Settings
from vpdist.errors import InputError
from vpdist.planning import plan_file
from vpdist.planning.object_plans import units_of_objects
from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.carried_parts import carry_parts
from vpdist.results.embedded_run import recorded_config
from vpdist.results.parts import part_header
from vpdist.sequences import store_summary, token_store
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.session import Session
from vpdist.storage.atomic_files import read_json, storage_error, sync_folder, write_json
from vpdist.storage.hdf5_files import DamagedFile
from vpdist.storage.object_stores import Retries
from vpdist.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)


def listed_objects(settings: Settings, folder: RunFolder, retries: Retries) -> ListedObjects:
    """On rank 0: the objects of a run with a manifest; with --retry-failed those that failed are looked at anew. Raises
    UsageError, InputError, StorageError."""
    set_aside(folder, None)
    manifest = read_share(settings)
    retry = settings.retry_failed and not folder.before_retry.exists()
    if retry and (failures := kept_failures(manifest, folder, retry=True)):
        listed = manifest_inputs.listed_objects(manifest, folder, retries, retry=True)
        _refuse_lost(folder, listed, failures)
        set_aside(folder, listed)
        return listed
    return manifest_inputs.listed_objects(manifest, folder, retries)


def _refuse_lost(folder: RunFolder, listed: ListedObjects, failures: Container[int]) -> None:
    """Before anything is set aside. Raises InputError unless each object that has not failed is what it was: a retry
    reads all objects, and what it cannot read would be lost."""
    recorded = recorded_config(folder)
    before = () if recorded is None else recorded.input
    for number, (was, now, each) in enumerate(zip(before, listed.found, listed.objects, strict=True)):
        if number in failures or not (each.reason or not same_samples((was,), (now,))):
            continue
        reason = f"cannot be now ({each.reason})" if each.reason else "has changed since"
        raise InputError(
            f"was read before and {reason}; --retry-failed needs all objects, {folder.path} stays as it is", path=now[0]
        )


def set_aside(folder: RunFolder, listed: ListedObjects | None) -> None:
    """Put store and parts of a run into RUN/before_retry, and `listed`, which is looked at anew, into its record; with
    None only finish what a killed command has begun, or forget it where nothing was recorded. Raises StorageError."""
    before = RunFolder(folder.before_retry)
    try:
        if listed is None:
            _forget_unrecorded(folder, before)
        elif not before.path.exists():
            before.path.mkdir()
            write_json(before.run, read_json(folder.run) or {})
            if (recorded := recorded_config(folder)) is not None:
                folder.update_run(decisions=replace(recorded, input=listed.found).to_dict())
        if before.path.is_dir() and not before.path.is_symlink() and not before.tokens.exists():
            if not before.parts.exists():
                os.rename(folder.parts, before.parts)
            os.rename(folder.tokens, before.tokens)  # the last one: it says that all is set aside
            sync_folder(before.path)
            folder.prepare(restart=False)
    except OSError as error:
        raise storage_error(before.path, error) from error


def _forget_unrecorded(folder: RunFolder, before: RunFolder) -> None:
    """Remove RUN/before_retry where nothing is in it yet, or any more, and RUN's record is still what it was."""
    if before.path.is_symlink() or not before.path.is_dir() or before.parts.exists() or before.tokens.exists():
        return
    was, now = read_json(before.run), read_json(folder.run) or {}
    if was is None or was.get("decisions") == now.get("decisions"):
        shutil.rmtree(before.path)


def carry_over(session: Session, summary: StoreSummary, plan: Plan, plan_id: str) -> None:
    """On rank 0: take over the parts of every object that RUN/before_retry has as this run has it. Raises
    StorageError, and InputError for an object that could be read before."""
    folder = session.folder
    before = RunFolder(folder.before_retry)
    if before.path.is_symlink() or not before.tokens.is_dir():
        return
    try:
        old_summary, recorded, now = (
            store_summary.load_summary(before),
            recorded_config(before),
            recorded_config(folder),
        )
        if old_summary is None or recorded is None or now is None:
            raise DamagedFile(f"{before.path}: holds no complete token store")
        old_plan, old_id = plan_file.map_plan(
            before.plan, n_fragments=old_summary.n_fragments, store=old_summary.digest
        )
    except DamagedFile as error:
        logger.warning("nothing is taken over: %s", error)
        return
    _refuse_unread(folder, old_summary, summary, now)
    old_header, header = part_header(old_id, recorded), part_header(plan_id, now)
    there = set(range(old_plan.n_units)) - set(parts.remaining(before.parts, old_plan, old_header))
    missing = set(parts.remaining(folder.parts, plan, header))
    was, will = (_bounds(each, of) for each, of in ((old_summary, old_plan), (summary, plan)))
    carried = 0
    for number in range(min(len(was[0]), len(will[0])) - 1):
        was_there, is_there = recorded.input[number : number + 1], now.input[number : number + 1]
        if not same_samples(was_there, is_there) or is_there[0][3].startswith(FAILED):
            continue
        if not _same_fragments(before, old_summary, folder, summary, number):
            continue
        shift = int(will[0][number] - was[0][number])
        for old, new in zip(_range(was[1], number), _range(will[1], number), strict=True):
            if old in there and new in missing:
                try:
                    source, target = (before.parts, old_plan, old_header), (folder.parts, plan, header)
                    carry_parts(source, [(old, new)], target, shift)
                    carried += 1
                except DamagedFile as error:
                    logger.warning("not taken over: %s", error)
            session.control.raise_if_ending()
    session.progress.message(f"{carried:,} of {plan.n_units:,} units are taken over from before the retry")


def _refuse_unread(folder: RunFolder, was: StoreSummary, summary: StoreSummary, now: ResolvedConfig) -> None:
    """Raises InputError where an object failed that had not; then the next command reads it again."""
    before = {each.file for each in was.report.failed}
    for each in summary.report.failed:
        if each.file not in before:
            folder.store.unlink()
            raise InputError(
                f"was read before and cannot be now ({each.reason}); give the command again once it can, "
                f"{folder.before_retry} keeps what there was",
                path=now.input[each.file][0],
            )


def forget(folder: RunFolder) -> None:
    """Remove what was set aside. Raises StorageError."""
    if folder.before_retry.is_symlink() or not folder.before_retry.exists():
        return
    before = RunFolder(folder.before_retry)
    try:
        # In this order: where tokens are missing, the next command would set aside what the retry has made.
        shutil.rmtree(before.parts, ignore_errors=True)
        before.run.unlink(missing_ok=True)
        shutil.rmtree(before.tokens, ignore_errors=True)
        shutil.rmtree(before.path)
    except OSError as error:
        raise storage_error(folder.before_retry, error, "removed") from error


def _bounds(summary: StoreSummary, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """(objects + 1,) first fragment and first unit of each object."""
    first_fragment = summary.first_fragment()[summary.first_blocks()]
    return first_fragment, units_of_objects(plan, first_fragment)


def _range(first: np.ndarray, number: int) -> range:
    return range(int(first[number]), int(first[number + 1]))


def _same_fragments(
    one: RunFolder, one_summary: StoreSummary, other: RunFolder, other_summary: StoreSummary, number: int
) -> bool:
    """Whether both stores have the same fragments of an object. Raises DamagedFile for a block of `other`."""
    pairs = [_range(summary.first_blocks(), number) for summary in (one_summary, other_summary)]
    if len(pairs[0]) != len(pairs[1]):
        return False
    for old, new in zip(*pairs, strict=True):
        try:
            mine = token_store.read_table(token_store.block_path(one.tokens, old))
        except DamagedFile as error:
            logger.warning("not taken over: %s", error)
            return False
        theirs = token_store.read_table(token_store.block_path(other.tokens, new))
        for name in ("nucleotide_hash", "protein_hash", "fragment_residues"):
            if not np.array_equal(getattr(mine, name), getattr(theirs, name)):
                return False
    return True
