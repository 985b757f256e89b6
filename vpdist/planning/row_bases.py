"""Bases of every row's nucleotide string, by which a model with several classifiers chooses one.

All fragments of a row have the same string, so it is a function of the plan and the token store. Rank 0 writes the
file, the others map it; `classify` makes it where the run had no use for it.
"""

from __future__ import annotations

import numpy as np

from vpdist.planning.plan import Plan
from vpdist.sequences.six_frames import fragment_span
from vpdist.sequences.store_summary import StoreSummary, block_paths
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile
from vpdist.storage.run_folder import RunFolder


def row_bases(folder: RunFolder, summary: StoreSummary, plan: Plan) -> np.ndarray:
    """(r,) int32 from the blocks of the token store. Raises DamagedFile."""
    bases = np.zeros(summary.n_fragments, np.int32)
    first = summary.first_fragment().tolist()
    for path, start, end in zip(block_paths(folder, summary), first[:-1], first[1:], strict=True):
        with hdf5_files.opened(path) as file:
            chunk_start, chunk_end, chunk, frame, residues = (
                hdf5_files.read(file, name)
                for name in ("chunk_start", "chunk_end", "fragment_chunk", "fragment_frame", "fragment_residues")
            )
        span = fragment_span(chunk_start[chunk], chunk_end[chunk], frame, residues)
        bases[start:end] = span[1] - span[0] + 1
    return bases[np.asarray(plan.fragment)[np.asarray(plan.row_start[:-1])]]


def write_row_bases(folder: RunFolder, summary: StoreSummary, plan: Plan, plan_id: str) -> None:
    """Write the file, unless that of this plan is there. Raises StorageError."""
    try:
        map_row_bases(folder, plan, plan_id)
    except DamagedFile:
        hdf5_files.write_atomic(folder.row_bases, {"bases": row_bases(folder, summary, plan)}, {"plan": plan_id})


def map_row_bases(folder: RunFolder, plan: Plan, plan_id: str) -> np.ndarray:
    """(r,) int32, mapped from disk. Raises DamagedFile, also for the file of another plan."""
    with hdf5_files.opened(folder.row_bases) as file:
        if hdf5_files.attributes(file).get("plan") != plan_id:
            raise DamagedFile(f"{folder.row_bases}: belongs to another plan")
        bases = hdf5_files.map_dataset(file, "bases")
    if bases.dtype != np.int32 or bases.shape != (plan.n_rows,) or int(bases.min(initial=0)) < 0:
        raise DamagedFile(f"{folder.row_bases}: does not hold the bases of {plan.n_rows:,} rows")
    return bases
