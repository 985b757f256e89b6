"""Setting store and parts aside for --retry-failed: whoever is killed in the middle leaves what the next command finishes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vpdist.commands.retry import forget, set_aside
from vpdist.storage.atomic_files import write_json
from vpdist.storage.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder with a part and a store, as a command finds it that was killed while it set them aside."""
    folder = RunFolder(tmp_path / "run")
    folder.prepare(restart=False)
    write_json(folder.run, {"versions": {}, "decisions": {}})
    (folder.parts / "unit-000000.h5").write_bytes(b"part")
    (folder.tokens / "store.json").write_bytes(b"store")
    folder.before_retry.mkdir()
    write_json(RunFolder(folder.before_retry).run, {})
    return folder


@pytest.mark.parametrize("parts_moved", [False, True])
def test_what_a_killed_command_has_begun_is_finished(folder: RunFolder, parts_moved: bool) -> None:
    before = RunFolder(folder.before_retry)
    if parts_moved:
        os.rename(folder.parts, before.parts)
        folder.prepare(restart=False)
    for _ in range(2):  # the second time there is nothing to do
        set_aside(folder, None)
        assert (before.parts / "unit-000000.h5").read_bytes() == b"part"
        assert (before.tokens / "store.json").read_bytes() == b"store"
        assert not list(folder.parts.iterdir())
        assert not list(folder.tokens.iterdir())


def test_without_a_retry_nothing_is_set_aside(folder: RunFolder) -> None:
    forget(folder)
    assert not folder.before_retry.exists()
    set_aside(folder, None)
    assert (folder.parts / "unit-000000.h5").exists()


def test_a_restart_discards_what_was_set_aside_and_follows_no_link(folder: RunFolder, tmp_path: Path) -> None:
    folder.prepare(restart=True)
    assert not folder.before_retry.exists()
    (tmp_path / "elsewhere").mkdir()
    folder.before_retry.symlink_to(tmp_path / "elsewhere")
    (folder.parts / "unit-000000.h5").write_bytes(b"part")
    set_aside(folder, None)
    forget(folder)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (folder.parts / "unit-000000.h5").exists()


def test_a_retry_that_recorded_nothing_is_begun_anew(folder: RunFolder) -> None:
    before = RunFolder(folder.before_retry)
    write_json(before.run, {"decisions": {}})  # as RUN has it: killed before it recorded what it found
    set_aside(folder, None)
    assert not folder.before_retry.exists()
    folder.before_retry.mkdir()  # killed before anything was in it
    set_aside(folder, None)
    assert not folder.before_retry.exists()
    assert (folder.parts / "unit-000000.h5").exists()
    assert (folder.tokens / "store.json").exists()


@pytest.mark.parametrize("killed_at", range(4))
def test_whoever_is_killed_while_removing_what_was_set_aside_keeps_the_new_parts(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    set_aside(folder, None)
    (folder.parts / "unit-000000.h5").write_bytes(b"new part")
    removals = 0

    def killed(remove: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: object, **options: object) -> None:
            nonlocal removals
            if removals == killed_at:
                raise KeyboardInterrupt
            removals += 1
            remove(*arguments, **options)

        return counted

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed(shutil.rmtree))
        patched.setattr(Path, "unlink", killed(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            forget(folder)
    set_aside(folder, None)
    assert (folder.parts / "unit-000000.h5").read_bytes() == b"new part"
    forget(folder)
    assert not folder.before_retry.exists()
