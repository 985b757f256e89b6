"""Heads of sizes that the GPU's kernels do not take as they are: padded with zeros, or refused."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.tiny_models import write_esm2
from vpdist.encoders import cpu_attention, encoder, packing
from vpdist.encoders.encoder import load_encoder
from vpdist.encoders.packing import Packing, spare_numbers
from vpdist.errors import WeightsError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "dtype", "spare"),
    [
        *[(20, torch.float16, 4), (24, torch.float16, 0), (1, torch.bfloat16, 7), (64, torch.bfloat16, 0)],
        *[(20, torch.float32, 0), (21, torch.float32, 3)],
    ],
)
def test_heads_end_at_sixteen_bytes_on_cuda_only(size: int, dtype: torch.dtype, spare: int) -> None:
    states = torch.empty(3, 2, size, dtype=dtype)
    on_cuda = SimpleNamespace(shape=states.shape, is_cuda=True, element_size=states.element_size)
    assert spare_numbers(on_cuda) == spare  # type: ignore[arg-type]
    assert spare_numbers(states) == 0


@pytest.mark.parametrize("biased", [False, True])
def test_zeros_at_the_end_of_heads_change_nothing(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    states = torch.randn(3, 14, 2, 5)
    bias = torch.randn(2, 8, 8) if biased else None
    packed = Packing(np.array([2, 4, 4, 4]), CPU, 4)
    exact = packed.attention(*states, 0.3, bias)
    sizes: list[int] = []

    def kernel(*states: torch.Tensor, **options: object) -> torch.Tensor:
        sizes.extend(each.shape[-1] for each in states)
        return scaled_dot_product_attention(*states, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cpu_attention, "serves", lambda query, mask: False)
    monkeypatch.setattr(packing, "scaled_dot_product_attention", kernel)
    monkeypatch.setattr(packing, "spare_numbers", lambda states: -states.shape[-1] % 8)
    padded = packed.attention(*states, 0.3, bias)
    assert set(sizes) == {8}
    assert padded.shape == exact.shape
    torch.testing.assert_close(padded, exact)


def test_the_variable_length_kernel_is_given_padded_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses other sizes: "head_size must be a multiple of 8"."""
    given: list[torch.Size] = []

    def kernel(query: torch.Tensor, *others: object, **options: object) -> torch.Tensor:
        given.append(query.shape)
        return query

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(packing, "has_varlen_kernel", lambda device, dtype: True)
    monkeypatch.setattr(packing, "spare_numbers", lambda states: -states.shape[-1] % 8)
    states = torch.randn(3, 6, 2, 20)
    attended = Packing(np.array([2, 4]), CPU).attention(*states, 0.3)
    assert given == [(6, 2, 24)]
    assert torch.equal(attended, states[0])


def test_heads_that_no_kernel_of_half_precision_takes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_esm2(tmp_path, width=1024, layers=1, heads=2, intermediate=8)
    assert load_encoder(folder, "protein", torch.float32, CPU).width == 1024
    monkeypatch.setattr(encoder, "has_varlen_kernel", lambda device, dtype: dtype == torch.float16)  # as on a GPU
    with pytest.raises(WeightsError, match="heads of 512 numbers, on a GPU half precision takes at most 256"):
        load_encoder(folder, "protein", torch.float16, CPU)
    assert load_encoder(folder, "protein", torch.float32, CPU).width == 1024
