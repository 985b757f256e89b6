"""`--reuse OLDRUN`: takes over the embeddings of fragments that an earlier run has embedded in the same way.

Fragments are the same by what the plan unites them by; the same way are the same encoders by fingerprint, in the same
number format, stored in the same one. The earlier run may be incomplete: what it lacks is embedded here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vpdist.commands import resolve_config
from vpdist.commands.run_inputs import RunInputs
from vpdist.config import ResolvedConfig
from vpdist.encoders.shape import encoder_shape
from vpdist.errors import UsageError
from vpdist.planning import fragment_keys, plan_file
from vpdist.planning.equal_rows import equal_rows, work_left
from vpdist.planning.plan import Plan
from vpdist.results import earlier_embeddings, parts
from vpdist.results.earlier_embeddings import EarlierEmbeddings
from vpdist.sequences import store_summary
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.session import Session
from vpdist.storage.atomic_files import read_json
from vpdist.storage.hdf5_files import DamagedFile
from vpdist.storage.run_folder import RunFolder


def earlier_run(
    session: Session, reuse: Path | None, summary: StoreSummary, plan: Plan, plan_id: str, inputs: RunInputs
) -> EarlierEmbeddings | None:
    """What the run in `reuse`, if any, holds for this plan's rows; rank 0 compares the fragments of both runs.

    Raises UsageError where nothing of that run can be taken over, StorageError.
    """
    if reuse is None:
        return None
    folder, earlier = session.folder, RunFolder(reuse)
    recorded = _comparable(earlier, inputs.resolved)
    earlier_summary = store_summary.load_summary(earlier)
    if earlier_summary is None:
        raise UsageError(f"--reuse {earlier.path}: its sequences were not read to the end, so nothing was embedded")
    earlier_plan, earlier_id = plan_file.map_plan(
        earlier.plan, n_fragments=earlier_summary.n_fragments, store=earlier_summary.digest
    )
    header = parts.part_header(earlier_id, recorded)
    shapes = {kind: encoder_shape(model) for kind, model in inputs.models.items()}
    ids = plan_id, earlier_id

    def make() -> str:
        try:
            earlier_embeddings.map_equal_rows(folder.equal_rows, ids, plan, earlier_plan)
        except DamagedFile:
            store_summary.check_digest(earlier, earlier_summary)
            keys = fragment_keys.fragment_keys(folder, summary)
            found = equal_rows(keys, plan, fragment_keys.fragment_keys(earlier, earlier_summary), earlier_plan)
            for unit in parts.remaining(earlier.parts, earlier_plan, header):
                rows = earlier_plan.rows(unit)
                found[(found >= rows.start) & (found < rows.stop)] = -1
            costs = {kind: resolve_config.cost_of(shape) for kind, shape in shapes.items()}
            left = work_left(keys, plan, costs, found >= 0)
            earlier_embeddings.write_equal_rows(folder.equal_rows, ids, found, *left)
        return "1"

    session.control.broadcast_from_rank_0("reuse", make)
    earlier_row, unit_cost, unit_tokens = earlier_embeddings.map_equal_rows(folder.equal_rows, ids, plan, earlier_plan)
    found = EarlierEmbeddings(
        folder=earlier.parts,
        earlier_plan=earlier_plan,
        header=header,
        widths={kind: shape.width for kind, shape in shapes.items()},
        plan=plan,
        earlier_row=np.asarray(earlier_row),
        unit_cost=unit_cost,
        unit_tokens=unit_tokens,
    )
    if session.control.is_first:
        session.progress.message(
            f"embeddings of {found.n_rows:,} of {plan.n_rows:,} different fragments are taken over from {reuse}"
        )
        folder.update_run(reused={"run": str(reuse.resolve()), "plan": earlier_id, "fragments": found.n_rows})
    return found


def _comparable(earlier: RunFolder, resolved: ResolvedConfig) -> ResolvedConfig:
    """The earlier run's configuration. Raises UsageError unless its embeddings are what this run would compute."""
    earlier.check_holds_run()
    if earlier.linked is not None:
        raise UsageError(f"--reuse {earlier.linked}: is a symbolic link, which leads out of the run")
    if "merged" in (read_json(earlier.run) or {}):
        raise UsageError(f"--reuse {earlier.path}: was merged and holds no tokens; name one of its shards")
    recorded = resolve_config.recorded_config(earlier)
    if recorded is None or not recorded.embeddings:
        raise UsageError(f"--reuse {earlier.path}: holds no embeddings")
    for kind, fingerprint in resolved.models.items():
        if recorded.models.get(kind) != fingerprint:
            raise UsageError(f"--reuse {earlier.path}: its {kind} model is another one than this run's")
    if recorded.models.keys() != resolved.models.keys():
        raise UsageError(f"--reuse {earlier.path}: it has embeddings of more encoders than this run")
    if recorded.poolings != resolved.poolings:
        raise UsageError(f"--reuse {earlier.path}: its embeddings are pooled in another way than this run's")
    for option, before, now in (
        ("--dtype", recorded.dtype, resolved.dtype),
        ("--embedding-dtype", recorded.embedding_dtype, resolved.embedding_dtype),
    ):
        if before != now:
            raise UsageError(f"--reuse {earlier.path}: its {option} is {before}, this run's is {now}")
    return recorded
