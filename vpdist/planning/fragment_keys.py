"""The token store's fragments as the columns that the plan sorts by, block after block."""

from __future__ import annotations

import numpy as np

from vpdist.encoder_kinds import KINDS
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.sequences.store_summary import StoreSummary, block_paths
from vpdist.storage import hdf5_files
from vpdist.storage.run_folder import RunFolder


def fragment_keys(folder: RunFolder, summary: StoreSummary) -> FragmentKeys:
    """The columns of all fragments from the blocks of the token store. Raises DamagedFile."""
    n = summary.n_fragments
    keys = FragmentKeys(
        residues=np.zeros(n, np.int32),
        tokens={kind: np.zeros(n, np.int32) for kind in KINDS},
        nucleotide_hash=np.zeros(n, np.uint64),
        protein_hash=np.zeros(n, np.uint64),
    )
    first = summary.first_fragment().tolist()
    for path, start, end in zip(block_paths(folder, summary), first[:-1], first[1:], strict=True):
        with hdf5_files.opened(path) as file:
            keys.residues[start:end] = hdf5_files.read(file, "fragment_residues")
            keys.nucleotide_hash[start:end] = hdf5_files.read(file, "nucleotide_hash")
            keys.protein_hash[start:end] = hdf5_files.read(file, "protein_hash")
            for kind, tokens in keys.tokens.items():
                _, offsets = KINDS[kind].token_datasets
                if hdf5_files.has(file, offsets):
                    tokens[start:end] = np.diff(hdf5_files.read(file, offsets))
    return keys
