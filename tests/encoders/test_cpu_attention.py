"""Attention by batched products gives what torch's kernel gives, whatever the blocks are."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from vpdist.encoders import cpu_attention
from vpdist.encoders.cpu_attention import attention, serves

SHAPES = [(1, 1, 1, 8), (3, 4, 5, 8), (2, 3, 33, 24), (5, 2, 17, 64)]
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def drawn(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def inputs(n: int, h: int, length: int, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key and value as the encoders pass them: views of (N, L, H, E)."""
    return [drawn(n, length, h, width, dtype=dtype, seed=seed).transpose(1, 2) for seed in range(3)]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False})
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("score_bytes", [1, 500, 10_000, 1 << 21])
@pytest.mark.parametrize("masked", ["no mask", "for all sequences", "for each sequence"])
def test_products_by_blocks_give_what_the_kernel_gives(
    shape: tuple[int, int, int, int],
    score_bytes: int,
    masked: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n, h, length, _ = shape
    monkeypatch.setattr(cpu_attention, "SCORE_BYTES", score_bytes)
    query, key, value = inputs(*shape, dtype)
    mask = None
    if masked != "no mask":
        mask = drawn(n if masked == "for each sequence" else 1, h, length, length, dtype=dtype, seed=9)
        mask[..., -1] = -torch.inf if length > 1 else 0.0
    assert serves(query, mask)
    exact = scaled_dot_product_attention(
        query.double(), key.double(), value.double(), None if mask is None else mask.double(), scale=0.3
    )
    found = attention(query, key, value, mask, 0.3)
    assert found.dtype == dtype
    assert found.shape == query.shape
    assert (found.double() - exact).abs().max() < CLOSE[dtype]


def test_a_sequence_has_the_same_bits_alone_and_among_others(dtype: torch.dtype) -> None:
    query, key, value = inputs(7, 3, 40, 16, dtype)
    together = attention(query, key, value, None, 0.25)
    for number in range(7):
        alone = slice(number, number + 1)
        assert torch.equal(attention(query[alone], key[alone], value[alone], None, 0.25), together[alone])


def test_no_sequences_are_no_work(dtype: torch.dtype) -> None:
    query, key, value = inputs(0, 3, 40, 16, dtype)
    assert attention(query, key, value, None, 0.25).shape == (0, 3, 40, 16)


def test_the_precision_of_other_products_stays(dtype: torch.dtype) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    attention(*inputs(2, 2, 4, 8, dtype), None, 0.25)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError):
        attention(*inputs(2, 2, 4, 8, dtype)[:2], torch.zeros(2, 2, 5, 8, dtype=dtype), None, 0.25)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_float32_is_left_to_the_kernel_where_products_would_be_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    query, _, _ = inputs(2, 2, 4, 8, torch.float32)
    assert not serves(query, None)
    assert serves(query.bfloat16(), None)
    assert not serves(query.half(), None)


def test_a_mask_of_truth_values_is_left_to_the_kernel(dtype: torch.dtype) -> None:
    query, _, _ = inputs(2, 2, 4, 8, dtype)
    assert not serves(query, torch.tensor([True, True, True, False]).expand(2, 1, 4, 4))
