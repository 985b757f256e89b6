"""HDF5 files: complete or absent, every dataset under a digest, nothing read from outside the file."""

import errno
import io
import os
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from vpdist.errors import StorageError
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile

ARRAYS = {"a": np.arange(1000, dtype=np.float32).reshape(100, 10), "none": np.zeros((0, 3), dtype=np.int64)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "x.h5"
    hdf5_files.write_atomic(target, ARRAYS, {"plan": "abc", "unit": 3})
    return target


def test_what_is_written_can_be_read(path: Path) -> None:
    with hdf5_files.opened(path) as file:
        assert hdf5_files.attributes(file) == {"format_version": hdf5_files.FORMAT_VERSION, "plan": "abc", "unit": 3}
        for name, array in ARRAYS.items():
            assert np.array_equal(hdf5_files.read(file, name), array)


def test_mapped_arrays_equal_read_ones(path: Path) -> None:
    with hdf5_files.opened(path) as file:
        for name, array in ARRAYS.items():
            assert np.array_equal(hdf5_files.map_dataset(file, name), array)
        assert isinstance(hdf5_files.map_dataset(file, "a"), np.memmap)


def test_equal_content_gives_equal_bytes() -> None:
    assert hdf5_files.image(ARRAYS, {"unit": 1}) == hdf5_files.image(ARRAYS, {"unit": 1})


def test_no_temporary_file_is_left(path: Path) -> None:
    assert os.listdir(path.parent) == ["x.h5"]


def test_a_flipped_bit_is_found_by_the_digest(path: Path) -> None:
    content = bytearray(path.read_bytes())
    position = content.index(np.float32(7).tobytes() + np.float32(8).tobytes())
    content[position] ^= 1
    path.write_bytes(content)
    for read in (hdf5_files.read, hdf5_files.map_dataset):
        with hdf5_files.opened(path) as file, pytest.raises(DamagedFile, match="digest of a"):
            read(file, "a")


@pytest.mark.parametrize("kept", [0, 10, 100, 2000])
def test_a_truncated_file_is_damaged(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedFile), hdf5_files.opened(path) as file:
        hdf5_files.read(file, "a")


def test_an_absent_file_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"nothing\.h5"), hdf5_files.opened(tmp_path / "nothing.h5"):
        pass


def test_links_out_of_the_file_and_virtual_datasets_are_refused(path: Path, tmp_path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/a")
        file["soft"] = h5py.SoftLink("/a")
        layout = h5py.VirtualLayout(shape=(100, 10), dtype="f4")
        layout[...] = h5py.VirtualSource("other.h5", "a", shape=(100, 10))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", (4,), dtype="u1", external=[("/etc/hostname", 0, 4)])
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["a"] = ARRAYS["a"]
    with hdf5_files.opened(path) as file:
        assert file["elsewhere"].shape == (100, 10)  # HDF5 itself would follow it
        for name in ("elsewhere", "soft", "virtual", "external", "absent"):
            with pytest.raises(DamagedFile, match=name):
                hdf5_files.dataset(file, name)


def test_another_format_version_is_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(DamagedFile, match="format version 99"), hdf5_files.opened(path):
        pass


def test_a_folder_that_is_not_there_is_a_storage_error_naming_the_path(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone/x\.h5: cannot be written: No such file"):
        hdf5_files.write_atomic(tmp_path / "gone" / "x.h5", ARRAYS, {})


def test_digests_tell_shape_and_type_apart() -> None:
    zeros = [np.zeros((2, 3), np.int8), np.zeros((3, 2), np.int8), np.zeros(6, np.int8), np.zeros((2, 3), np.uint8)]
    assert len({hdf5_files.array_digest(array) for array in zeros}) == 4


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOMEM])
def test_a_file_that_cannot_be_read_now_is_not_taken_for_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(hdf5_files, "open_regular", fail)
    reason = f"{path}: cannot be read: {os.strerror(number)}"
    with pytest.raises(StorageError, match=reason) as told, hdf5_files.opened(path):
        pass
    assert not isinstance(told.value, DamagedFile)


def test_no_descriptor_left_for_the_hdf5_library_is_not_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_files, "open_regular", lambda *_: io.BytesIO())
    lowest_free = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(StorageError, match=os.strerror(errno.EMFILE)) as told, hdf5_files.opened(path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(told.value, DamagedFile)


@pytest.mark.parametrize("kind", [OSError, KeyError, RuntimeError])
@pytest.mark.parametrize(("number", "damage"), [(errno.EIO, False), (errno.EINVAL, True), (0, True)])
def test_what_the_library_says_while_reading_is_told_apart(
    path: Path, kind: type[Exception], number: int, damage: bool
) -> None:
    """A damaged address in a file is EINVAL; a library's own complaint has no number."""
    with pytest.raises(StorageError) as told, hdf5_files.opened(path):
        raise kind(f"Can't read data (file read failed: time = now, errno = {number}, error message = '...')")
    assert isinstance(told.value, DamagedFile) == damage
