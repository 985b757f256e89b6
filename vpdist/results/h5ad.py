"""The marks by which anndata knows what lies in an HDF5 file (its on-disk format, specification 0.1.0).

Written here, not by anndata, which holds all rows in memory. https://anndata.readthedocs.io has the specification
("On disk format"); tests read the files with anndata itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import h5py
import numpy as np

MAPPINGS = ("layers", "obsm", "obsp", "varm", "varp", "uns")


def begin(
    file: h5py.File,
    shape: tuple[int, int],
    columns: Sequence[str],
    variables: Sequence[tuple[str, str]],
    attributes: Mapping[str, str],
) -> None:
    """Mark an empty file, and write all that does not grow with the rows.

    Args:
        file: open for writing.
        shape: (n, m) of X, which is float32.
        columns: of obs; the first one has the names of the rows.
        variables: (m,) name and kind of encoder of each column of X.
        attributes: texts for uns["vpdist"].
    """
    _mark(file, "anndata", "0.1.0")
    for name in MAPPINGS:
        _mark(file.create_group(name), "dict", "0.1.0")
    matrix = file.create_dataset("X", shape, np.float32)
    _mark(matrix, "array", "0.2.0")
    _frame(file.create_group("obs"), columns)
    var = file.create_group("var")
    _frame(var, ("feature", "kind"))
    for position, name in enumerate(("feature", "kind")):
        dataset = var.create_dataset(name, (len(variables),), h5py.string_dtype())
        if variables:
            dataset[:] = [row[position] for row in variables]
        mark_column(dataset, is_text=True)
    told = file["uns"].create_group("vpdist")
    _mark(told, "dict", "0.1.0")
    for name, text in attributes.items():
        _mark(told.create_dataset(name, data=text, dtype=h5py.string_dtype()), "string", "0.2.0")


def mark_column(dataset: h5py.Dataset, *, is_text: bool) -> None:
    """Mark a column of obs or var."""
    _mark(dataset, "string-array" if is_text else "array", "0.2.0")


def _frame(group: h5py.Group, columns: Sequence[str]) -> None:
    """A data frame whose index is its first column."""
    _mark(group, "dataframe", "0.2.0")
    group.attrs["_index"] = columns[0]
    group.attrs.create("column-order", list(columns[1:]), dtype=h5py.string_dtype())


def _mark(owner: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    owner.attrs["encoding-type"], owner.attrs["encoding-version"] = kind, version
