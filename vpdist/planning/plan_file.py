"""The plan on disk: written by rank 0, mapped by every rank, identified by its provenance key."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import xxhash

from vpdist.planning.plan import Plan
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile


def write_plan(path: Path, plan: Plan, provenance_key: str) -> None:
    """Write the plan's arrays and its provenance key, by which a resumed run recognises it."""
    arrays = {field.name: getattr(plan, field.name) for field in fields(plan)}
    hdf5_files.write_atomic(path, arrays, {"plan": plan.digest(), "basis": provenance_key})


def map_plan(
    path: Path, provenance_key: str | None = None, *, n_fragments: int | None = None, store: str = ""
) -> tuple[Plan, str]:
    """The plan mapped from disk, and its id: a digest of provenance key and plan.

    Raises DamagedFile when it is damaged, has another provenance key or number of fragments than given, or was made
    from another token store than the one with the digest `store`.
    """
    with hdf5_files.opened(path) as file:
        attributes = hdf5_files.attributes(file)
        key = attributes.get("basis")
        if not isinstance(key, str) or provenance_key not in (None, key):
            raise DamagedFile(f"{path}: was made from {key!r}, not {provenance_key!r}")
        if not key.startswith(store):
            raise DamagedFile(f"{path}: was made from another token store, so it belongs to another run")
        arrays = {field.name: hdf5_files.map_dataset(file, field.name, verify=False) for field in fields(Plan)}
        plan = Plan(**arrays)
    n = plan.fragment.size
    if n_fragments not in (None, n) or max(array.size for array in arrays.values()) > n + 1:
        raise DamagedFile(f"{path}: is not the plan of this run's fragments")  # before reading what may be terabytes
    if plan.digest() != attributes.get("plan"):
        raise DamagedFile(f"{path}: the digest of the plan does not match its content")
    if not plan.is_sound():
        raise DamagedFile(f"{path}: is not the plan of this run's fragments")
    return plan, xxhash.xxh3_128_hexdigest(f"{key} {attributes['plan']}".encode())
