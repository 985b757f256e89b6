"""The command line: what each command takes, what becomes of it, and what is not imported for it."""

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import vpdist
from tests.launched import environment
from tests.snapshots import row, snapshot
from vpdist import cli
from vpdist.commands.early_checks import check_classifier_file, check_input, check_system, check_temporary_folder
from vpdist.config import OPTIONS, ResolvedConfig, Settings
from vpdist.encoders.hub import local_folder
from vpdist.errors import StorageError, UsageError, VpdistError
from vpdist.models.classifier_file import recorded_chunk_length
from vpdist.models.find import find_model
from vpdist.session.ending import as_storage_error
from vpdist.storage.run_folder import RunFolder

COMPUTING = (
    "[--model] [--nucleotide-model] [--protein-model] [--chunk-length] [--min-length=0] [--replace-unknown] "
    "[--dtype=auto] [--embedding-dtype=auto] [--token-budget=auto] [--threads] [--device=auto] [--progress=auto] [--offline] [--config] [--help-all] "
)
CALLING = "[--prevalence] [--sensitive] [--balanced] [--strict] [--max-fdr] "
RUNNING = "[--nproc] [--reuse] [--schedule=static] [--log-interval=30.0] [--stall-timeout=1800.0] [--restart] "
COMMANDS = {
    "predict": "[inputs=[]] [--files-from] [--manifest] [--shard] [--retry-failed] [--publish] -o/--output [--classifier] [--allow-short] [--consensus=mean] [--no-embeddings] [--legacy-output] "
    "[--min-score=0.0] [--gzip-tables] " + (COMPUTING + CALLING + RUNNING),
    "embed": "[inputs=[]] [--files-from] [--manifest] [--shard] [--retry-failed] [--publish] -o/--output [--gzip-tables] "
    + COMPUTING
    + RUNNING,
    "plan": "[inputs=[]] [--files-from] [--manifest] [--shard] [--price] [--rate] [--sample] [--seed=1] [-o/--output] "
    "[--classifier] [--ranks] [--no-embeddings] [--json] " + COMPUTING,
    "classify": "run [--model] [--classifier] [--consensus] [--progress=auto] [--offline] [--legacy-output] [--min-score=0.0] "
    "[--gzip-tables] " + CALLING,
    "train": "--virus --other -o/--output [--groups] [--gbff] [--hidden=512] [--dropout=0.5] [--optimizer=sgd] "
    "[--learning-rate=0.0002] [--momentum=0.9] [--weight-decay=0.0] [--learning-rate-schedule=step] [--decay-every=10] "
    "[--decay=0.85] [--epochs=200] [--patience=5] [--keep=best] [--batch-size=32] [--class-weights=none] [--oversample=[]] "
    "[--validation-share=0.1] [--test-share=0.1] [--calibration-share=0.1] "
    "[--heads] [--heads-hidden] [--shortest-chunk] [--bootstraps=1000] [--seed=2026] [--name] [--description] "
    "[--licence=unknown] " + (COMPUTING + RUNNING),
    "merge": "runs -o/--output [--progress=auto]",
    "verify": "run",
    "report": "run [-o/--output] [--png] [--multiqc]",
    "export": "run --to [--per=sequence] [-o/--output]",
    "watch": "run [--replay]",
    "status": "run [--json]",
    "download": "names",
    "models": "[--folder] [--json]",
    "check": "[--model=mini] [--dtype=float32] [--device=auto] [--threads] [--offline] [--write] [--folder] [--json]",
    "info": "[--json]",
    "import-classifier": "source -o/--output [--chunk-length] [--nucleotide-model] [--protein-model] [--offline]",
}
TYPED = {
    "--publish": "file:///shared/run",
    "--files-from": "list.txt",
    "--model": "virnucpro-500",
    "--nucleotide-model": "some/encoder",
    "--protein-model": "some/other",
    "--classifier": "c.safetensors",
    "--chunk-length": "300",
    "--min-length": "7",
    "--consensus": "max",
    "--prevalence": "0.3",
    "--max-fdr": "0.2",
    "--dtype": "float32",
    "--embedding-dtype": "float16",
    "--token-budget": "4096",
    "--threads": "3",
    "--device": "cpu",
    "--schedule": "dynamic",
    "--progress": "log",
    "--log-interval": "5",
    "--stall-timeout": "60",
    "--min-score": "0.25",
}
ENCODERS = ("--nucleotide-model", "n", "--protein-model", "p")
PINNED = "zhihan1996/DNABERT-S"


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vpdist", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def settings_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Settings:
    made: list[Settings] = []
    monkeypatch.setattr(cli, "_run", lambda settings, nproc, *run: made.append(settings))
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
    assert {field.name for field in fields(Settings)} - set(OPTIONS) == {"calls", "dry_run"}
    assert all(option.help for option in OPTIONS.values())


