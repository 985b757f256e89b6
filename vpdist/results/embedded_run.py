"""A finished run as others go on from it: `vpdist train`, `vpdist export`, `vpdist.open_run`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vpdist.config import ResolvedConfig
from vpdist.encoder_kinds import CLASSIFIED
from vpdist.errors import StorageError, UsageError
from vpdist.planning import plan_file
from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.parts import PartHeader, part_header
from vpdist.sequences import store_summary
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage import hdf5_files
from vpdist.storage.atomic_files import read_json
from vpdist.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class EmbeddedRun:
    """What a finished run holds."""

    resolved: ResolvedConfig
    summary: StoreSummary
    plan: Plan
    header: PartHeader
    kinds: tuple[str, ...]
    """Kinds of encoders, in the order in which a classifier takes their embeddings."""
    widths: tuple[int, ...]
    """Numbers of an embedding of each kind."""

    @property
    def dtype(self) -> np.dtype:
        """Number format of the embeddings."""
        return np.dtype(self.resolved.embedding_dtype)


def recorded_config(folder: RunFolder) -> ResolvedConfig | None:
    """The configuration in a folder's run.json, None where there is none. Raises UsageError for another version's."""
    content = read_json(folder.run)
    if content is None or "decisions" not in content:
        return None
    try:
        return ResolvedConfig.from_dict(content["decisions"])
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{folder.run} was written by another version of vpdist: {error}") from error


def finished_run(folder: RunFolder, kinds: Iterable[str] = CLASSIFIED) -> EmbeddedRun:
    """Raises UsageError where there are no embeddings or not all of them, StorageError where files cannot be read.

    `kinds`: those that are wanted; what has not run is left out. Without any fragment the widths are 0.
    """
    resolved, summary = recorded_config(folder), store_summary.load_summary(folder)
    if resolved is None or summary is None:
        raise StorageError(f"{folder.path}: its configuration or token store cannot be read")
    if not resolved.embeddings:
        raise UsageError(f"{folder.path}: the run has no embeddings (--no-embeddings)")
    plan, plan_id = plan_file.map_plan(folder.plan, n_fragments=summary.n_fragments, store=summary.digest)
    header = part_header(plan_id, resolved)
    if missing := parts.remaining(folder.parts, plan, header):
        raise UsageError(
            f"{folder.path}: {len(missing)} of {plan.n_units} units are missing; resume it with the same command first"
        )
    wanted = tuple(kind for kind in kinds if kind in resolved.models)
    first = parts.read(folder.parts, 0, wanted) if plan.n_units else {}
    widths = tuple(first[kind].shape[1] if first else 0 for kind in wanted)
    return EmbeddedRun(resolved, summary, plan, header, wanted, widths)


def fragment_records(folder: RunFolder, summary: StoreSummary) -> np.ndarray:
    """(n,) int64 number of each fragment's record, in the order of fragments.tsv: it ascends. Raises DamagedFile."""
    pieces = [np.zeros(0, np.int64)]
    for path in store_summary.block_paths(folder, summary):
        with hdf5_files.opened(path) as file:
            record, chunk = (hdf5_files.read(file, name) for name in ("chunk_record", "fragment_chunk"))
        if int(chunk.max(initial=-1)) >= len(record) or int(chunk.min(initial=0)) < 0:
            raise hdf5_files.DamagedFile(f"{path}: a fragment is of no chunk")
        pieces.append(record[chunk].astype(np.int64))
    records = np.concatenate(pieces)
    outside = int(records.max(initial=-1)) >= summary.n_records or (records[1:] < records[:-1]).any()
    if len(records) != summary.n_fragments or outside:
        raise hdf5_files.DamagedFile(f"{folder.tokens}: its fragments are not those of the run")
    return records
