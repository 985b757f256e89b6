"""HDF5 files that are either complete or absent.

A file's image is built in memory, written with plain I/O under a temporary name, fsynced, renamed, and its folder
fsynced: a killed process leaves no half-written file, and a full disk raises OSError instead of crashing inside the
HDF5 library. Every dataset carries an xxh3_128 digest of its bytes.

Files may come from strangers. Only what `image` writes is read: numbers that lie as they are inside a regular file.
Links, virtual and external datasets would lead out of the folder; filters and claimed sizes would fill the memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import xxhash

from vpdist.errors import StorageError
from vpdist.storage.atomic_files import open_regular, write_file

FORMAT_VERSION = 2
MOST_LISTED = 100
"""Attributes of a file: vpdist has fewer."""


class DamagedFile(StorageError):  # noqa: N818 - what it is, not what failed
    """An HDF5 file of the run cannot be opened, lacks a dataset, or a digest does not match."""


def array_digest(array: np.ndarray) -> str:
    """xxh3_128 (hex) of an array's dtype, shape and bytes in C order."""
    digest = xxhash.xxh3_128()
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def image(datasets: Mapping[str, np.ndarray], attributes: Mapping[str, str | int | float]) -> bytes:
    """The bytes of an HDF5 file holding `datasets` (contiguous, uncompressed, each with a `digest` attribute).

    An attribute has room for 60 KB."""
    file = _empty_image()
    try:
        for name, value in {"format_version": FORMAT_VERSION, **attributes}.items():
            _set_attribute(file, name, value)
        for name, array in datasets.items():
            kind, space = h5py.h5t.py_create(array.dtype, logical=True), h5py.h5s.create_simple(array.shape)
            dataset = h5py.h5d.create(file, name.encode(), kind, space, _contiguous())
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array))
            _set_attribute(dataset, "digest", array_digest(array))
        h5py.h5f.flush(file)
        return bytes(file.get_file_image())
    finally:
        file.close()


def _contiguous() -> h5py.h5p.PropDCID:
    """How datasets are made: in one piece, and without the time of day."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_obj_track_times(False)
    return creation


def _empty_image() -> h5py.h5f.FileID:
    """A file in memory that keeps attributes in the simplest way HDF5 has, as a list: the library has been seen to hang
    in a heap in which one bit was flipped."""
    access, creation = h5py.h5p.create(h5py.h5p.FILE_ACCESS), h5py.h5p.create(h5py.h5p.FILE_CREATE)
    access.set_fapl_core(backing_store=False)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    creation.set_attr_phase_change(MOST_LISTED, 0)
    creation.set_obj_track_times(False)  # the same content is the same bytes, whenever it is written
    return h5py.h5f.create(b"image", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)


def _set_attribute(owner: h5py.h5f.FileID | h5py.h5d.DatasetID, name: str, value: str | int | float) -> None:
    """A text is stored with its length: those without lie in a heap of the file. (`attrs` takes thrice the time.)"""
    if isinstance(value, str):
        encoded = value.encode()
        stored = np.array(encoded, f"S{max(1, len(encoded))}")
        kind = h5py.h5t.py_create(h5py.string_dtype("utf-8", stored.itemsize), logical=True)
    else:
        stored = np.array(value)
        kind = h5py.h5t.py_create(stored.dtype, logical=True)
    h5py.h5a.create(owner, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR)).write(stored, kind)


def write_atomic(
    path: Path,
    datasets: Mapping[str, np.ndarray],
    attributes: Mapping[str, str | int | float],
    *,
    durable: bool = True,
) -> int:
    """Build and write an HDF5 file (`durable`: see files.replacing); returns its size in bytes. Raises StorageError."""
    content = image(datasets, attributes)
    write_file(path, content, durable=durable)
    return len(content)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file written by `write_atomic` for reading, without file locks (network file systems lack them).

    Raises DamagedFile for a file that is absent, truncated or of another format version.
    """
    try:
        open_regular(path).close()
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DamagedFile(f"{path}: cannot be opened as HDF5: {error}") from error
    with file:
        # A flipped bit in HDF5's own structures surfaces as any of these, wherever it is touched.
        try:
            version = _attribute(file, "format_version")
            if version != FORMAT_VERSION:
                raise DamagedFile(f"{path}: format version {version}, this vpdist reads {FORMAT_VERSION}")
            yield file
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise DamagedFile(f"{path}: cannot be read as this file should be: {error!r}") from error


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset `name`: numbers that are stored in this very file, in one piece, as they are. Raises DamagedFile."""
    try:
        found = h5py.h5d.open(file.id, name.encode()) if has(file, name) else None
    except (KeyError, ValueError):  # a group
        found = None
    if found is None or found.get_create_plist().get_layout() == h5py.h5d.VIRTUAL or found.dtype.kind not in "iuf":
        raise DamagedFile(f"{file.filename}: no dataset {name!r} of numbers stored in this file")
    if found.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        raise DamagedFile(f"{file.filename}: {name} is not stored in one piece")
    offset = found.get_offset()  # None where nothing is stored, or elsewhere
    stored = 0 if offset is None else os.path.getsize(file.filename) - offset
    if math.prod(found.shape) * found.dtype.itemsize > stored:
        raise DamagedFile(f"{file.filename}: {name} claims to be larger than what is stored of it")
    return h5py.Dataset(found)


def has(file: h5py.File, name: str) -> bool:
    """Whether `name` is an object of this file; a link to another file is not followed to find out."""
    try:
        return bool(file.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD)
    except (KeyError, RuntimeError):
        return False


def read(file: h5py.File, name: str, *, verify: bool = True) -> np.ndarray:
    """A whole dataset, its digest checked. Raises DamagedFile."""
    found = dataset(file, name)
    try:
        array = np.empty(found.id.shape, found.id.dtype)
        found.id.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    except OSError as error:
        raise DamagedFile(f"{file.filename}: {name} cannot be read: {error}") from error
    if verify:
        _check_digest(found, array)
    return array


def map_dataset(file: h5py.File, name: str, *, verify: bool = True) -> np.ndarray:
    """A dataset mapped read-only from disk instead of read, its digest checked. Raises DamagedFile."""
    found = dataset(file, name)
    offset = found.id.get_offset()
    if found.size == 0 or offset is None:
        return read(file, name, verify=verify)
    array = np.memmap(file.filename, dtype=found.dtype, mode="r", offset=offset, shape=found.shape)
    if verify:
        _check_digest(found, array)
    return array


def _check_digest(found: h5py.Dataset, array: np.ndarray) -> None:
    if _attribute(found, "digest") != array_digest(array):
        name = found.name.removeprefix("/")
        raise DamagedFile(f"{found.file.filename}: the digest of {name} does not match its content")


def attributes(file: h5py.File) -> dict[str, str | int | float | None]:
    """The file's attributes, texts and numbers. Raises DamagedFile for any other."""
    return {name: _attribute(file, name) for name in file.attrs}


def _attribute(owner: h5py.File | h5py.Dataset, name: str) -> str | int | float | None:
    """A text or a number, None where there is no such attribute. Raises DamagedFile for anything else.

    (`attrs` takes twice the time, and a run's tables are made from thousands of files.)"""
    if not h5py.h5a.exists(owner.id, name.encode()):
        return None
    found = h5py.h5a.open(owner.id, name.encode())
    if found.shape != () or found.dtype.kind not in "iufS":
        raise DamagedFile(f"{owner.file.filename}: the attribute {name} is neither a text nor a number")
    stored = np.empty((), found.dtype)
    found.read(stored)
    value = stored.item()
    return value.decode() if isinstance(value, bytes) else value
