"""Blocks and parts of one run as those of another that holds the same objects at other places.

Units and batches of a manifest are those of single objects, so what one run has of an object is what another run would
compute: only the numbers of records, inputs, fragments and units differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.parts import PartHeader
from vpdist.sequences import token_store
from vpdist.sequences.blocks import BlockTable, TokenBlock
from vpdist.storage.hdf5_files import DamagedFile


def carry_block(source: Path, target: Path, *, index: int, records: int, inputs: int) -> BlockTable:
    """Write the block in `source` without its tokens as block `index` of another store, `records` and `inputs` later;
    returns it. Raises DamagedFile, StorageError."""
    table = token_store.read_table(source)
    moved = replace(
        table,
        index=index,
        first_record=table.first_record + records,
        chunk_record=table.chunk_record + records,
        sources=(table.sources.astype(np.int64) + inputs).astype(np.uint32),
        tokenizers={},
    )
    columns = {field.name: getattr(moved, field.name) for field in fields(BlockTable)}
    token_store.write_block(target, TokenBlock(**columns, tokens={}))
    return moved


def carry_parts(
    source: tuple[Path, Plan, PartHeader],
    units: Iterable[tuple[int, int]],
    target: tuple[Path, Plan, PartHeader],
    fragments: int,
) -> int:
    """Write parts of `source` (folder of parts, plan, header) as those of `target`. `units`: numbers there and here;
    `fragments`: by how much the numbers of their fragments are larger here. All digests are checked. Returns the bytes
    written.

    Raises DamagedFile, also where a unit does not hold the same fragments in both runs; StorageError.
    """
    old_folder, old_plan, old_header = source
    folder, plan, header = target
    names = [name for name in old_header.datasets() if name not in ("fragment", "row")]
    written = 0
    for old, new in units:
        parts.check(old_folder, old, old_plan, old_header, full=True)
        was, now = old_plan.fragments(old), plan.fragments(new)
        if not (np.array_equal(was.flat + fragments, now.flat) and np.array_equal(was.offsets, now.offsets)):
            raise DamagedFile(f"{parts.part_path(old_folder, old)}: does not hold the fragments of unit {new}")
        results = parts.read(old_folder, old, names)
        written += parts.write(folder, new, plan, header, results.pop("failed").astype(bool), results)
    return written
