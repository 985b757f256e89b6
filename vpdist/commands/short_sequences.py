"""Sequences that are too short for the model: a run that would score few of them stops before anything is loaded."""

from __future__ import annotations

import numpy as np

from vpdist.errors import UsageError
from vpdist.sequences.blocks import OK
from vpdist.sequences.store_summary import StoreSummary, block_paths
from vpdist.storage import hdf5_files
from vpdist.storage.run_folder import RunFolder

MOST = 0.5
"""A run stops where more than this share of its sequences is too short."""


def judged_lengths(folder: RunFolder, summary: StoreSummary) -> np.ndarray:
    """Bases of the sequences that have chunks: neither filtered nor shorter than a codon. Raises DamagedFile."""
    found = [np.zeros(0, np.int64)]
    for path in block_paths(folder, summary):
        with hdf5_files.opened(path) as file:
            lengths, statuses = (hdf5_files.read(file, name) for name in ("lengths", "statuses"))
        found.append(lengths[statuses == OK])
    return np.concatenate(found)


def refuse_mostly_short(
    folder: RunFolder, summary: StoreSummary, model: str | None, shortest_chunk: int, *, allowed: bool
) -> list[str]:
    """What people must be told of sequences that are too short for `model`, which judges chunks from `shortest_chunk`
    bases on (0: every one). Raises UsageError where that is most of them, unless `allowed`; StorageError."""
    if not shortest_chunk:
        return []
    lengths = judged_lengths(folder, summary)
    n_short = int((lengths < shortest_chunk).sum())
    if not n_short:
        return []
    median = f"their median length is {int(np.median(lengths)):,} bases"
    limit = f"it judges sequences from {shortest_chunk:,} bases on"
    if n_short > MOST * len(lengths) and not allowed:
        raise UsageError(
            f"model {model} has no scores for {n_short:,} of {len(lengths):,} sequences: {median}, and {limit}; take a "
            f"model for shorter ones (`vpdist models` lists them), or score the others with --allow-short"
        )
    return [
        f"warning: {n_short:,} of {len(lengths):,} sequences have no score, and the flag short, from model {model}: "
        f"{limit}, {median}"
    ]
