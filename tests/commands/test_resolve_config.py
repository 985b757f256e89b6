"""What is decided once for all ranks."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.fake_gpus import fake_gpus
from tests.file_times import let_the_clock_tick
from vpdist.commands.input_identity import file_identities, input_identity, refuse_changed_input
from vpdist.commands.resolve_config import (
    CPU_TOKEN_BUDGET,
    CUDA_LEAST_BUDGET,
    CUDA_TOKEN_BUDGET,
    encoders_dtype,
    token_budget,
)
from vpdist.config import ResolvedConfig, Settings
from vpdist.encoders.family import DNABERT_S, ESM2
from vpdist.encoders.shape import EncoderShape
from vpdist.errors import InputError, UsageError

GIB = 1 << 30


def esm2(layers: int, width: int) -> dict[str, EncoderShape]:
    shape = EncoderShape(
        family=ESM2, layers=layers, width=width, heads=20, intermediate=4 * width, gated=False, vocabulary=33
    )
    return {"protein": shape}


def test_a_cpu_takes_small_batches_whatever_the_model() -> None:
    assert token_budget(esm2(6, 320), "float32", None, 500) == token_budget(esm2(36, 2560), "bfloat16", None, 500)
    assert token_budget(esm2(6, 320), "float32", None, 500) == CPU_TOKEN_BUDGET


@pytest.mark.parametrize(
    ("layers", "width", "memory_gib", "budget"),
    [
        (36, 2560, 80, CUDA_TOKEN_BUDGET),  # ESM-2 3B on an H100
        (36, 2560, 8, 8192),
        (48, 5120, 32, 4096),  # ESM-2 15B, whose weights take 28 of 32 GiB
        (48, 5120, 24, CUDA_LEAST_BUDGET),  # they don't fit at all: loading will say so
    ],
)
def test_a_gpu_takes_as_many_tokens_as_fit_beside_the_weights(layers, width, memory_gib, budget) -> None:
    assert token_budget(esm2(layers, width), "float16", memory_gib * GIB, 500) == budget


def test_wider_numbers_take_fewer_tokens() -> None:
    half, single = (token_budget(esm2(36, 2560), dtype, 16 * GIB, 500) for dtype in ("float16", "float32"))
    assert single < half


T4 = {"name": "Tesla T4", "capability": (7, 5)}
CUDA = torch.device("cuda", 0)


def chosen(dtype: str, recorded: ResolvedConfig | None = None) -> str:
    settings = Settings(inputs=("a",), output=Path("run"), nucleotide_model="n", dtype=dtype, dry_run=True)
    return encoders_dtype(settings, CUDA, recorded)


def recorded_on(device: str, dtype: str) -> ResolvedConfig:
    return ResolvedConfig(
        input=(),
        chunk_length=500,
        min_length=0,
        models={"nucleotide": "n", "protein": "p"},
        dtype=dtype,
        embedding_dtype="float16",
        embeddings=True,
        token_budget=1024,
        threads=1,
        device=device,
        classifier=None,
    )


def test_bfloat16_on_a_gpu_without_its_products_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, 1, **T4)
    with pytest.raises(UsageError, match="--dtype bfloat16: Tesla T4 has no bfloat16 products; take float16"):
        chosen("bfloat16")
    with pytest.raises(UsageError, match="Tesla T4"):  # a run that was begun on another GPU
        chosen("auto", recorded_on("cuda", "bfloat16"))
    assert [chosen(dtype) for dtype in ("auto", "float16", "float32")] == ["float16", "float16", "float32"]


def test_a_gpu_with_bfloat16_products_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, 1, name="NVIDIA A100", capability=(8, 0))
    assert chosen("bfloat16") == "bfloat16"


def test_a_run_of_another_device_keeps_its_dtype_until_it_is_refused_for_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_gpus(monkeypatch, 1, **T4)
    assert chosen("auto", recorded_on("cpu", "bfloat16")) == "bfloat16"


def test_the_bias_of_long_chunks_takes_memory_from_the_batch() -> None:
    shape = EncoderShape(
        family=DNABERT_S, layers=12, width=768, heads=12, intermediate=3072, gated=True, vocabulary=4096
    )
    short, long = (token_budget({"nucleotide": shape}, "float16", 4 * GIB, length) for length in (500, 20_000))
    assert long < short
    assert token_budget(esm2(36, 2560), "float16", 8 * GIB, 20_000) == 8192  # ESM-2 has none


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "input"
    folder.mkdir()
    path = folder / "reads.fa"
    path.write_text(">a\nACGT\n")
    return path


def changed(source: Path, change: Callable[[], object]) -> None:
    """Let `change` happen to an input between its identity and the end of its reading."""
    name = "reads.fa"
    before, state = input_identity([name], [source]), file_identities([name], [source])
    let_the_clock_tick(source.parent)
    change()
    refuse_changed_input(before, state, [source])


def test_an_input_that_stays_as_it_is_is_accepted(source: Path) -> None:
    changed(source, source.read_bytes)


def test_an_input_of_other_bytes_is_refused_though_size_and_time_are_the_same(source: Path) -> None:
    status = source.stat()

    def change() -> None:
        source.write_text(">a\nACGG\n")
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))

    with pytest.raises(InputError, match=r"^reads\.fa: has changed since the run began"):
        changed(source, change)


def test_another_file_under_the_same_name_is_refused_and_the_same_under_another_number_is_not(source: Path) -> None:
    status, other = source.stat(), source.with_name("other.fa")

    def replaced(text: str) -> None:
        other.write_text(text)
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(other, source)

    changed(source, lambda: replaced(">a\nACGT\n"))
    with pytest.raises(InputError, match="has changed since the run began"):
        changed(source, lambda: replaced(">a\nACGG\n"))


@pytest.mark.parametrize("text", [">a\nACGT\n>b\nA\n", ">a\n", ""])
def test_an_input_that_grows_or_shrinks_is_refused(source: Path, text: str) -> None:
    with pytest.raises(InputError, match="has changed since the run began"):
        changed(source, lambda: source.write_text(text))


def test_an_input_that_is_gone_is_told(source: Path) -> None:
    with pytest.raises(InputError, match=r"^reads\.fa: cannot be read: No such file"):
        changed(source, source.unlink)
