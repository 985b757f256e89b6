"""Untrusted files are read up to a limit, and nothing is written where they lead."""

import errno
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vpdist.embedding.units_in_progress import UnitsInProgress
from vpdist.encoders import shape
from vpdist.encoders.shape import read_config
from vpdist.errors import StorageError, VpdistError, WeightsError
from vpdist.results import classifier
from vpdist.results.classifier import load_classifier
from vpdist.sequences import tokenizers
from vpdist.sequences.tokenizers import NucleotideTokenizer
from vpdist.storage import atomic_files
from vpdist.storage.atomic_files import read_json, read_limited, write_file
from vpdist.storage.hdf5_files import write_atomic
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.run_lock import Lock


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
    monkeypatch.setattr(atomic_files, "RECORD_LIMIT", 100)
    monkeypatch.setattr(classifier, "FILE_LIMIT", 100)
    (tmp_path / name).write_bytes(b'{"a": "' + b"x" * 100 + b'"}')
    with pytest.raises(refusal, match=f"{tmp_path / name}: cannot be read: is larger than 100 bytes"):
        read(tmp_path)


def test_a_file_that_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(atomic_files, "RECORD_LIMIT", 100)
    folder.update_run(some="x")
    with pytest.raises(
        StorageError, match=r"run.json: would have 1\d\d bytes, more than 100, .* give the input to more"
    ):
        folder.update_run(more=100 * "x")
    assert read_json(folder.run) == {"some": "x"}


FORESEEN = "00112233445566ff"
PLANTED = {
    "status.json": lambda folder: folder.write_status("done", 0, ""),
    "parts/x.h5": lambda folder: write_atomic(folder.parts / "x.h5", {}, {}),
    "sequences.tsv": lambda folder: write_file(folder.path / "sequences.tsv", b"x"),
    "lock": lambda folder: take_and_release(folder),
    "at_work": lambda folder: UnitsInProgress(folder, 0),
}


def take_and_release(folder: RunFolder) -> None:
    lock = Lock(folder)
    lock.take()
    lock.release()


def links_to(folder: RunFolder, name: str, victim: Path) -> None:
    """Symbolic links under all names that the writer of `name` may use, were its random number known."""
    path = folder.path / name
    at_work = f"rank00000.{os.getpid()}"
    links = [folder.at_work / at_work, folder.at_work / f"{at_work}.{FORESEEN}"] if name == "at_work" else []
    host = socket.gethostname()
    old = [f"lock.{host}.{os.getpid()}.tmp", f"lock.{host}.{os.getpid()}.old.tmp", f"{path.name}.{os.getpid()}.tmp"]
    links += [path.with_name(f".{each}") for each in (*old, f"{path.name}.{FORESEEN}.tmp")]
    for link in links:
        link.symlink_to(victim)


@pytest.mark.parametrize("foreseen", [False, True])
@pytest.mark.parametrize("name", PLANTED)
def test_links_planted_under_temporary_names_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, foreseen: bool
) -> None:
    folder, victim = RunFolder(tmp_path / "run"), tmp_path / "victim"
    folder.prepare(restart=False)
    victim.write_text("mine")
    links_to(folder, name, victim)
    if foreseen:
        monkeypatch.setattr(secrets, "token_hex", lambda _: FORESEEN)
    try:
        PLANTED[name](folder)
    except StorageError as error:
        assert foreseen
        assert "File exists" in str(error)  # noqa: PT017 - it need not be raised
    else:
        assert not foreseen or name == "lock"  # a name that is taken is tried again
    assert victim.read_text() == "mine"
    assert not (folder.path / name).is_symlink()
