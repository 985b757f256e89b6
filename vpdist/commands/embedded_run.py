"""A finished run of `vpdist embed` as `vpdist train` goes on from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vpdist.commands import resolve_config
from vpdist.config import ResolvedConfig
from vpdist.encoder_kinds import CLASSIFIED
from vpdist.errors import StorageError, UsageError
from vpdist.planning import plan_file
from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.parts import PartHeader, part_header
from vpdist.sequences import store_summary
from vpdist.sequences.store_summary import StoreSummary
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


def finished_run(folder: RunFolder) -> EmbeddedRun:
    """Raises UsageError where nothing was embedded, StorageError where files cannot be read."""
    resolved, summary = resolve_config.recorded_config(folder), store_summary.load_summary(folder)
    if resolved is None or summary is None:
        raise StorageError(f"{folder.path}: its configuration or token store cannot be read")
    plan, plan_id = plan_file.map_plan(folder.plan, n_fragments=summary.n_fragments, store=summary.digest)
    if not plan.n_units:
        raise UsageError("no labelled sequence has an open reading frame: there is nothing to fit on")
    kinds = tuple(kind for kind in CLASSIFIED if kind in resolved.models)
    first = parts.read(folder.parts, 0, kinds)
    widths = tuple(first[kind].shape[1] for kind in kinds)
    return EmbeddedRun(resolved, summary, plan, part_header(plan_id, resolved), kinds, widths)