def test_what_is_not_typed_is_the_default_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings_of(monkeypatch, "embed", "a.fa", "-", "-o", "run", "--protein-model", "some/encoder")
    assert made == Settings(inputs=("a.fa", "-"), output=Path("run"), protein_model="some/encoder", calls=False)


def test_every_option_arrives_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (
        "--no-embeddings",
        "--offline",
        "--restart",
        "--legacy-output",
        "--allow-short",
        "--strict",
        "--gzip-tables",
    )
    typed = [text for option in TYPED.items() for text in option]
    made = settings_of(monkeypatch, "predict", "a.fa", "--output", "run", *typed, *flags)
    assert made == Settings(
        inputs=("a.fa",),
        output=Path("run"),
        model="virnucpro-500",
        nucleotide_model="some/encoder",
        protein_model="some/other",
        classifier=Path("c.safetensors"),
        chunk_length=300,
        min_length=7,
        allow_short=True,
        consensus="max",
        prevalence=0.3,
        max_fdr=0.2,
        strict=True,
        dtype="float32",
        files_from="list.txt",
        embedding_dtype="float16",
        embeddings=False,
        token_budget=4096,
        threads=3,
        device="cpu",
        schedule="dynamic",
        progress="log",
        log_interval=5.0,
        stall_timeout=60.0,
        offline=True,
        restart=True,
        legacy_output=True,
        min_score=0.25,
        gzip_tables=True,
        publish="file:///shared/run",
    )


def test_a_manifest_takes_the_place_of_inputs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = ("-o", "run", "--manifest", "m.tsv", "--shard", "3/7", "--retry-failed")
    made = settings_of(monkeypatch, "embed", *typed, *ENCODERS)
    assert (made.inputs, made.manifest, made.shard, made.retry_failed) == ((), Path("m.tsv"), "3/7", True)
    assert run_main(monkeypatch, "embed", "a.fa", *typed, *ENCODERS) == 2
    assert "--manifest names all inputs" in capfd.readouterr().err
    assert run_main(monkeypatch, "embed", "a.fa", "-o", "run", "--shard", "1/2", *ENCODERS) == 2
    assert "--shard needs a --manifest" in capfd.readouterr().err
    assert run_main(monkeypatch, "embed", "-o", "run", "--manifest", "m", "--shard", "3", *ENCODERS) == 2
    assert "--shard 3: give i/n" in capfd.readouterr().err


def test_a_merged_run_takes_no_shards_place(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert run_main(monkeypatch, "merge", tmp_path, "-o", tmp_path) == 2
    assert "is one of the shards; name a new folder" in capfd.readouterr().err
    assert run_main(monkeypatch, "merge", tmp_path / "none", "-o", tmp_path / "new") == 2
    assert "holds no run" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--chunk-length", "2"), "--chunk-length 2: must be from 3 to 1,000,000"),
        (("--chunk-length", "1000001"), "--chunk-length 1000001: must be from 3 to 1,000,000"),
        (("--chunk-length", "many"), "chunk-length"),
        (("--min-length", "-1"), "--min-length -1: must be from 0 to 281,474,976,710,656"),
        (("--token-budget", "0"), "--token-budget 0: must be from 1 to 1,099,511,627,776"),
        (("--token-budget", "many"), "--token-budget many: give auto or a number of tokens"),
        (("--threads", "0"), "--threads 0: must be from 1 to 1,024"),
        (("--stall-timeout", "0.5"), "--stall-timeout 0.5: must be from 1 to 1,000,000,000"),
        (("--stall-timeout", "nan"), "--stall-timeout nan: must be from 1"),
        (("--stall-timeout", "inf"), "--stall-timeout inf: must be from 1"),
        (("--threads", "65536"), "--threads 65536: must be from 1 to 1,024"),
        (("--token-budget", "9" * 5000), ": give auto or a number of tokens"),
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


@pytest.mark.parametrize("score", ["1.5", "-0.1", "nan"])
def test_a_score_is_from_0_to_1(score: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run_main(monkeypatch, "predict", "a.fa", "-o", "run", *ENCODERS, "--classifier", "c", f"--min-score={score}")
        == 2
    )
    assert f"--min-score {score}: must be from 0 to 1" in " ".join(capfd.readouterr().err.split())


NUMBERS = st.one_of(st.integers().map(str), st.floats().map(str), st.text(max_size=4))
BY_OPTION = {
    name: st.sampled_from([*declared.choices, "none"]) if declared.choices else NUMBERS
    for name, declared in OPTIONS.items()
    if f"{declared.flags_of(name)[-1]}" in TYPED and "model" not in name and name != "classifier"
}
NAMES = st.one_of(
    st.sampled_from(["reads.fa", "-", "x" * 300, "~nobody/x", "a/../b"]),
    st.binary(max_size=300).map(os.fsdecode).filter(lambda name: "\0" not in name),
)


@given(given=st.fixed_dictionaries({}, optional=BY_OPTION), names=st.lists(NAMES, min_size=5, max_size=5))
def test_whatever_is_typed_becomes_settings_of_a_run_or_is_refused(given: dict[str, str], names: list[str]) -> None:
    source, output, nucleotide, protein, classifier = names
    typed = [text for name, value in given.items() for text in (f"{OPTIONS[name].flags_of(name)[-1]}", value)]
    models = ["--nucleotide-model", nucleotide, "--protein-model", protein, "--classifier", classifier]
    made: list[Settings] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli, "_run", lambda settings, nproc: made.append(settings))
        code = run_main(patched, "predict", "-o", output, *models, *typed, "--", source)
    assert code == (0 if made else 2)
    for settings in made:
        for kind_of_name in (settings.inputs, settings.output, settings.models.values(), settings.classifier):
            str(kind_of_name).encode()
        numbers = (settings.min_length, settings.token_budget or 1, settings.threads or 1)
        ResolvedConfig(
            **dict(zip(("min_length", "token_budget", "threads"), numbers, strict=True)),
            input=(),
            chunk_length=settings.bases_per_chunk,
            models={},
            dtype="float32",
            embedding_dtype="float32",
            embeddings=settings.embeddings,
            device="cpu",
            classifier=None,
        )
        assert threading.TIMEOUT_MAX > settings.stall_timeout >= 1


