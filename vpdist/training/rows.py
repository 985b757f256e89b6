"""The embeddings of all rows of a run in one file that every rank maps: a fit draws them in a random order.

Parts hold the same numbers by unit. The file has the format .npy, is written once by rank 0, and its name has a digest
of what it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from vpdist.errors import StorageError
from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.parts import PartHeader
from vpdist.storage.atomic_files import replacing, storage_error


@dataclass(frozen=True, slots=True)
class Rows:
    """The embeddings of a plan's r rows, encoders side by side."""

    matrix: np.ndarray
    """(r, d + d') in the run's number format, mapped from disk."""
    widths: tuple[int, ...]
    """Numbers of each encoder, in their order."""

    def by_encoder(self, rows: np.ndarray) -> list[np.ndarray]:
        """As parts hold them, what a classifier takes: (m, d) and (m, d')."""
        return np.split(self.matrix[rows], np.cumsum(self.widths)[:-1], axis=1)


def rows_path(folder: Path, plan: Plan, header: PartHeader) -> Path:
    key = xxhash.xxh3_64_hexdigest(repr((plan.digest(), header.attributes(0))).encode())
    return folder / f"rows-{key}.npy"


def write_rows(
    path: Path,
    folder: Path,
    plan: Plan,
    kinds: Sequence[str],
    widths: Sequence[int],
    dtype: np.dtype,
    progress: Callable[[int], None] = lambda fragments: None,
) -> None:
    """Write the rows of all parts in `folder` to `path`, unless they are there, and remove those of other runs.

    `progress` is called after each unit with its number of fragments. Raises DamagedFile, StorageError.
    """
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob("rows-*.npy"):
            old.unlink()
    except OSError as error:
        raise storage_error(path, error) from error
    with replacing(path) as file:
        shape = (plan.n_rows, sum(widths))
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for unit in range(plan.n_units):
            part = parts.read(folder, unit, kinds)
            file.write(np.ascontiguousarray(np.concatenate([part[kind] for kind in kinds], axis=1), dtype).tobytes())
            progress(len(plan.fragments(unit).flat))


def map_rows(path: Path, plan: Plan, widths: Sequence[int], dtype: np.dtype) -> Rows:
    """Raises StorageError where the file cannot be read or has another shape."""
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False) if plan.n_rows else np.zeros((0, sum(widths)), dtype)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    if matrix.shape != (plan.n_rows, sum(widths)) or matrix.dtype != dtype:
        raise StorageError(f"{path}: is {matrix.dtype} {matrix.shape}, not {dtype} {(plan.n_rows, sum(widths))}")
    return Rows(matrix, tuple(widths))
