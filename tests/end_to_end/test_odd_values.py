"""Odd values, in every option of every command and in every file of a model: a documented exit code, in bounded memory.

Commands run in this process as users run them, only that no launcher is started.
"""

import json
import math
import os
import resource
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_models import ESM2_VOCABULARY, TinyModels
from vpdist import cli
from vpdist.distributed import launch
from vpdist.encoders import hub
from vpdist.encoders.encoder import load_encoder
from vpdist.encoders.weights import load_state_dict
from vpdist.errors import WeightsError

ESCAPE = "\x1b]0;owned\x07"
ROOM = 3 << 30
"""Bytes that a command may take beside what this process has; the hostile files ask for terabytes."""
CONTIGS = ">a\n" + "ATGGCTAAAGCTGGTGCTGCTGCTAAAGCT" * 20 + "\n>b\nACGT\n"


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    torch.zeros(1).sum()  # its threads have their stacks by now
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "x.fa").write_text(CONTIGS)
    return folder


def exit_code(*arguments: object) -> int:
    """Run a command line in this process; returns its exit code. Anything but an exit fails the test."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["vpdist", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


# Options

VALUES = (
    *(
        "",
        "0",
        "-1",
        "1",
        "2",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "9" * 19,
        "9" * 5000,
        "-" + "9" * 30,
        "0x10",
        "1_0",
    ),
    *("x" * 300, "x/" * 3000, "~nobody-of-this-name/x", "~", ".", "..", "/", "/dev/null", "/proc/self/mem", "x.fa"),
    *(ESCAPE, "\u202egnp.x", "=1+1", "--", "-o", os.fsdecode(b"\xff\xfe"), "\U0001f600", "auto", "none", "\n", " "),
)
ALLOWED = {0, 2, 3, 4, 6}
"""No bug (1), no failed fragments (5), no signals."""


def parameters() -> list[tuple[str, str | None]]:
    """Every option of every command by its long form, and None for every argument."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    return [
        (name, parameter.opts[-1] if parameter.param_type_name == "option" else None)
        for name, command in sorted(commands.items())
        for parameter in command.params
        if parameter.name != "help"
    ]


def command_line(command: str, option: str | None, value: str, valid: dict[str, tuple[str, ...]]) -> list[str]:
    """`command` with what it needs, and one option, or its argument, as given."""
    needs = {
        "predict": ("x.fa", "--output", "--classifier", "--nucleotide-model", "--protein-model"),
        "embed": ("x.fa", "--output", "--nucleotide-model"),
        "plan": ("x.fa",),  # without encoders it times nothing
        "classify": ("run", "--classifier"),
        "import-classifier": ("c.pth", "--output"),
        "download": ("zhihan1996/DNABERT-S",),
        "models": ("--json",),
    }.get(command, ("run",))
    argument, *options = needs
    typed = [text for name in options if name != option for text in valid[name]]
    if option is None:
        return [command, *typed, "--", value]
    flag = option in ("--no-embeddings", "--offline", "--restart", "--legacy-output", "--json")
    return [command, *typed, *([f"{option}={value}"] if flag else [option, value]), argument]


