"""What is decided once for all ranks."""

import pytest

from vpdist.commands.resolve_config import CPU_TOKEN_BUDGET, CUDA_LEAST_BUDGET, CUDA_TOKEN_BUDGET, token_budget
from vpdist.encoders.shape import EncoderShape

GIB = 1 << 30


def esm2(layers: int, width: int) -> dict[str, EncoderShape]:
    shape = EncoderShape(
        kind="protein", layers=layers, width=width, heads=20, intermediate=4 * width, gated=False, vocabulary=33
    )
    return {"protein": shape}


def test_a_cpu_takes_small_batches_whatever_the_model() -> None:
    assert token_budget(esm2(6, 320), "float32", None) == token_budget(esm2(36, 2560), "bfloat16", None)
    assert token_budget(esm2(6, 320), "float32", None) == CPU_TOKEN_BUDGET


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
    assert token_budget(esm2(layers, width), "float16", memory_gib * GIB) == budget


def test_wider_numbers_take_fewer_tokens() -> None:
    half, single = (token_budget(esm2(36, 2560), dtype, 16 * GIB) for dtype in ("float16", "float32"))
    assert single < half