@given(names=st.lists(NAMES, min_size=4, max_size=4))
def test_whatever_paths_are_named_are_checked_with_a_documented_code(names: list[str]) -> None:
    source, output, model, classifier = names
    for check in (
        lambda: RunFolder(Path(output)).check_writable(),
        lambda: RunFolder(Path(output)).status_time(),
        lambda: RunFolder(Path(output)).check_holds_run(),
        lambda: local_folder(model),
        lambda: find_model(model, offline=True),
        lambda: recorded_chunk_length(Path(classifier)),
        lambda: check_classifier_file(Path(classifier)),
        lambda: check_input(source, Path(source)),
    ):
        with suppress(VpdistError):
            check()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("Resource temporarily unavailable"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
    ids=repr,
)
def test_a_limit_of_the_system_is_no_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(settings: Settings, nproc: int | None) -> None:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert run_main(monkeypatch, "embed", "a.fa", "-o", "run", *ENCODERS) == StorageError.exit_code
    message = capfd.readouterr().err
    assert "vpdist: " in message
    assert "()" not in message
    assert isinstance(as_storage_error(error, RunFolder(tmp_path)), StorageError)


def test_a_system_without_proc_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not mounted"):
        check_system(tmp_path)


def test_a_system_without_a_temporary_folder_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_temporary_folder()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    (tmp_path / "reads.fa").write_text(">x\nACGT\n")
    arguments = ("embed", tmp_path / "reads.fa", "-o", tmp_path / "run", "--protein-model", tmp_path)
    assert run_main(monkeypatch, *arguments) == StorageError.exit_code
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["exit_code"], status["message"]) == (6, "no temporary folder can be written; name one in TMPDIR")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("predict", "a.fa", "-o", "", *ENCODERS, "--classifier", "c", "--restart"), "-o is empty"),
        (("embed", "a.fa", "--output=", *ENCODERS), "--output is empty"),
        (("embed", "a.fa", "-o", "run", "--nucleotide-model", ""), "--nucleotide-model is empty"),
        (("embed", "", "-o", "run", *ENCODERS), "an argument is empty"),
        (("classify", "", "--classifier", "c"), "an argument is empty"),
        (("predict", "a.fa", "-o", "run", "--model", ""), "--model is empty"),
        (("verify", ""), "an argument is empty"),
        (("watch", ""), "an argument is empty"),
        (("import-classifier", "a.pth", "-o", ""), "-o is empty"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    arguments: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, *arguments) == 2
    assert named in capfd.readouterr().err


@pytest.mark.parametrize("missing", ["inputs", "--output", "--classifier"])
def test_what_a_command_needs_is_asked_for(
    missing: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"inputs": ("a.fa",), "--output": ("-o", "run"), "--classifier": ("--classifier", "c")}
    del given[missing]
    assert run_main(monkeypatch, "predict", *ENCODERS, *(text for texts in given.values() for text in texts)) == 2
    assert {"inputs": "no input"}.get(missing, missing.strip("-")) in capfd.readouterr().err


def write_encoder(folder: Path) -> None:
    """A folder that looks like ESM-2 until its weights are read."""
    folder.mkdir()
    sizes = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"), 1)
    (folder / "config.json").write_text(json.dumps({"model_type": "esm", "vocab_size": 33} | sizes))
    (folder / "model.safetensors").touch()


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