@pytest.mark.slow
def test_every_option_of_every_command_takes_odd_values_or_refuses_them(
    models: TinyModels, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(launch, "launch", lambda arguments, nproc, folder: 0)
    monkeypatch.setattr(hub, "_listing", lambda *_: pytest.fail("nothing is downloaded here"))
    valid = {
        "--output": ("--output", "out"),
        "--classifier": ("--classifier", str(models.classifier)),
        "--nucleotide-model": ("--nucleotide-model", str(models.nucleotide)),
        "--protein-model": ("--protein-model", str(models.protein)),
    }
    every = parameters()
    assert len(every) > 60
    codes: set[int] = set()

    @given(st.sampled_from(every), st.sampled_from(VALUES))
    @settings(max_examples=150, derandomize=True)
    def each(parameter: tuple[str, str | None], value: str) -> None:
        command, option = parameter
        for name in ("out", "1", "2", "auto", "none", ESCAPE, "=1+1", "-o", "\n", " ", "\u202egnp.x"):
            shutil.rmtree(folder / name, ignore_errors=True)
        arguments = command_line(command, option, value, valid)
        code = exit_code(*arguments)
        assert code in ALLOWED, (arguments, code)
        codes.add(code)
        shown = capfd.readouterr().err
        assert "Traceback" not in shown
        assert not [letter for letter in shown if letter != "\n" and not letter.isprintable()], arguments

    each()
    assert codes >= {0, 2, 3, 4}


# Model files

Change = Callable[[Path], None]
"""What is done to a copy of a model's folder."""
JSON_VALUES = (
    *(None, True, False, 0, -1, 1, 1.5, 1 << 31, 1 << 63, 1 << 70, -(1 << 70), 10**400),
    *(math.nan, math.inf, -math.inf, 1e300, "", "1", "x" * 300, ESCAPE, "float8_e4m3fn", "\ud800"),
    *([], [1], {}, {"a": {"b": [1]}}, [[[[]]]], {str(n): "x" for n in range(1000)}),
)
KEYS_OF_OTHERS = (
    *("dtype", "torch_dtype", "id2label", "label2id", "num_labels", "type_vocab_size", "layer_norm_eps", "rope_theta"),
    *("rope_parameters", "rope_scaling", "vocab_list", "problem_type", "_attn_implementation", "quantization_config"),
    *("esmfold_config", "auto_map", "hidden_act", "is_decoder", "alibi_starting_size", "tie_word_embeddings"),
)
"""Keys that the tiny models may lack, and that published ones or the library have."""


@pytest.fixture(scope="module")
def embedded(models: TinyModels, folder: Path) -> Callable[[str, Change], int]:
    """The exit code of `vpdist embed` with an encoder that was changed, and no bug on the way."""

    def run(kind: str, change: Change) -> int:
        changed, output = folder / "model", folder / "run"
        for path in (changed, output):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(getattr(models, kind), changed)
        change(changed)
        limits = ("--threads", "1", "--dtype", "float32", "--progress", "none")
        return exit_code("embed", folder / "x.fa", "-o", output, f"--{kind}-model", changed, *limits)

    return run


def in_json(name: str, change: Callable[[Any], Any]) -> Change:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        changed = change(content)
        (folder / name).write_text(json.dumps(content if changed is None else changed))

    return apply


@pytest.mark.parametrize("kind", ["nucleotide", "protein"])
def test_odd_values_in_a_config_are_refused_or_not_read(models: TinyModels, tmp_path: Path, kind: str) -> None:
    changed = Path(shutil.copytree(getattr(models, kind), tmp_path / "model"))
    described = json.loads((changed / "config.json").read_text())
    outcomes: set[bool] = set()

    @given(st.sampled_from(sorted({*described, *KEYS_OF_OTHERS})), st.sampled_from(JSON_VALUES))
    @settings(max_examples=250, derandomize=True)
    def each(key: str, value: object) -> None:
        (changed / "config.json").write_text(json.dumps({**described, key: value}))
        try:
            load_encoder(changed, kind, torch.float32, torch.device("cpu"))
        except WeightsError:
            outcomes.add(False)
        else:
            outcomes.add(True)

    each()
    assert outcomes == {True, False}


def test_sizes_that_no_encoder_has_are_refused(embedded: Callable[[str, Change], int]) -> None:
    for kind, key, value in (
        ("nucleotide", "type_vocab_size", 1 << 40),
        ("nucleotide", "layer_norm_eps", math.nan),
        ("protein", "layer_norm_eps", math.inf),
        ("protein", "rope_theta", 1e-300),
        ("protein", "num_attention_heads", 32),  # of width 1: rotary positions need pairs
    ):
        change = in_json("config.json", lambda config, key=key, value=value: config.update({key: value}))
        assert embedded(kind, change) == 4, (kind, key, value)


WEIGHT = "embeddings.LayerNorm.weight"


def stored(change: Callable[[dict[Any, Any]], Any]) -> Change:
    """Other content in DNABERT-S's pytorch_model.bin."""

    def apply(folder: Path) -> None:
        state = dict(load_state_dict(folder))
        changed = change(state)
        torch.save(state if changed is None else changed, folder / "weights")
        (folder / "weights").rename(folder / "pytorch_model.bin")

    return apply


def instead(tensor: Callable[[], Any]) -> Change:
    return stored(lambda state: state.update({WEIGHT: tensor()}))


def tokenizer(change: Callable[[Any], Any]) -> Change:
    return in_json("tokenizer.json", change)


def replace_step(content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": "A"}, "content": content}


REFUSED: dict[str, Change] = {
    "meta": instead(lambda: torch.ones(48, device="meta")),
    "sparse": instead(lambda: torch.ones(48).to_sparse()),
    "compressed rows": instead(lambda: torch.ones(4, 12).to_sparse_csr()),
    "quantised": instead(lambda: torch.quantize_per_tensor(torch.ones(48), 0.1, 0, torch.qint8)),
    "nested": instead(lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(5)])),
    "jagged": instead(lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(5)], layout=torch.jagged)),
    "int8": instead(lambda: torch.ones(48, dtype=torch.int8)),
    "bool": instead(lambda: torch.ones(48, dtype=torch.bool)),
    "complex": instead(lambda: torch.ones(48, dtype=torch.complex64).conj()),
    "float8": instead(lambda: torch.ones(48).to(torch.float8_e4m3fn)),
    "stride 0": instead(lambda: torch.ones(1).expand(1 << 17, 1 << 17)),
    "a number": instead(lambda: torch.tensor(1.0)),
    "a list": stored(lambda state: [1]),
    "a dictionary inside": stored(lambda state: {"model": state}),
    "a name that is a number": stored(lambda state: {1: torch.ones(2), **state}),
    "a name that is bytes": stored(lambda state: {b"a": torch.ones(2), **state}),
    "replace": tokenizer(lambda json: json.update(normalizer=replace_step("A" * 20_000))),
    "replace in a sequence": tokenizer(
        lambda json: json.update(normalizer={"type": "Sequence", "normalizers": [replace_step("A" * 2000)] * 3})
    ),
    "prepend": tokenizer(lambda json: json.update(normalizer={"type": "Prepend", "prepend": "A" * 4000})),
    "a normaliser that is none": tokenizer(lambda json: json.update(normalizer=[])),
    "a thousand steps": tokenizer(
        lambda json: json.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 1000})
    ),
    "a pattern": tokenizer(
        lambda json: json.update(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "(A|AA|C|G|T)*Z"},
                "behavior": "Isolated",
                "invert": False,
            }
        )
    ),
    "a template of a million ids": tokenizer(
        lambda json: json["post_processor"]["special_tokens"]["[CLS]"].update(ids=[1] * 1000, tokens=["[CLS]"] * 1000)
    ),
    "random merges": tokenizer(lambda json: json["model"].update(dropout=0.1)),
    "a long affix": tokenizer(lambda json: json["model"].update(continuing_subword_prefix="A" * 1_000_000)),
    "no model": tokenizer(lambda json: json.update(model=None)),
    "no object": tokenizer(lambda json: [json]),
    "great depth": lambda folder: (folder / "tokenizer.json").write_text("[" * 200_000) and None,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_dnabert_s_has_is_refused(name: str, embedded: Callable[[str, Change], int]) -> None:
    assert embedded("nucleotide", REFUSED[name]) == 4


