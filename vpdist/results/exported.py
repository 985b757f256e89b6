"""`vpdist export`: names, columns of the tables and embeddings in one file that other programs open.

Enter: gathered embeddings and the table with the same rows. Leaves: HDF5, npz, parquet or h5ad, whole or absent.
Promises: blocks of rows, so that memory does not grow with the run (npz: 8 bytes a number of
the table's columns, 36 a call).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from vpdist.calibration.judgement import CALLS
from vpdist.errors import UsageError
from vpdist.results import h5ad
from vpdist.results.gathered import FRAGMENT, Gathered, check_room
from vpdist.results.table_files import FLOATS, INTEGERS, NA, Table, opened_table
from vpdist.storage.atomic_files import DamagedFile, replacing, replacing_by_name

FORMATS = ("h5", "npz", "parquet", "h5ad")
NPZ_TEXTS, NPZ_WORD = frozenset(("prediction", "call")), f"U{max(map(len, CALLS))}"
"""Columns of texts that an npz has, beside the names, and their number format."""
BLOCK_BYTES = 1 << 24
"""Bytes of embeddings in a block."""
MOST_ROWS = 1 << 14
NPZ_NAME_BYTES = 1 << 33
"""Bytes of the names in an npz at most: each takes four for every letter of the longest."""

Column = Sequence[str] | np.ndarray


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported."""

    folder: Path
    """With the tables."""
    per: str
    rows: Gathered
    attributes: Mapping[str, str]
    """Of the run and of the model, in words."""

    @property
    def table(self) -> str:
        return "fragments" if self.per == FRAGMENT else "sequences"

    @property
    def block_rows(self) -> int:
        return max(1, min(MOST_ROWS, BLOCK_BYTES // max(1, 4 * self.rows.width)))

    def columns(self) -> tuple[str, ...]:
        """Names of the columns, that of the rows' names first."""
        with opened_table(self.folder, self.table) as table:
            return (*table.columns, "n_embedded")

    def blocks(self) -> Iterator[tuple[slice, dict[str, Column]]]:
        """The rows of the table in blocks: which rows, and their columns by name.

        Raises DamagedFile unless there is a row for each embedding."""
        with opened_table(self.folder, self.table) as table:
            rows, start = iter(table), 0
            while block := list(islice(rows, self.block_rows)):
                which = slice(start, start + len(block))
                start = which.stop
                if start > len(self.rows):
                    break
                yield which, _columns(table, block) | {"n_embedded": self.rows.n_embedded[which]}
            if start != len(self.rows):
                raise DamagedFile(f"{table.path}: does not have the {len(self.rows):,} rows of the run")


def _columns(table: Table, rows: list[list[str]]) -> dict[str, Column]:
    """Columns of numbers as int64 or float64 with NaN for NA, the others as texts. Raises DamagedFile."""
    columns: dict[str, Column] = {}
    for name, cells in zip(table.columns, zip(*rows, strict=True), strict=True):
        try:
            if name in INTEGERS:
                columns[name] = np.array([int(cell) for cell in cells], np.int64)
            elif name in FLOATS:
                columns[name] = np.array([np.nan if cell == NA else float(cell) for cell in cells])
            else:
                columns[name] = cells
        except ValueError as error:
            raise DamagedFile(f"{table.path}: {name} is not a number: {error}") from error
    return columns


def export(target: Path, form: str, source: Source) -> None:
    """Write `target`. Raises DamagedFile, StorageError; UsageError where the library for the format is missing."""
    check_room(target, 4 * len(source.rows) * source.rows.width)
    if form == "npz":
        _write_npz(target, source)
        return
    with replacing_by_name(target) as path:
        {"h5": _write_h5, "parquet": _write_parquet, "h5ad": _write_h5ad}[form](path, source)


def _write_h5(path: Path, source: Source) -> None:
    """`name` (n,) and a dataset per kind of encoder (n, width); the other columns lie in the group `columns`."""
    names = source.columns()
    with h5py.File(path, "w", locking=False) as file:
        file.attrs.update(source.attributes)
        for kind, matrix in source.rows.embeddings.items():
            file.create_dataset(kind, matrix.shape, matrix.dtype)
        writers = h5_columns(file, {names[0]: "name"} | {name: f"columns/{name}" for name in names[1:]}, source)
        for which, columns in source.blocks():
            for kind, matrix in source.rows.embeddings.items():
                file[kind][which] = matrix[which]
            for name, column in columns.items():
                writers[name][which] = column


def h5_columns(file: h5py.File, paths: Mapping[str, str], source: Source) -> dict[str, h5py.Dataset]:
    """New datasets for columns, at these paths."""
    n, text = len(source.rows), h5py.string_dtype()
    chunks = (min(n, source.block_rows),) if n else None
    return {
        name: file.create_dataset(path, (n,), column_type(name, text), chunks=chunks) for name, path in paths.items()
    }


def column_type(name: str, text: Any) -> Any:
    """Number format of a column, `text` for one of texts."""
    return np.int64 if name in INTEGERS else np.float64 if name in FLOATS else text


def _write_h5ad(path: Path, source: Source) -> None:
    """X has the embeddings of all kinds side by side in float32; obs has the table, named by its first column."""
    names = source.columns()
    variables = [
        (f"{kind}_{k}", kind) for kind, matrix in source.rows.embeddings.items() for k in range(matrix.shape[1])
    ]
    with h5py.File(path, "w", locking=False) as file:
        h5ad.begin(file, (len(source.rows), len(variables)), names, variables, source.attributes)
        writers = h5_columns(file, {name: f"obs/{name}" for name in names}, source)
        for name, dataset in writers.items():
            h5ad.mark_column(dataset, is_text=name not in INTEGERS | FLOATS)
        for which, columns in source.blocks():
            file["X"][which] = _joined(source, which)
            for name, column in columns.items():
                writers[name][which] = column


def _joined(source: Source, which: slice) -> np.ndarray:
    """(m, all widths) float32."""
    pieces = [np.zeros((which.stop - which.start, 0), np.float32)]
    pieces += [np.asarray(matrix[which], np.float32) for matrix in source.rows.embeddings.values()]
    return np.concatenate(pieces, axis=1)


def require(form: str) -> None:
    """Raises UsageError where the library that writes this format is not installed."""
    if form == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UsageError("--to parquet needs pyarrow: pip install 'vpdist[export]'") from None


def _write_parquet(path: Path, source: Source) -> None:
    """A column per column of the table, and per kind of encoder one of lists of float32."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = source.columns()
    widths = {kind: matrix.shape[1] for kind, matrix in source.rows.embeddings.items() if matrix.shape[1]}
    fields = [pa.field(name, pa.from_numpy_dtype(column_type(name, np.str_))) for name in names]
    fields += [pa.field(kind, pa.list_(pa.float32(), width)) for kind, width in widths.items()]
    schema = pa.schema(fields, metadata=dict(source.attributes))
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=True) as writer:
        for which, columns in source.blocks():
            arrays = [pa.array(columns[name], field.type) for name, field in zip(names, fields, strict=False)]
            for kind, width in widths.items():
                numbers = pa.array(np.asarray(source.rows.embeddings[kind][which], np.float32).reshape(-1))
                arrays.append(pa.FixedSizeListArray.from_arrays(numbers, width))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _write_npz(target: Path, source: Source) -> None:
    """Arrays `name`, NPZ_TEXTS, the columns of numbers, and the embeddings of each kind; other texts stay in the
    tables."""
    names, n = source.columns(), len(source.rows)
    kept = (INTEGERS | FLOATS | NPZ_TEXTS) - {names[0]}
    arrays = {name: np.zeros(n, column_type(name, NPZ_WORD)) for name in names if name in kept}
    longest = 1
    for which, columns in source.blocks():
        longest = max(longest, *map(len, columns[names[0]]))
        for name, array in arrays.items():
            array[which] = columns[name]
    if 4 * longest * n > NPZ_NAME_BYTES:
        raise UsageError(f"--to npz: the names take {4 * longest * n / 1e9:.3g} GB there; export to h5 or parquet")
    text = np.dtype(("U", longest))

    with replacing(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        name_blocks = (np.array(columns[names[0]], text) for _, columns in source.blocks())
        _add_array(archive, "name", (n,), text, name_blocks)
        for name, array in arrays.items():
            _add_array(archive, name, (n,), array.dtype, [array])
        for kind, matrix in source.rows.embeddings.items():
            step = source.block_rows
            blocks = (matrix[start : start + step] for start in range(0, n, step))
            _add_array(archive, kind, matrix.shape, matrix.dtype, blocks)


def _add_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[np.ndarray]
) -> None:
    """An entry NAME.npy as numpy reads it, written block by block; its time is that of all zip files without one."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    entry: IO[bytes]
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
        np.lib.format.write_array_header_1_0(entry, header)
        for block in blocks:
            entry.write(np.ascontiguousarray(block, dtype).tobytes())