@pytest.mark.parametrize("arguments", [("--help",), ("-V",), ("predict", "-h"), ("plan", "--help")])
def test_help_starts_without_torch(arguments: tuple[str, ...]) -> None:
    code, packages = imported(*arguments)
    assert (code, packages & {"torch", "transformers", "numpy"}) == (0, set())
    assert "typer" in packages


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_short_option_for_its_help(command: str) -> None:
    group = typer.main.get_command(cli.app)
    outer = group.make_context("vpdist", ["--version"], resilient_parsing=True)
    inner = group.commands[command].make_context(command, [], parent=outer, resilient_parsing=True)  # type: ignore[attr-defined]
    assert inner.help_option_names == ["-h", "--help"]


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version_comes_first_and_then_what_numbers_depend_on(
    option: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, option) == 0
    first, *others = capfd.readouterr().out.splitlines()
    assert first == f"vpdist {vpdist.__version__}"
    assert {line.split(" ")[0] for line in others} >= {"torch", "transformers", "accelerate", "Python"}


def test_completion_names_commands_and_options_without_torch(tmp_path: Path) -> None:
    for words, number, completed in (("vpdist pre", 1, "predict"), ("vpdist predict --nuc", 2, "--nucleotide-model")):
        asked = {"_VPDIST_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        program = "import sys; sys.argv = ['vpdist']; from vpdist.cli import main; main()"
        command = [sys.executable, "-X", "importtime", "-c", program]
        ended = subprocess.run(
            command, env=environment() | asked, capture_output=True, text=True, timeout=120, check=True
        )
        assert ended.stdout.split() == [completed]
        assert re.search(r"\btorch$", ended.stderr, re.MULTILINE) is None


def test_watching_starts_without_torch(tmp_path: Path) -> None:
    (tmp_path / "progress.jsonl").write_text(snapshot(1, row(), ended="").to_json() + "\n")
    code, packages = imported("watch", tmp_path)
    assert (code, packages & {"torch", "transformers"}) == (0, set())
    assert "numpy" in packages


@pytest.mark.parametrize("command", ["predict", "embed", "plan"])
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("none.fa", "--protein-model", "encoder"), 3),
        ((".", "--protein-model", "encoder"), 3),
        (("reads.fa", "--protein-model", "none"), 4),
        (("reads.fa", "--protein-model", "reads.fa"), 4),
        (("reads.fa", "--protein-model", "~nobody-of-this-name/encoder"), 4),
        (("reads.fa", "--nucleotide-model", "encoder"), 4),
        (("reads.fa", "--protein-model", "."), 4),
        (("reads.fa", "--protein-model", "x" * 300), 4),
        (("x" * 300, "--protein-model", "encoder"), 3),
    ],
)
def test_a_wrong_path_is_told_without_torch(
    command: str, options: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reads.fa").write_text(">x\nACGT\n")
    write_encoder(tmp_path / "encoder")
    if command == "predict":  # which takes both encoders; the first name of each counts
        missing = "--nucleotide-model" if "--protein-model" in options else "--protein-model"
        options = (*options, missing, PINNED if missing == "--nucleotide-model" else "encoder")
        options = (*options, "--classifier", "reads.fa")
    output = () if command == "plan" else ("-o", "run")
    ended, packages = imported(command, *options, *output)
    assert (ended, packages & {"torch"}) == (code, set())
    if command != "plan":
        assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == code


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("classify", "none", "--classifier", "reads.fa"), 2),
        (("classify", "run", "--classifier", "none.safetensors"), 4),
        (("classify", "run", "--model", "none"), 4),
        (("classify", "run"), 2),
        (("classify", "run", "--model", "none", "--classifier", "none.safetensors"), 2),
        (("predict", "reads.fa", "-o", "new", "--model", "none"), 4),
        (("predict", "reads.fa", "-o", "new", "--model", "virnucpro-500", "--offline"), 4),
        (("predict", "reads.fa", "-o", "new", "--protein-model", "encoder"), 2),
        (("verify", "none"), 2),
        (("embed", "reads.fa", "-o", "x" * 300, "--protein-model", "encoder"), 6),
    ],
)
def test_a_wrong_folder_or_classifier_is_told_without_torch(
    arguments: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "reads.fa").write_text(">x\nACGT\n")
    ended, packages = imported(*arguments)
    assert (ended, packages & {"torch"}) == (code, set())


def test_an_import_of_torch_would_be_seen(tmp_path: Path) -> None:
    code, packages = imported("import-classifier", tmp_path / "none.pth", "-o", tmp_path / "c.safetensors")
    assert (code, packages & {"torch"}) == (4, {"torch"})