def test_parameters_that_are_still_to_be_trained_are_read(embedded: Callable[[str, Change], int]) -> None:
    assert embedded("nucleotide", instead(lambda: torch.nn.Parameter(torch.ones(48)))) == 0


def test_a_tokenizer_with_harmless_steps_is_read(embedded: Callable[[str, Change], int]) -> None:
    steps = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFC"}]}
    assert embedded("nucleotide", tokenizer(lambda json: json.update(normalizer=steps))) == 0


def protein_vocabulary(change: Callable[[dict[str, Any], list[dict[str, Any]]], None]) -> Change:
    def apply(folder: Path) -> None:
        vocabulary: dict[str, Any] = {token: number for number, token in enumerate(ESM2_VOCABULARY)}
        added: list[dict[str, Any]] = []
        change(vocabulary, added)
        (folder / "vocab.txt").unlink()
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added}))

    return apply


@pytest.mark.parametrize("value", [-1, -(1 << 70), 1 << 70, 1.5, math.nan, True, None, "1", [1], {"a": 1}], ids=repr)
def test_ids_and_tokens_of_proteins_that_are_none_are_refused(
    value: object, embedded: Callable[[str, Change], int]
) -> None:
    assert embedded("protein", protein_vocabulary(lambda vocabulary, added: None)) == 0
    assert embedded("protein", protein_vocabulary(lambda vocabulary, added: vocabulary.update(A=value))) == 4
    new = {"content": "A", "id": value}
    assert embedded("protein", protein_vocabulary(lambda vocabulary, added: added.append(new))) == 4
    if not isinstance(value, str):
        other = {"content": value, "id": 3}
        assert embedded("protein", protein_vocabulary(lambda vocabulary, added: added.append(other))) == 4


