"""The fragments of a report's sequences: which frames of each chunk are open, and their scores.

Enters: chunks.tsv and fragments.tsv. Leaves: a byte per chunk and a score per fragment, for the sequences with the
highest virus scores until MOST_FRAGMENTS are reached. Where chunks lie follows from the lengths: report.js knows how.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np

from vpdist.report.packed import Column, scores
from vpdist.report.sequence_columns import Shown, number
from vpdist.results.table_files import Table, opened_table
from vpdist.sequences.six_frames import FRAMES
from vpdist.storage.atomic_files import DamagedFile

MOST_FRAGMENTS = 300_000
MOST_CHUNKS = 300_000
VIRUS = 1 << len(FRAMES)
"""Bit of a chunk that is called virus; the bits below are those of its open frames."""


def read_fragments(folder: Path, shown: Shown) -> dict[str, Column]:
    """Columns `has` (of each sequence whether its chunks are here), `mask` (of each such chunk) and `score` (of each
    open frame in it). Raises DamagedFile, StorageError."""
    has = _within_limits(shown)
    chunks, fragments = (np.asarray(shown.columns[name], np.int64) * has for name in ("chunks", "fragments"))
    first = {
        name: (start, of, n)
        for name, start, of, n in zip(
            (name for name, here in zip(shown.names, has, strict=True) if here),
            (np.cumsum(chunks) - chunks)[has].tolist(),
            (np.cumsum(fragments) - fragments)[has].tolist(),
            chunks[has].tolist(),
            strict=True,
        )
    }
    mask = np.zeros(int(chunks.sum()), np.uint8)
    score = np.full(int(fragments.sum()), np.nan)
    with opened_table(folder, "chunks") as table:
        name, chunk, prediction = table.positions("seq_name", "chunk", "prediction")
        for row in table:
            if (place := first.get(row[name])) is not None and row[prediction] == "virus":
                mask[place[0] + _index(table, row[chunk], place[2])] |= VIRUS
    with opened_table(folder, "fragments") as table:
        name, chunk, strand, frame, virus = table.positions("seq_name", "chunk", "strand", "frame", "virus_score")
        for seq_name, rows in groupby(table, key=lambda row: row[name]):
            if (place := first.get(seq_name)) is None:
                continue
            for k, row in enumerate(rows):
                bit = 1 << (_index(table, row[frame], 3) + 3 * (row[strand] == "-"))
                mask[place[0] + _index(table, row[chunk], place[2])] |= bit
                if place[1] + k >= len(score):
                    raise DamagedFile(f"{table.path}: has more fragments of {seq_name} than sequences.tsv says")
                score[place[1] + k] = number(table, row[virus])
    return {"has": has.astype(np.uint8), "mask": mask, "score": scores(score)}


def _within_limits(shown: Shown) -> np.ndarray:
    """(m,) bool: the sequences with fragments, by their scores, until the limits are reached."""
    chunks, fragments = (np.asarray(shown.columns[name], np.int64) for name in ("chunks", "fragments"))
    order = np.argsort(np.where(np.isnan(shown.score), 1, -shown.score), kind="stable")
    fits = (np.cumsum(chunks[order]) <= MOST_CHUNKS) & (np.cumsum(fragments[order]) <= MOST_FRAGMENTS)
    has = np.zeros(len(order), bool)
    has[order] = fits
    return has & (chunks > 0)


def _index(table: Table, cell: str, n: int) -> int:
    """A number from 1 to n, from 0. Raises DamagedFile."""
    value = number(table, cell, int) - 1
    if not 0 <= value < n:
        raise DamagedFile(f"{table.path}: {cell} is not from 1 to {n}")
    return int(value)
