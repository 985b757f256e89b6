"""HDF5 files that are either complete or absent.

A file's image is built in memory, written with plain I/O under a temporary name, fsynced, renamed, and its folder
fsynced: a killed process leaves no half-written file, and a full disk raises OSError instead of crashing inside the
HDF5 library (5 of 5 times; "Files" in docs/design.md). Every dataset carries an xxh3_128 digest of its bytes.

Files may be untrusted. Only what `image` writes is read: numbers stored contiguously and unfiltered in a regular file.
Links, virtual and external datasets would lead out of the folder; filters and false sizes would fill the memory.

The low-level calls of h5py take 0.69 ms of a processor for a small part, the high-level ones 1.09.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import xxhash

from vpdist.errors import StorageError
from vpdist.storage.atomic_files import ABSENT_OR_OTHER, DamagedFile, open_regular, storage_error, write_file

FORMAT_VERSION = 2
ERRNO = re.compile(r"\berrno = ([0-9]+)")
"""How the HDF5 library passes on an error of the system."""
MOST_ATTRIBUTES = 100
"""More than any file of vpdist has."""


PIECE_BYTES = 1 << 24
"""Bytes of a dataset that are read at once where only its digest is compared."""


def array_digest(array: np.ndarray) -> str:
    """xxh3_128 (hex) of an array's dtype, shape and bytes in C order."""
    digest = xxhash.xxh3_128()
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def image(datasets: Mapping[str, np.ndarray], attributes: Mapping[str, str | int | float]) -> bytes:
    """The bytes of an HDF5 file holding `datasets` (contiguous, uncompressed, each with a `digest` attribute).

    An attribute takes at most 60 KB."""
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
    """Creation properties of datasets: contiguous, without time stamps."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_obj_track_times(False)
    return creation


def _empty_image() -> h5py.h5f.FileID:
    """A file in memory that keeps attributes in a list: the library was seen to hang in a heap with a flipped bit."""
    access, creation = h5py.h5p.create(h5py.h5p.FILE_ACCESS), h5py.h5p.create(h5py.h5p.FILE_CREATE)
    access.set_fapl_core(backing_store=False)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    creation.set_attr_phase_change(MOST_ATTRIBUTES, 0)
    creation.set_obj_track_times(False)  # the same content is the same bytes, whenever it is written
    return h5py.h5f.create(b"image", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)


def _set_attribute(owner: h5py.h5f.FileID | h5py.h5d.DatasetID, name: str, value: str | int | float) -> None:
    """Store a number, or a text with fixed length: others lie in a heap. (16 µs; with `attrs` 28.)"""
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
    """Build and write an HDF5 file, `durable` as in `replacing`; returns its size in bytes. Raises StorageError."""
    content = image(datasets, attributes)
    write_file(path, content, durable=durable)
    return len(content)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file written by `write_atomic` for reading, without file locks (network file systems lack them).

    Raises DamagedFile for a file that is absent, truncated or of another format version, and StorageError where the
    system cannot read it now; errors within the block are told apart in the same way.
    """
    try:
        open_regular(path).close()
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise _read_error(path, error, f"cannot be opened as HDF5: {error}") from error
    with file:
        # A flipped bit in HDF5's own structures raises any of these, at any access.
        try:
            version = _attribute(file, "format_version")
            if version != FORMAT_VERSION:
                raise DamagedFile(f"{path}: format version {version}, this vpdist reads {FORMAT_VERSION}")
            yield file
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise _read_error(path, error, f"does not have the structure that vpdist writes: {error!r}") from error


def _read_error(path: Path | str, error: Exception, damage: str) -> StorageError:
    """A StorageError where the system could not read the file, else a DamagedFile that says `damage`."""
    told = ERRNO.search(str(error))
    number = (error.errno if isinstance(error, OSError) else None) or (int(told[1]) if told else 0)
    if number and number not in ABSENT_OR_OTHER:
        return storage_error(Path(path), OSError(number, os.strerror(number)), "read")
    return DamagedFile(f"{path}: {damage}")


