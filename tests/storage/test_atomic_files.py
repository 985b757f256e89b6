"""Untrusted files are read up to a limit."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vpdist.encoders import shape
from vpdist.encoders.shape import read_config
from vpdist.errors import StorageError, VpdistError, WeightsError
from vpdist.results import classifier
from vpdist.results.classifier import load_classifier
from vpdist.sequences import tokenizers
from vpdist.sequences.tokenizers import NucleotideTokenizer
from vpdist.storage import atomic_files
from vpdist.storage.atomic_files import read_json, read_limited


@pytest.mark.parametrize("cut", [False, True])
def test_a_file_of_the_limits_size_is_read_whole(tmp_path: Path, cut: bool) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_limited(tmp_path / "file", 5, cut=cut) == b"12345"
    assert read_limited(tmp_path / "file", 9, cut=cut) == b"12345"


def test_one_byte_more_is_refused_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123456")
    assert read_limited(tmp_path / "file", 5, cut=True) == b"12345"
    with pytest.raises(OSError, match="is larger than 5 bytes") as refused:
        read_limited(tmp_path / "file", 5)
    assert refused.value.errno == errno.EFBIG
    assert refused.value.filename == str(tmp_path / "file")


def test_no_more_than_the_limit_is_held_of_a_file_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 36)  # no memory would hold it
    assert read_limited(path, 7, cut=True) == bytes(7)
    with pytest.raises(OSError, match="is larger than 7 bytes"):
        read_limited(path, 7)


def test_a_link_is_followed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("file")
    assert read_limited(tmp_path / "link", 5, follow=True) == b"1"
    with pytest.raises(OSError, match="is a symbolic link"):
        read_limited(tmp_path / "link", 5)


@pytest.mark.parametrize(
    ("name", "read", "refusal"),
    [
        ("run.json", lambda folder: read_json(folder / "run.json"), StorageError),
        ("config.json", read_config, WeightsError),
        ("tokenizer.json", NucleotideTokenizer, WeightsError),
        ("c.safetensors", lambda folder: load_classifier(folder / "c.safetensors"), WeightsError),
    ],
)
def test_what_is_too_large_is_named_and_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    read: Callable[[Path], object],
    refusal: type[VpdistError],
) -> None:
    for module in (atomic_files, shape, tokenizers):
        monkeypatch.setattr(module, "JSON_LIMIT", 100)
    monkeypatch.setattr(classifier, "FILE_LIMIT", 100)
    (tmp_path / name).write_bytes(b'{"a": "' + b"x" * 100 + b'"}')
    with pytest.raises(refusal, match=f"{tmp_path / name}: cannot be read: is larger than 100 bytes"):
        read(tmp_path)
