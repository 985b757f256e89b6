"""Writes a few shards and parts of a plan, to estimate bytes and seconds of all; and the room there is for them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpdist.estimate.workload import Workload
from vpdist.planning import token_shards
from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.parts import PartHeader
from vpdist.sequences import store_summary
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.atomic_files import storage_error
from vpdist.storage.run_folder import RunFolder

PARTS_WRITTEN = 8
"""Parts, spread evenly over the units, that are written."""


@dataclass(frozen=True, slots=True)
class SampledShards:
    """Bytes of the token store with all shards, and seconds to write all shards."""

    token_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SampledParts:
    """Bytes of all parts, and seconds to write and to check one."""

    part_bytes: int
    write_s: float
    check_s: float


def write_shards(
    folder: RunFolder,
    summary: StoreSummary,
    plan: Plan,
    plan_id: str,
    rows: np.ndarray,
    raise_if_ending: Callable[[], None],
) -> SampledShards:
    """Write the shards that hold `rows`; `raise_if_ending` is called between them. Raises StorageError."""
    tokens = folder.tokens
    blocks, first_fragment = store_summary.block_paths(folder, summary), summary.first_fragment()
    store_bytes = total_bytes(*tokens.iterdir())
    shards = np.unique(np.searchsorted(plan.unit_row[plan.shard_unit], rows, side="right") - 1).tolist()
    started = time.monotonic()
    for shard in shards:
        token_shards.write_shard(tokens, shard, plan, plan_id, blocks, first_fragment)
        raise_if_ending()
    seconds = time.monotonic() - started
    share = (len(plan.shard_unit) - 1) / max(1, len(shards))
    size = total_bytes(*(token_shards.shard_path(tokens, shard) for shard in shards))
    return SampledShards(round(store_bytes + share * size), share * seconds)


def write_parts(folder: Path, work: Workload, header: PartHeader, raise_if_ending: Callable[[], None]) -> SampledParts:
    """Write, check and remove a few parts in `folder`, calling `raise_if_ending` between them. Raises StorageError."""
    plan, numbers = work.plan, sum(work.widths.values())
    n = min(PARTS_WRITTEN, plan.n_units)
    write_s = check_s = 0.0
    overhead = 0  # bytes of files that are not of datasets
    for unit in np.linspace(0, plan.n_units - 1, n).round().astype(int).tolist():
        rows, fragments = len(plan.rows(unit)), len(plan.fragments(unit).flat)
        widths = {name: width for name, width in {**work.widths, "logits": 2}.items() if name in header.datasets()}
        shapes = {name: (rows, width) for name, width in widths.items()} | (
            {"distance": (rows,)} if header.summary else {}
        )
        results = {name: np.ones(shape, header.column(name)[0]) for name, shape in shapes.items()}
        begun = time.monotonic()
        size = parts.write(folder, unit, plan, header, np.zeros(rows, dtype=bool), results)
        written = time.monotonic()
        parts.check(folder, unit, plan, header, full=True)
        write_s, check_s = write_s + written - begun, check_s + time.monotonic() - written
        overhead += size - header.data_bytes(rows, fragments, numbers)
        parts.discard(folder, unit)
        raise_if_ending()
    return SampledParts(
        header.data_bytes(plan.n_rows, len(plan.fragment), numbers) + overhead * plan.n_units // max(1, n),
        write_s / max(1, n),
        check_s / max(1, n),
    )


def total_bytes(*paths: Path) -> int:
    """Size of all these files."""
    return sum(path.stat().st_size for path in paths)


def free_bytes(folder: Path) -> int:
    """Free bytes where a folder is or would be made. Raises StorageError."""
    try:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free
    except OSError as error:
        raise storage_error(folder, error, "used") from error
