"""`--files-from`: inputs from a list, as if they had been named on the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from scripts.faults.object_server import ObjectServer
from tests.object_stores import SECRET, object_server, objects  # noqa: F401 - fixtures
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands import input_list
from vpdist.commands.input_list import read_list
from vpdist.commands.piped_input import piped_names
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.errors import InputError, UsageError
from vpdist.estimate.dry_run import forecast
from vpdist.session.session import Session
from vpdist.storage.run_folder import TABLES, RunFolder


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a.fa\nb c.fa\n", ["a.fa", "b c.fa"]),
        (b"\na.fa\r\n\r\n#b.fa", ["a.fa", "#b.fa"]),
        (b"a\nb.fa\0c.fa\0", ["a\nb.fa", "c.fa"]),
        (b"caf\xe9.fa\n", ["caf\udce9.fa"]),
    ],
)
def test_a_list_names_files_one_a_line_or_ended_by_nul(tmp_path: Path, content: bytes, names: list[str]) -> None:
    (tmp_path / "list").write_bytes(content)
    assert read_list(tmp_path / "list", "-") == names


def test_a_list_that_names_nothing_or_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (b"", b"\n \n"):
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(InputError, match="-: names no files"):
            read_list(tmp_path / "list", "-")
    with pytest.raises(InputError, match="absent: cannot be read: No such file"):
        read_list(tmp_path / "absent", "absent")
    monkeypatch.setattr(input_list, "LIST_LIMIT", 2)
    with pytest.raises(InputError, match="is this a list of files"):
        read_list(tmp_path / "list", "-")


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    return [str(write_contigs(tmp_path / f"{number}.fa", n=3, seed=number)) for number in range(3)]


def run_tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


def test_files_of_a_list_follow_those_that_are_named(models: TinyModels, inputs: list[str], tmp_path: Path) -> None:
    named = models.settings(Path(inputs[0]), tmp_path / "named", inputs=tuple(inputs))
    assert predict(named) == 0
    (tmp_path / "list").write_text("\n".join(inputs[1:]))
    listed = replace(named, inputs=(inputs[0],), files_from=str(tmp_path / "list"), output=tmp_path / "listed")
    assert predict(listed) == 0
    assert run_tables(tmp_path / "listed") == run_tables(tmp_path / "named")
    recorded = json.loads((tmp_path / "listed" / "run.json").read_text())
    assert [name for name, *_ in recorded["decisions"]["input"]] == inputs
    assert recorded["settings"]["files_from"] == str(tmp_path / "list")
    only_list = replace(listed, inputs=(), dry_run=True)
    assert forecast(only_list, 1, None).counts.sequences == 8


def test_a_list_comes_through_standard_input_and_need_not_be_given_again(
    models: TinyModels,
    inputs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "list").write_text("\n".join(inputs))
    (tmp_path / "nothing").touch()
    settings = models.settings(Path(), tmp_path / "run", inputs=(), files_from="-")
    for name in ("list", "nothing", "list"):
        with (tmp_path / name).open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert predict(settings) == 0
    (tmp_path / "list").write_text(inputs[0])
    with (tmp_path / "list").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert predict(settings) == 2
    assert "standard input differs from what was read before" in capfd.readouterr().err


def piped(settings: Settings, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """The exit code of a run into whose standard input `content` is piped."""
    (tmp_path / "piped").write_bytes(content)
    with (tmp_path / "piped").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        return predict(settings)


def test_signatures_of_a_list_are_not_kept_and_a_list_that_is_signed_anew_is_the_same(
    models: TinyModels,
    inputs: list[str],
    tmp_path: Path,
    objects: ObjectServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    objects.objects.content["/bucket/x.fa"] = Path(inputs[0]).read_bytes()

    def signed(signature: str) -> bytes:
        address = f"{objects.endpoint}/bucket/x.fa".replace("://", f"://me:{signature}@")
        return f"{address}?X-Amz-Signature={signature}\r\n{inputs[1]}\n".encode()

    settings = models.settings(Path(), tmp_path / "run", inputs=(), files_from="-")
    assert piped(settings, signed(SECRET), monkeypatch, tmp_path) == 0
    kept = settings.output / "tokens" / "files-from"
    assert not [path for path in settings.output.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert piped(settings, signed("another"), monkeypatch, tmp_path) == 0
    assert kept.read_bytes().startswith(b"http://@127.0.0.1:")
    capfd.readouterr()
    assert piped(settings, b"", monkeypatch, tmp_path) == 2
    told = f"{objects.endpoint}/bucket/x.fa: had a signature or a password, which is not kept; pipe the list in again"
    assert told in capfd.readouterr().err
    assert piped(settings, signed(SECRET).replace(b"x.fa", b"y.fa"), monkeypatch, tmp_path) == 2
    assert "standard input differs from what was read before" in capfd.readouterr().err


def test_a_list_that_an_earlier_version_kept_loses_its_signatures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare(restart=False)
    whole = f"https://host/a.fa?sig={SECRET}\0b c.fa\0".encode()
    folder.input_list.write_bytes(whole)
    control = SimpleNamespace(raise_if_ending=lambda: None, runtime=SimpleNamespace(attempt=1))
    session = SimpleNamespace(folder=folder, control=control, progress=SimpleNamespace(message=lambda text: None))

    def names(content: bytes) -> list[str]:
        (tmp_path / "piped").write_bytes(content)
        with (tmp_path / "piped").open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            return piped_names(cast(Session, session))

    assert names(b"") == [f"https://host/a.fa?sig={SECRET}", "b c.fa"]
    assert names(b"https://host/a.fa?sig=another\0b c.fa") == ["https://host/a.fa?sig=another", "b c.fa"]
    assert folder.input_list.read_bytes() == b"https://@host/a.fa\0b c.fa"
    monkeypatch.setattr(input_list, "LIST_LIMIT", 2)
    with pytest.raises(InputError, match=r"-: has more than .* is this a list of files"):
        names(b"abc")
    folder.input_list.unlink()
    with pytest.raises(UsageError, match="was consumed by an attempt"):
        names(b"")


def test_what_is_named_twice_or_reads_standard_input_twice_is_refused(
    models: TinyModels, inputs: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = models.settings(Path(inputs[0]), tmp_path / "run", files_from=str(tmp_path / "list"))
    (tmp_path / "list").write_text(inputs[0])
    assert predict(settings) == 2
    assert f"{inputs[0]} is named twice" in capfd.readouterr().err
    with pytest.raises(UsageError, match="can be read once only"):
        replace(settings, inputs=("-",), files_from="-")
    with pytest.raises(UsageError, match="no input"):
        Settings(inputs=(), output=tmp_path / "run", protein_model="x")
    assert predict(replace(settings, files_from=str(tmp_path / "absent"))) == 3


def test_the_number_of_files_costs_no_time_that_grows_with_its_square(tmp_path: Path) -> None:
    names = tuple(f"{number}.fa" for number in range(150_000))
    with pytest.raises(UsageError, match=r"149999\.fa is named twice"):
        Settings(inputs=(*names, names[-1]), output=tmp_path / "run", protein_model="x")
