"""The embeddings of a run in the order of its tables: parts hold them by unit, equal fragments once.

Enter: the parts of a finished run. Leave: a matrix per kind of encoder, a row per fragment or per sequence, in files
that are mapped. Promises: memory for one part and 16 bytes a fragment; the same bytes on every machine, as parts are
read in the order of the plan.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpdist.errors import StorageError
from vpdist.results import parts
from vpdist.results.embedded_run import EmbeddedRun, fragment_records
from vpdist.storage.atomic_files import storage_error, temporary_beside
from vpdist.storage.run_folder import RunFolder

SEQUENCE, FRAGMENT = "sequence", "fragment"
PER = (SEQUENCE, FRAGMENT)
"""What a row stands for. A sequence's embedding is the mean over its fragments that have one, in float32."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """n rows in the order of sequences.tsv or fragments.tsv."""

    embeddings: Mapping[str, np.ndarray]
    """(n, width) by kind of encoder, mapped: float32 per sequence, else as stored; NaN where there is none."""
    n_embedded: np.ndarray
    """(n,) int64, fragments with a usable embedding that the row was made from."""

    def __len__(self) -> int:
        return len(self.n_embedded)

    @property
    def width(self) -> int:
        """Numbers of a row in all."""
        return sum(array.shape[1] for array in self.embeddings.values())


@contextmanager
def gathered(
    folder: RunFolder, run: EmbeddedRun, per: str, beside: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> Iterator[Gathered]:
    """The embeddings of a run, in files beside `beside` that are there while the block lasts.

    `progress` is called after each unit with how many are done, and of how many. Raises DamagedFile; StorageError,
    also where the disk has no room.
    """
    records = fragment_records(folder, run.summary)
    per_sequence = per == SEQUENCE
    n = run.summary.n_records if per_sequence else run.summary.n_fragments
    dtype = np.dtype(np.float32) if per_sequence else run.dtype
    check_room(beside, n * sum(run.widths) * dtype.itemsize)
    n_embedded = np.zeros(n, np.int64)
    with ExitStack() as stack:
        matrices = {
            kind: stack.enter_context(_matrix(beside, (n, width), dtype))
            for kind, width in zip(run.kinds, run.widths, strict=True)
        }
        for unit in range(run.plan.n_units):
            parts.check(folder.parts, unit, run.plan, run.header, full=False)
            part = parts.read(folder.parts, unit, ("failed", *run.kinds))
            if any(part[kind].shape[1] != matrices[kind].shape[1] for kind in run.kinds):
                raise StorageError(f"{parts.part_path(folder.parts, unit)}: embeddings have another width")
            fragment, row = parts.fragment_rows(run.plan, unit)
            order = np.argsort(fragment, kind="stable")
            fragment, row = fragment[order], row[order]
            sound = part["failed"][row] == 0
            fragment, row = fragment[sound], row[sound]
            if per_sequence:
                _add(matrices, n_embedded, records[fragment], row, part)
            else:
                n_embedded[fragment] = 1
                for kind, matrix in matrices.items():
                    matrix[fragment] = part[kind][row]
            progress(unit + 1, run.plan.n_units)
        for matrix in matrices.values():
            _finish(matrix, n_embedded)
        yield Gathered(matrices, n_embedded)


def _add(
    matrices: Mapping[str, np.ndarray],
    n_embedded: np.ndarray,
    record: np.ndarray,
    row: np.ndarray,
    part: Mapping[str, np.ndarray],
) -> None:
    """Add the rows of a part to the sums of their sequences: `record` (m,) ascends."""
    starts = np.flatnonzero(np.diff(record, prepend=-1))
    if not len(starts):
        return
    of = record[starts]
    n_embedded[of] += np.diff(np.append(starts, len(record)))
    for kind, matrix in matrices.items():
        matrix[of] += np.add.reduceat(part[kind][row].astype(np.float32), starts, axis=0)


ROWS = 1 << 12
"""Rows of a matrix that are changed at once."""


def _finish(matrix: np.ndarray, n_embedded: np.ndarray) -> None:
    """Sums to means, NaN where nothing was added."""
    for start in range(0, len(matrix), ROWS):
        count = n_embedded[start : start + ROWS, None]
        block = matrix[start : start + ROWS]
        np.divide(block, np.where(count > 0, count, np.nan), out=block, casting="unsafe")


@contextmanager
def _matrix(beside: Path, shape: tuple[int, int], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Zeros in a new file beside `beside`, which has no name any more once it is mapped."""
    if not shape[0] * shape[1]:
        yield np.zeros(shape, dtype)
        return
    path = temporary_beside(beside)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            path.unlink()
            size = shape[0] * shape[1] * dtype.itemsize
            try:
                os.posix_fallocate(descriptor, 0, size)  # a full disk is an error here, and a signal later
            except OSError as error:
                raise storage_error(beside, error) from error
            matrix = np.memmap(file, dtype, "r+", shape=shape)
            yield matrix
    except OSError as error:
        raise storage_error(beside, error) from error


def check_room(path: Path, needed: int) -> None:
    """Raises StorageError unless so many bytes are free where `path` is to lie."""
    try:
        free = shutil.disk_usage(path.absolute().parent).free
    except OSError as error:
        raise storage_error(path, error) from error
    if needed > free:
        raise StorageError(f"{path}: {needed / 1e9:.3g} GB do not fit: {free / 1e9:.3g} GB are free")
