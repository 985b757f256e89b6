"""The fragments of a run as a fit and its figures take them: row, chunk, sequence, side, label of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.sequences import store_summary, token_store
from vpdist.sequences.six_frames import fragment_span
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Fragments:
    """All n fragments in the order of fragments.tsv, of c chunks with fragments, of r records."""

    record: np.ndarray
    """(n,) int64, number of the record."""
    chunk: np.ndarray
    """(n,) int64, a number per chunk, ascending."""
    row: np.ndarray
    """(n,) int64, row of the plan."""
    usable: np.ndarray
    """(n,) bool: has an embedding, and none of the user's rules leaves it out."""
    start: np.ndarray
    """(n,) int64, first base on the record, from 1."""
    end: np.ndarray
    """(n,) int64, last base, inclusive."""
    frame: np.ndarray
    """(n,) int8, index into six_frames.FRAMES."""

    def per_record(self, n_records: int) -> np.ndarray:
        """(r,) usable fragments of each record."""
        return np.bincount(self.record[self.usable], minlength=n_records)


def read_fragments(
    folder: RunFolder, summary: StoreSummary, plan: Plan, raise_if_ending: Callable[[], None] = lambda: None
) -> Fragments:
    """The fragments of a finished run. Raises DamagedFile, StorageError."""
    columns: list[tuple[np.ndarray, ...]] = []
    n_chunks = 0
    for path in store_summary.block_paths(folder, summary):
        table = token_store.read_table(path)
        chunk, frame = table.fragment_chunk, table.fragment_frame
        start, end = fragment_span(table.chunk_start[chunk], table.chunk_end[chunk], frame, table.fragment_residues)
        columns.append((table.chunk_record[chunk], chunk.astype(np.int64) + n_chunks, start, end, frame))
        n_chunks += len(table.chunk_record)
        raise_if_ending()
    types = (np.int64, np.int64, np.int64, np.int64, np.int8)
    record, chunk, start, end, frame = (
        np.concatenate([np.zeros(0, kind), *(block[number] for block in columns)]).astype(kind)
        for number, kind in enumerate(types)
    )
    row = np.zeros(len(record), np.int64)
    usable = np.zeros(len(record), bool)
    for unit in range(plan.n_units):
        fragment, of_unit = parts.fragment_rows(plan, unit)
        row[fragment] = of_unit + plan.rows(unit).start
        usable[fragment] = parts.read(folder.parts, unit, ["failed"])["failed"][of_unit] == 0
        raise_if_ending()
    return Fragments(record, chunk, row, usable, start, end, frame)
