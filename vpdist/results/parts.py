"""A part: the results of one unit in one HDF5 file, immutable once it has its name.

Datasets: embeddings (m, d), named after their kind of encoder, `logits` (m, 2) float32, `failed` (m,) uint8, and the
map `fragment` (n,) int64 (row in fragments.tsv) to `row` (n,) int64 (row in this part); `distance` (m,) float32 where
the model has a summary of embeddings. What is complete is judged from these files alone: the work left is the
units planned less the valid parts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vpdist.config import ResolvedConfig
from vpdist.encoder_kinds import KINDS, WIDEST, in_files, pooling_text
from vpdist.errors import StorageError
from vpdist.planning.plan import Plan
from vpdist.storage import hdf5_files
from vpdist.storage.atomic_files import storage_error
from vpdist.storage.hdf5_files import DamagedFile

FRAGMENT_BYTES = 16
"""Bytes of a fragment in a part: its numbers in `fragment` and `row`."""


def row_bytes(width: int, embedding_dtype: str, *, classified: bool) -> int:
    """Bytes of a row in the other datasets: embeddings of `width` numbers, logits where classified, `failed`."""
    return width * np.dtype(embedding_dtype).itemsize + (8 if classified else 0) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHeader:
    """The attributes of a part, the same for all parts of a run except `unit`."""

    plan: str
    """Identity of the plan and of the input it was made from."""
    dtype: str
    """Number format of the encoders."""
    embedding_dtype: str
    """Number format of the embeddings that logits were made from."""
    threads: int
    """CPU threads of the rank."""
    models: Mapping[str, str]
    """Fingerprint of each encoder that ran, by kind."""
    classifier: str
    """Fingerprint, or '' where nothing was classified."""
    embeddings: bool
    """Whether embeddings are stored."""
    poolings: Mapping[str, str] = field(default_factory=dict)
    """Pooling in words of encoders with another one than the method's own, by kind."""
    summary: str = ""
    """Fingerprint of the summary that `distance` is from, or '' where the model has none."""

    def attributes(self, unit: int) -> dict[str, str | int]:
        return {
            "plan": self.plan,
            "unit": unit,
            "dtype": self.dtype,
            "embedding_dtype": self.embedding_dtype,
            "threads": self.threads,
            **{f"{kind}_model": fingerprint for kind, fingerprint in in_files(self.models, "").items()},
            "classifier": self.classifier,
            "embeddings": int(self.embeddings),
            "pooling": pooling_text(self.models, self.poolings),
            **({"summary": self.summary} if self.summary else {}),
        }

    def datasets(self) -> tuple[str, ...]:
        """The datasets that every part of the run holds."""
        names = ["fragment", "row", "failed"]
        if self.classifier:
            names.append("logits")
        if self.summary:
            names.append("distance")
        if self.embeddings:
            names += self.models
        return tuple(names)

    def data_bytes(self, rows: int, fragments: int, width: int) -> int:
        """Bytes of all datasets of parts with so many rows and fragments; `width`: numbers in a row's embeddings."""
        stored = width if self.embeddings else 0
        row = row_bytes(stored, self.embedding_dtype, classified=bool(self.classifier)) + (4 if self.summary else 0)
        return rows * row + fragments * FRAGMENT_BYTES

    def column(self, name: str) -> tuple[str, tuple[int, ...] | None]:
        """Number format of a dataset, and the shape of its rows (None for embeddings, whose width is not checked)."""
        if name in KINDS:
            return self.embedding_dtype, None
        return {"logits": ("float32", (2,)), "distance": ("float32", ()), "failed": ("uint8", ())}.get(
            name, ("int64", ())
        )


def part_path(folder: Path, unit: int) -> Path:
    return folder / f"unit-{unit:06d}.h5"


def discard(folder: Path, unit: int) -> None:
    """Remove a part. Raises StorageError."""
    path = part_path(folder, unit)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error, "removed") from error


