"""HDF5 files that are either complete or absent.

A file's image is built in memory, written with plain I/O under a temporary name, fsynced, renamed, and its folder
fsynced: a killed process leaves no half-written file, and a full disk raises OSError instead of crashing inside the
HDF5 library. Every dataset carries an xxh3_128 digest of its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from vpdist.errors import StorageError
from vpdist.files import write_file

FORMAT_VERSION = 1


class DamagedFile(StorageError):  # noqa: N818 - what it is, not what failed
    """An HDF5 file of the run cannot be opened, lacks a dataset, or a digest does not match."""


def array_digest(array: np.ndarray) -> str:
    """xxh3_128 (hex) of an array's dtype, shape and bytes in C order."""
    digest = xxhash.xxh3_128()
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def image(datasets: Mapping[str, np.ndarray], attributes: Mapping[str, str | int | float]) -> bytes:
    """The bytes of an HDF5 file holding `datasets` (contiguous, uncompressed, each with a `digest` attribute)."""
    with h5py.File("image", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        file.attrs["format_version"] = FORMAT_VERSION
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, array in datasets.items():
            dataset = file.create_dataset(name, data=array, track_times=False)
            dataset.attrs["digest"] = array_digest(array)
        file.flush()
        return bytes(file.id.get_file_image())


def write_atomic(path: Path, datasets: Mapping[str, np.ndarray], attributes: Mapping[str, str | int | float]) -> int:
    """Build and write an HDF5 file; returns its size in bytes. Raises StorageError."""
    content = image(datasets, attributes)
    write_file(path, content)
    return len(content)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file written by `write_atomic` for reading, without file locks (network file systems lack them).

    Raises DamagedFile for a file that is absent, truncated or of another format version.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DamagedFile(f"{path}: cannot be opened as HDF5: {error}") from error
    with file:
        # A flipped bit in HDF5's own structures surfaces as any of these, wherever it is touched.
        try:
            version = file.attrs.get("format_version")
            if version != FORMAT_VERSION:
                raise DamagedFile(f"{path}: format version {version}, this vpdist reads {FORMAT_VERSION}")
            yield file
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise DamagedFile(f"{path}: cannot be read as this file should be: {error!r}") from error


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset `name`, stored inside this very file: links to other files and virtual datasets are refused."""
    link = file.get(name, getlink=True)
    found = file.get(name) if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise DamagedFile(f"{file.filename}: no dataset {name!r} stored in this file")
    return found


def read(file: h5py.File, name: str, *, verify: bool = True) -> np.ndarray:
    """A whole dataset, its digest checked. Raises DamagedFile."""
    found = dataset(file, name)
    try:
        array = np.asarray(found[...])
    except OSError as error:
        raise DamagedFile(f"{file.filename}: {name} cannot be read: {error}") from error
    if verify and found.attrs.get("digest") != array_digest(array):
        raise DamagedFile(f"{file.filename}: the digest of {name} does not match its content")
    return array


def mapped(path: Path, name: str) -> np.ndarray:
    """A dataset mapped read-only from disk instead of read, its digest not checked. Raises DamagedFile."""
    with opened(path) as file:
        return _map(file, name)


def mapped_all(path: Path) -> dict[str, np.ndarray]:
    """All datasets mapped read-only from disk, their digests not checked. Raises DamagedFile."""
    with opened(path) as file:
        return {name: _map(file, name) for name in file}


def _map(file: h5py.File, name: str) -> np.ndarray:
    found = dataset(file, name)
    offset = found.id.get_offset()
    if found.size == 0 or offset is None:
        return read(file, name, verify=False)
    return np.memmap(file.filename, dtype=found.dtype, mode="r", offset=offset, shape=found.shape)


def attributes(file: h5py.File) -> dict[str, Any]:
    """The file's attributes as plain Python values."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()}
