"""What each file of a dry run holds: bases, fragments, tokens and cost, file after file."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vpdist.commands.resolve_config import cost_of
from vpdist.commands.run_inputs import RunInputs
from vpdist.encoders.shape import encoder_shape
from vpdist.planning import fragment_keys
from vpdist.planning.fragment_order import FragmentKeys, plan_order, shared_rows
from vpdist.sequences import token_store
from vpdist.sequences.store_summary import StoreSummary, block_paths
from vpdist.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectWork:
    """Of n files, in their order: arrays (n,) int64."""

    bases: np.ndarray
    fragments: np.ndarray
    tokens: np.ndarray
    """Of all encoders, of the file's different fragments; 0 without models."""
    cost: np.ndarray
    """Thousands of operations, of the same."""


def object_work(folder: RunFolder, summary: StoreSummary, inputs: RunInputs) -> ObjectWork:
    """Count the files of a token store. Fragments that are equal in two files count twice: a manifest's objects are
    planned one by one. Raises DamagedFile."""
    n = len(inputs.paths)
    bases, fragments = np.zeros((2, n), np.int64)
    source_of = np.zeros(0, np.int64)
    for path in block_paths(folder, summary):
        table = token_store.read_table(path)
        source_of = np.append(source_of, table.sources)
        bases += np.bincount(table.sources, table.lengths, n).astype(np.int64)
        fragments += np.bincount(source_of[table.chunk_record[table.fragment_chunk]], minlength=n)
    keys = fragment_keys.fragment_keys(folder, summary)
    costs = {kind: cost_of(encoder_shape(model)) for kind, model in inputs.models.items()}
    tokens, cost = np.zeros((2, n), np.int64)
    ends = np.concatenate(([0], np.cumsum(fragments))).tolist()
    for number, (first, end) in enumerate(pairwise(ends)):
        mine = FragmentKeys(
            residues=keys.residues[first:end],
            tokens={kind: of[first:end] for kind, of in keys.tokens.items()},
            nucleotide_hash=keys.nucleotide_hash[first:end],
            protein_hash=keys.protein_hash[first:end],
        )
        order = plan_order(mine)
        rows = order[shared_rows(mine, order)[:-1]]
        for kind, encoder_cost in costs.items():
            tokens[number] += int(mine.tokens[kind][rows].sum())
            cost[number] += int(encoder_cost.of(mine.tokens[kind][rows]).sum())
    return ObjectWork(bases=bases, fragments=fragments, tokens=tokens, cost=cost)