def fragment_rows(plan: Plan, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) fragment numbers of a unit in plan order, and (n,) the row of each in the unit."""
    fragments = plan.fragments(unit)
    return fragments.flat, np.repeat(np.arange(len(fragments)), fragments.lengths)


def write(
    folder: Path, unit: int, plan: Plan, header: PartHeader, failed: np.ndarray, results: Mapping[str, np.ndarray]
) -> int:
    """Write the part of `unit` and return its size in bytes.

    `failed` (m,) bool marks rows without a usable embedding; `results` holds `logits` and the embeddings to keep.
    Raises StorageError.
    """
    fragment, row = fragment_rows(plan, unit)
    datasets = {"fragment": fragment, "row": row, "failed": failed.astype(np.uint8), **results}
    if different := set(header.datasets()) ^ set(datasets):
        raise ValueError(f"unit {unit}: the header and the datasets differ in {sorted(different)}")
    return hdf5_files.write_atomic(part_path(folder, unit), datasets, header.attributes(unit))


def check(folder: Path, unit: int, plan: Plan, header: PartHeader, *, full: bool) -> None:
    """Raises DamagedFile unless the part of `unit` is this run's and is whole, StorageError where it is unreadable.

    `full` also compares the digest of every dataset; otherwise only attributes, names and shapes are checked.
    """
    path = part_path(folder, unit)
    with hdf5_files.opened(path) as file:
        found = hdf5_files.attributes(file)
        for name, value in header.attributes(unit).items():
            if found.get(name) != value:
                raise DamagedFile(f"{path}: {name} is {found.get(name)!r}, this run's is {value!r}")
        fragments = plan.fragments(unit)
        for name in header.datasets():
            dtype, row_shape = header.column(name)
            dataset = hdf5_files.dataset(file, name)
            rows = len(fragments.flat if name in ("fragment", "row") else fragments)
            if row_shape is None:
                row_shape_fits = dataset.ndim == 2 and dataset.shape[1] <= WIDEST
            else:
                row_shape_fits = dataset.shape[1:] == row_shape
            if dataset.dtype != dtype or dataset.shape[:1] != (rows,) or not row_shape_fits:
                raise DamagedFile(f"{path}: {name} is {dataset.dtype} {dataset.shape}, not {dtype} in {rows} rows")
            if full:
                hdf5_files.check_digest(file, name)
        if full:
            for name, expected in zip(("fragment", "row"), fragment_rows(plan, unit), strict=True):
                if not np.array_equal(hdf5_files.read(file, name, verify=False), expected):
                    raise DamagedFile(f"{path}: {name} differs from the plan")


def damaged(folder: Path, units: Iterable[int], plan: Plan, header: PartHeader, *, full: bool) -> dict[int, str]:
    """Units of `units` without a valid part, each with the reason. Raises StorageError for one that cannot be read."""
    reasons: dict[int, str] = {}
    for unit in units:
        try:
            check(folder, unit, plan, header, full=full)
        except DamagedFile as error:
            reasons[unit] = str(error)
    return reasons


def remaining(folder: Path, plan: Plan, header: PartHeader) -> list[int]:
    """Units without a valid part, judged by headers. Lists the folder once instead of opening absent files. Raises
    StorageError."""
    try:
        present = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise storage_error(folder, error, "read") from error
    existing = {unit for unit in range(plan.n_units) if part_path(folder, unit).name in present}
    valid = existing - damaged(folder, sorted(existing), plan, header, full=False).keys()
    return [unit for unit in range(plan.n_units) if unit not in valid]


def check_room(folder: Path, plan: Plan, header: PartHeader, width: int) -> None:
    """Raises StorageError when the missing parts do not fit on the disk. `width`: numbers in a row's embeddings."""
    needed = header.data_bytes(plan.n_rows, len(plan.fragment), width)
    try:
        written = sum(entry.stat().st_size for entry in folder.iterdir() if entry.name.startswith("unit-"))
        disk = shutil.disk_usage(folder)
    except OSError as error:
        raise storage_error(folder, error, "read") from error
    missing = needed - written
    if disk.total and missing > disk.free:
        raise StorageError(f"{folder}: {missing / 1e9:.3g} GB of parts do not fit: {disk.free / 1e9:.3g} GB are free")


def read(folder: Path, unit: int, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Datasets of a part, their digests checked. Raises DamagedFile."""
    with hdf5_files.opened(part_path(folder, unit)) as file:
        return {name: hdf5_files.read(file, name) for name in names}


def part_header(plan_id: str, resolved: ResolvedConfig) -> PartHeader:
    """The header of a run's parts."""
    return PartHeader(
        plan=plan_id,
        dtype=resolved.dtype,
        embedding_dtype=resolved.embedding_dtype,
        threads=resolved.threads,
        models=resolved.models,
        classifier=resolved.classifier or "",
        embeddings=resolved.embeddings,
        poolings=resolved.poolings,
        summary=resolved.summary or "",
    )
