"""The command line: what each command takes, what becomes of it, and what is not imported for it."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from tests.launched import environment
from tests.snapshots import row, snapshot
from vpdist import cli
from vpdist.config import OPTIONS, Settings

COMPUTING = (
    "[--nucleotide-model] [--protein-model] [--chunk-length=500] [--min-length=0] [--dtype=auto] "
    "[--embedding-dtype=auto] [--token-budget=auto] [--threads] [--device=auto] [--progress=auto] [--offline] "
)
RUNNING = "[--nproc] [--schedule=static] [--stall-timeout=1800.0] [--restart] "
COMMANDS = {
    "predict": "[inputs=[]] [--files-from] -o/--output --classifier [--consensus=mean] [--no-embeddings] [--legacy-output] "
    + (COMPUTING + RUNNING),
    "embed": "[inputs=[]] [--files-from] -o/--output " + COMPUTING + RUNNING,
    "plan": "[inputs=[]] [--files-from] [-o/--output] [--classifier] [--ranks] [--no-embeddings] [--json] " + COMPUTING,
    "classify": "run --classifier [--consensus] [--progress=auto] [--legacy-output]",
    "verify": "run",
    "watch": "run",
    "download": "models",
    "import-classifier": "source -o/--output",
}
TYPED = {
    "--files-from": "list.txt",
    "--nucleotide-model": "some/encoder",
    "--protein-model": "some/other",
    "--classifier": "c.safetensors",
    "--chunk-length": "300",
    "--min-length": "7",
    "--consensus": "max",
    "--dtype": "float32",
    "--embedding-dtype": "float16",
    "--token-budget": "4096",
    "--threads": "3",
    "--device": "cpu",
    "--schedule": "dynamic",
    "--progress": "log",
    "--stall-timeout": "60",
}
ENCODERS = ("--nucleotide-model", "n", "--protein-model", "p")


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vpdist", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def settings_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Settings:
    made: list[Settings] = []
    monkeypatch.setattr(cli, "_run", lambda settings, nproc: made.append(settings))
    assert run_main(monkeypatch, *arguments) == 0
    return made[0]


def described(parameter) -> str:  # type: ignore[no-untyped-def]
    """`--needed`, `[--optional=default]`, with its short form."""
    text = "/".join(parameter.opts)
    if parameter.default is not None and parameter.default is not False:
        text += f"={parameter.default}"
    return text if parameter.required else f"[{text}]"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_these_options_and_no_others(command: str) -> None:
    group = typer.main.get_command(cli.app)
    assert set(group.commands) == set(COMMANDS)  # type: ignore[attr-defined]
    parameters = group.commands[command].params  # type: ignore[attr-defined]
    assert sorted(map(described, parameters)) == sorted(COMMANDS[command].split())


def test_every_setting_that_can_be_typed_has_its_help() -> None:
    assert {field.name for field in fields(Settings)} - set(OPTIONS) == {"dry_run"}
    assert all(option.help for option in OPTIONS.values())


def test_what_is_not_typed_is_the_default_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings_of(monkeypatch, "embed", "a.fa", "-", "-o", "run", "--protein-model", "some/encoder")
    assert made == Settings(inputs=("a.fa", "-"), output=Path("run"), protein_model="some/encoder")


def test_every_option_arrives_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--no-embeddings", "--offline", "--restart", "--legacy-output")
    typed = [text for option in TYPED.items() for text in option]
    made = settings_of(monkeypatch, "predict", "a.fa", "--output", "run", *typed, *flags)
    assert made == Settings(
        inputs=("a.fa",),
        output=Path("run"),
        nucleotide_model="some/encoder",
        protein_model="some/other",
        classifier=Path("c.safetensors"),
        chunk_length=300,
        min_length=7,
        consensus="max",
        dtype="float32",
        files_from="list.txt",
        embedding_dtype="float16",
        embeddings=False,
        token_budget=4096,
        threads=3,
        device="cpu",
        schedule="dynamic",
        progress="log",
        stall_timeout=60.0,
        offline=True,
        restart=True,
        legacy_output=True,
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--chunk-length", "2"), "--chunk-length 2: must be from 3 to 1,000,000"),
        (("--chunk-length", "1000001"), "--chunk-length 1000001: must be from 3 to 1,000,000"),
        (("--chunk-length", "many"), "chunk-length"),
        (("--min-length", "-1"), "--min-length -1: must be at least 0"),
        (("--token-budget", "0"), "--token-budget 0: must be at least 1"),
        (("--token-budget", "many"), "--token-budget many: give auto or a number of tokens"),
        (("--threads", "0"), "--threads 0: must be at least 1"),
        (("--stall-timeout", "0.5"), "--stall-timeout 0.5: must be at least 1"),
        (("--dtype", "int8"), "--dtype int8: choose one of auto, float32, bfloat16, float16"),
        (("--embedding-dtype", "bfloat16"), "--embedding-dtype bfloat16: choose one of auto, float32, float16"),
        (("--device", "gpu"), "--device gpu: choose one of auto, cpu, cuda"),
        (("--schedule", "fair"), "--schedule fair: choose one of static, dynamic"),
        (("--progress", "loud"), "--progress loud: choose one of auto, bars, log, none"),
        (("--legacy-output",), "legacy-output"),
    ],
)
def test_a_wrong_option_is_named_and_exits_with_2(
    wrong: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "embed", "a.fa", "-o", "run", *ENCODERS, *wrong) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("missing", ["inputs", "--output", "--classifier"])
def test_what_a_command_needs_is_asked_for(
    missing: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"inputs": ("a.fa",), "--output": ("-o", "run"), "--classifier": ("--classifier", "c")}
    del given[missing]
    assert run_main(monkeypatch, "predict", *ENCODERS, *(text for texts in given.values() for text in texts)) == 2
    assert {"inputs": "no input"}.get(missing, missing.strip("-")) in capfd.readouterr().err


def imported(*arguments: object) -> tuple[int, set[str]]:
    """The exit code of a command in an interpreter of its own, and the packages it imported."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vpdist", *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return ended.returncode, set(re.findall(r"^import time:.*\| +(\w+)$", ended.stderr, re.MULTILINE))


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("predict", "--help"), ("plan", "--help")])
def test_help_starts_without_torch(arguments: tuple[str, ...]) -> None:
    code, packages = imported(*arguments)
    assert (code, packages & {"torch", "transformers", "numpy"}) == (0, set())
    assert "typer" in packages


def test_watching_starts_without_torch(tmp_path: Path) -> None:
    (tmp_path / "progress.jsonl").write_text(snapshot(1, row(), ended="").to_json() + "\n")
    code, packages = imported("watch", tmp_path)
    assert (code, packages & {"torch", "transformers"}) == (0, set())
    assert "numpy" in packages


def test_an_import_of_torch_would_be_seen(tmp_path: Path) -> None:
    code, packages = imported("import-classifier", tmp_path / "none.pth", "-o", tmp_path / "c.safetensors")
    assert (code, packages & {"torch"}) == (4, {"torch"})
