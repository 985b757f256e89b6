"""The plan on disk: written whole by rank 0, mapped by every rank, recognised by what it was made from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import xxhash

from vpdist.planning.plan import Plan
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile


def write_plan(path: Path, plan: Plan, provenance_key: str) -> None:
    """Write the plan's arrays; `provenance_key` names what it was made from, so that a resume can keep it."""
    arrays = {field.name: getattr(plan, field.name) for field in fields(plan)}
    hdf5_files.write_atomic(path, arrays, {"plan": plan.digest(), "basis": provenance_key})


def map_plan(path: Path, provenance_key: str | None = None, *, n_fragments: int | None = None) -> tuple[Plan, str]:
    """The plan mapped from disk and its identity, which covers the input it was made for.

    Raises DamagedFile when it is damaged, or was made from another provenance key or number of fragments than given.
    """
    with hdf5_files.opened(path) as file:
        found = hdf5_files.attributes(file)
        if not isinstance(found.get("basis"), str) or (provenance_key is not None and found["basis"] != provenance_key):
            raise DamagedFile(f"{path}: was made from {found.get('basis')!r}, not {provenance_key!r}")
        plan = Plan(**{field.name: hdf5_files.map_dataset(file, field.name, verify=False) for field in fields(Plan)})
    if plan.digest() != found.get("plan"):
        raise DamagedFile(f"{path}: the digest of the plan does not match its content")
    if not plan.is_sound() or n_fragments not in (None, len(plan.fragment)):
        raise DamagedFile(f"{path}: is not the plan of this run's fragments")
    return plan, xxhash.xxh3_128_hexdigest(f"{found['basis']} {found['plan']}".encode())