def _raise_unless_damage(file: h5py.File, error: Exception) -> None:
    """Raises StorageError if `error` says that the system could not read the file."""
    if not isinstance(told := _read_error(file.filename, error, str(error)), DamagedFile):
        raise told from error


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset `name`, numbers stored contiguously and unfiltered in this file. Raises DamagedFile for any other."""
    try:
        opened_id = h5py.h5d.open(file.id, name.encode()) if has(file, name) else None
    except (KeyError, ValueError) as error:  # a group
        _raise_unless_damage(file, error)
        opened_id = None
    if opened_id is None or opened_id.dtype.kind not in "iuf":
        raise DamagedFile(f"{file.filename}: has no dataset {name!r} of numbers")
    if opened_id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        raise DamagedFile(f"{file.filename}: the dataset {name} is not stored contiguously in this file")
    offset = opened_id.get_offset()  # None where nothing is stored, or in another file
    stored = 0 if offset is None else os.path.getsize(file.filename) - offset
    if math.prod(opened_id.shape) * opened_id.dtype.itemsize > stored:
        raise DamagedFile(f"{file.filename}: the dataset {name} has a larger size than what is stored of it")
    return h5py.Dataset(opened_id)


def has(file: h5py.File, name: str) -> bool:
    """Whether `name` is an object of this file. Links to other files are not followed."""
    try:
        return bool(file.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD)
    except (KeyError, RuntimeError) as error:
        _raise_unless_damage(file, error)
        return False


def check_digest(file: h5py.File, name: str) -> None:
    """Compare a dataset of one dimension or more with its digest, piece by piece. Raises DamagedFile."""
    source = dataset(file, name)
    digest = xxhash.xxh3_128(f"{source.dtype.str}{source.shape}".encode())
    row_bytes = source.dtype.itemsize * math.prod(source.shape[1:])
    rows = max(1, PIECE_BYTES // max(1, row_bytes))
    for start in range(0, len(source), rows):
        digest.update(np.ascontiguousarray(source[start : start + rows]).reshape(-1).view(np.uint8).data)
    _compare(source, digest.hexdigest())


def read(file: h5py.File, name: str, *, verify: bool = True, most_bytes: int | None = None) -> np.ndarray:
    """A whole dataset, its digest checked with `verify`. Raises DamagedFile, also for one of more than `most_bytes`:
    a file with a hole takes no room on the disk."""
    source = dataset(file, name)
    if most_bytes is not None and source.nbytes > most_bytes:
        raise DamagedFile(f"{file.filename}: {name} has {source.nbytes:,} bytes, more than the limit of {most_bytes:,}")
    array = np.empty(source.id.shape, source.id.dtype)
    try:
        source.id.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    except OSError as error:
        raise _read_error(file.filename, error, f"the dataset {name} cannot be read: {error}") from error
    return _verified(source, array) if verify else array


def map_dataset(file: h5py.File, name: str, *, verify: bool = True) -> np.ndarray:
    """`read`, but mapped read-only from disk."""
    source = dataset(file, name)
    offset = source.id.get_offset()
    if source.size == 0 or offset is None:
        return read(file, name, verify=verify)
    array = np.memmap(file.filename, dtype=source.dtype, mode="r", offset=offset, shape=source.shape)
    return _verified(source, array) if verify else array


def _verified(source: h5py.Dataset, array: np.ndarray) -> np.ndarray:
    """A dataset's array. Raises DamagedFile unless its digest matches."""
    _compare(source, array_digest(array))
    return array


def _compare(source: h5py.Dataset, digest: str) -> None:
    """Raises DamagedFile unless a dataset's attribute has this digest."""
    if _attribute(source, "digest") != digest:
        name = source.name.removeprefix("/")
        raise DamagedFile(f"{source.file.filename}: the digest of {name} does not match its content")


def attributes(file: h5py.File) -> dict[str, str | int | float | None]:
    """The file's attributes. Raises DamagedFile for one that is neither a text nor a number."""
    return {name: _attribute(file, name) for name in file.attrs}


def _attribute(owner: h5py.File | h5py.Dataset, name: str) -> str | int | float | None:
    """A text or a number, None where there is no such attribute. Raises DamagedFile for anything else.

    (28 µs, with `attrs` 33; a run's tables are made from thousands of files.)"""
    if not h5py.h5a.exists(owner.id, name.encode()):
        return None
    attribute = h5py.h5a.open(owner.id, name.encode())
    if attribute.shape != () or attribute.dtype.kind not in "iufS":
        raise DamagedFile(f"{owner.file.filename}: the attribute {name} is neither a text nor a number")
    stored = np.empty((), attribute.dtype)
    attribute.read(stored)
    value = stored.item()
    return value.decode() if isinstance(value, bytes) else value
