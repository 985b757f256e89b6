"""`--config`: options from a TOML file are read as if they were typed, and a mistake in it is named."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.test_cli import ENCODERS, TYPED, run_main, settings_of
from vpdist import cli
from vpdist.settings_file import MOST_BYTES

Patch = pytest.MonkeyPatch
PAGE = Path(__file__).resolve().parents[1] / "docs" / "index.md"


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_every_option_is_taken_from_a_file_as_if_it_were_typed(monkeypatch: Patch, tmp_path: Path) -> None:
    flags = ("--no-embeddings", "--offline", "--restart", "--legacy-output", "--replace-unknown")
    typed = [text for option in TYPED.items() for text in option]
    made = settings_of(monkeypatch, "predict", "a.fa", "-o", "run", *typed, *flags)
    values = {"output": "run"} | {option[2:]: value for option, value in TYPED.items()}
    lines = [f'{key} = "{value}"' if not value.isdigit() else f"{key} = {value}" for key, value in values.items()]
    lines += ['inputs = ["a.fa"]', *(f"{flag[2:]} = true" for flag in flags)]
    assert settings_of(monkeypatch, "predict", "--config", written(tmp_path, "\n".join(lines))) == made


def test_what_is_typed_comes_first_then_the_commands_table_then_the_top(monkeypatch: Patch, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'output = "run"\nmin-length = 1\nchunk-length = 300\noffline = true\nrestart = false\n'
        "[predict]\nmin-length = 2\nthreads = 3\n[embed]\nthreads = 4\n[plan]\nranks = 9\n",
    )
    made = settings_of(monkeypatch, "predict", "a.fa", "--config", path, "--threads", "5")
    assert (made.min_length, made.chunk_length, made.threads) == (2, 300, 5)
    assert (made.offline, made.restart, made.output) == (True, False, Path("run"))
    assert settings_of(monkeypatch, "embed", "a.fa", *ENCODERS, "--config", path).threads == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chunk-lenght = 300\n", "run.toml: chunk-lenght is no option of predict for a file; chunk-length?"),
        ("ranks = 4\n", "run.toml: ranks is no option of predict"),
        ("[predcit]\nthreads = 1\n", "run.toml: [predcit] is no command; predict?"),
        ("help = true\n", "help is no option"),
        ('config = "x.toml"\n', "config is no option"),
        ('offline = "yes"\n', "run.toml: offline is a flag: true or false"),
        ("threads = true\n", "run.toml: threads is True, which is neither a text nor a number"),
        ("model = 2026-01-01\n", "which is neither a text nor a number"),
        ("threads = [1]\n", "which is neither a text nor a number"),
        ("inputs = [[1]]\n", "which is neither a text nor a number"),
        ('output = ""\n', "run.toml: output is empty"),
        ('output = "a\\u0000b"\n', r"run.toml: output is 'a\x00b', with a NUL"),
        ('inputs = ["a.fa", "b\\u0000"]\n', r"run.toml: inputs is 'b\x00', with a NUL"),
        ("threads = 0\n", "--threads 0: must be from 1 to 1,024"),
        ("threads = 1.5\n", "threads"),
        ('dtype = "int8"\n', "--dtype int8: choose one of"),
        ("threads = \n", "is no TOML: Invalid value (at line 1, column 11)"),
        ("threads = 1\nthreads = 2\n", "is no TOML: Cannot overwrite a value (at line 2, column 12)"),
        ("#" * (MOST_BYTES + 1), "has more than 1,048,576 bytes"),
    ],
)
def test_a_mistake_in_the_file_is_named(
    text: str, message: str, monkeypatch: Patch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    monkeypatch.setattr(cli, "_run", lambda settings, nproc: None)
    assert run_main(monkeypatch, "predict", "a.fa", "-o", "run", "--config", path) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"model = \xff\n", None])
def test_a_file_that_cannot_be_read_is_told(
    content: bytes | None, monkeypatch: Patch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    assert run_main(monkeypatch, "embed", "a.fa", "-o", "run", "--config", path) == 2
    assert f"vpdist: --config {path}: " in capfd.readouterr().err


def test_the_file_that_the_documents_show_is_taken(monkeypatch: Patch, tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    made = settings_of(monkeypatch, "predict", "--config", written(tmp_path, shown), "--min-length", "500")
    assert (made.inputs, made.model, made.min_length) == (("a.fa.gz", "b.fa.gz"), "virnucpro-500", 500)
    assert not made.embeddings


def test_completion_does_not_read_the_file(tmp_path: Path) -> None:
    group: Any = typer.main.get_command(cli.app)
    arguments = ["--config", str(tmp_path / "none.toml")]
    context = group.commands["predict"].make_context("predict", arguments, resilient_parsing=True)
    assert context.default_map is None
