"""What is loaded is what the fingerprint was made from, whatever happens to the files meanwhile."""

import itertools
import os
import shutil
from pathlib import Path

import pytest

from tests.file_times import let_the_clock_tick
from tests.tiny_models import write_dnabert_s, write_esm2
from vpdist.encoders.model_files import ModelFiles, fingerprinted
from vpdist.encoders.weights import model_fingerprint
from vpdist.errors import WeightsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_esm2(tmp_path / "model")


@pytest.fixture
def files(folder: Path) -> ModelFiles:
    found = fingerprinted(folder)
    let_the_clock_tick(folder)
    return found


def test_the_fingerprint_is_that_of_the_bytes(folder: Path, files: ModelFiles) -> None:
    assert files.fingerprint == model_fingerprint(folder)


def test_what_is_read_from_unchanged_files_is_read_once(files: ModelFiles) -> None:
    times: list[int] = []
    assert files.read(lambda: times.append(1) or len(times)) == 1


def test_files_that_were_only_touched_are_loaded_again(folder: Path, files: ModelFiles) -> None:
    times: list[int] = []

    def load() -> int:
        times.append(1)
        if len(times) == 1:
            os.utime(folder / "model.safetensors", ns=(0, 0))
        return len(times)

    assert files.read(load) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"])
def test_a_file_that_changes_while_it_is_loaded_is_noticed(folder: Path, files: ModelFiles, name: str) -> None:
    path = folder / name
    status = path.stat()

    def load() -> None:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    with pytest.raises(WeightsError, match=r"model: the model's files have changed during the run"):
        files.read(load)


def test_what_was_loaded_from_files_that_changed_back_is_not_kept(folder: Path, files: ModelFiles) -> None:
    path = folder / "model.safetensors"
    right, loaded = path.read_bytes(), list[bytes]()

    def load() -> bytes:
        if not loaded:
            path.write_bytes(right[:-4] + bytes(4))
        loaded.append(path.read_bytes())
        if len(loaded) == 1:
            path.write_bytes(right)
        return loaded[-1]

    assert files.read(load) == right
    assert loaded == [right[:-4] + bytes(4), right]


def test_files_that_are_written_to_without_end_are_refused(folder: Path, files: ModelFiles) -> None:
    times = itertools.count(1)
    with pytest.raises(WeightsError, match="are changed while they are read"):
        files.read(lambda: os.utime(folder / "config.json", ns=(0, next(times))))


def test_a_file_that_is_read_before_the_others_is_noticed_when_it_appears(tmp_path: Path) -> None:
    folder = write_dnabert_s(tmp_path / "model")
    other = write_dnabert_s(tmp_path / "other", seed=9, safetensors=True)
    files = fingerprinted(folder)
    with pytest.raises(WeightsError, match="have changed during the run"):
        files.read(lambda: shutil.copy(other / "model.safetensors", folder))


def test_a_file_that_is_removed_is_told(folder: Path, files: ModelFiles) -> None:
    with pytest.raises(WeightsError, match="has no weights"):
        files.read((folder / "model.safetensors").unlink)