@pytest.mark.parametrize("name", ["x" * 300, "\ud800", "\0", None, ["b"], ".", "..", "vocab.txt", "../x"], ids=ascii)
def test_a_shard_that_is_none_is_refused(name: object, embedded: Callable[[str, Change], int]) -> None:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))

    assert embedded("protein", apply) == 4


@pytest.mark.parametrize(
    "dtype", ["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "U16", "C64", "I64", "BF16", "XX"]
)
def test_number_formats_of_safetensors_end_as_documented(
    dtype: str, models: TinyModels, folder: Path, embedded: Callable[[str, Change], int]
) -> None:
    size = {"F4": 24, "F6_E2M3": 36, "U16": 96, "BF16": 96, "C64": 384, "I64": 384}.get(dtype, 48)
    content = safetensors_file({WEIGHT: {"dtype": dtype, "shape": [48], "data_offsets": [0, size]}}, bytes(size))
    (folder / "c.safetensors").write_bytes(content)
    assert exit_code("import-classifier", folder / "c.safetensors", "-o", folder / "c.out") == 4

    def apply(model: Path) -> None:
        (model / "pytorch_model.bin").unlink()
        (model / "model.safetensors").write_bytes(content)

    assert embedded("nucleotide", apply) == 4


def safetensors_file(header: object, body: bytes) -> bytes:
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + body


@pytest.mark.parametrize("field", ["eps", "dropout", "metadata", "format", None])
def test_odd_values_in_a_classifier_are_refused(models: TinyModels, folder: Path, field: str | None) -> None:
    content = models.classifier.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    odd = ("", "-1", "nan", "inf", "1e400", "null", "[]", '"x"', "[" * 100_000, '{"a":' * 100_000, "9" * 100_000)
    for value in odd if field else (None, 5, [], "x", {}, {"format": 1}):
        changed = {**header, "__metadata__": {**header["__metadata__"], field: value} if field else value}
        (folder / "c.safetensors").write_bytes(safetensors_file(changed, body))
        assert exit_code("import-classifier", folder / "c.safetensors", "-o", folder / "c.out") == 4, value
    for raw in (b"[" * 1_000_000, b'{"a":' * 1_000_000, b"\xff", b""):
        (folder / "c.safetensors").write_bytes(safetensors_file(raw, body))
        assert exit_code("import-classifier", folder / "c.safetensors", "-o", folder / "c.out") == 4
