"""The encoders on a GPU that is pretended: kernels get what they demand, nothing waits, launches and memory stay low."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from tests.without_cuda.full_size import CASES, SIZES, lengths_of
from tests.without_cuda.trace import BUDGET, check_layer, check_memory, trace
from vpdist.encoders import dnabert_s, encoder, esm2, layers, packing
from vpdist.encoders.packing import Packing

HALF, BFLOAT16, SINGLE = torch.float16, torch.bfloat16, torch.float32
CAPABILITIES = [(7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


@pytest.mark.parametrize("dtype", [HALF, BFLOAT16, SINGLE])
@pytest.mark.parametrize("name", SIZES)
def test_every_encoder_embeds_every_kind_of_batch(name: str, dtype: torch.dtype) -> None:
    size = SIZES[name]
    for case in CASES:
        traced = trace(size, dtype, case)
        check_layer(size, case, traced)
        check_memory(size, dtype, lengths_of(case, size.kind, BUDGET), traced)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", ["DNABERT-S", "ESM-2 35M"])
def test_every_generation_of_gpus_has_a_fused_attention(name: str, capability: tuple[int, int]) -> None:
    size = SIZES[name]
    cases = ("500 bp", "crowded", *(("mixed",) if capability in ((7, 0), (8, 0), (12, 0)) else ()))
    for dtype in (HALF, SINGLE) if capability < (8, 0) else (HALF, BFLOAT16, SINGLE):
        for case in cases:
            traced = trace(size, dtype, case, capability=capability)
            check_layer(size, case, traced)
            check_memory(size, dtype, lengths_of(case, size.kind, BUDGET), traced)
            variable = size.kind == "protein" and capability >= (8, 0) and dtype != SINGLE
            assert ("torch_attn::_varlen_attn" in traced.layer) == variable


def test_a_layer_is_these_kernels() -> None:
    assert trace(SIZES["ESM-2 3B"], HALF, "mixed").layer == Counter(
        {
            "aten::native_layer_norm": 2,
            "aten::addmm": 4,
            "aten::mul_": 1,  # rotation
            "torch_attn::_varlen_attn": 1,
            "zeros of its random state": 1,
            "aten::add_": 2,
            "aten::gelu": 1,
        }
    )
    assert trace(SIZES["ESM-2 3B"], BFLOAT16, "mixed").layer["jiterator::rotated_bfloat16"] == 1
    assert trace(SIZES["DNABERT-S"], HALF, "500 bp").layer == Counter(
        {
            "aten::addmm": 3,
            "aten::mm": 1,
            "sdpa::efficient": 3,  # as many as lengths
            "aten::cat": 1,
            "aten::add_": 2,
            "aten::native_layer_norm": 2,
            "jiterator::gelu_times": 1,
        }
    )


def test_a_layer_moves_so_many_bytes_per_token_and_number() -> None:
    """Besides products: queries, keys, values and their outputs, norms, sums, GELU, rotation; 2 bytes each."""
    assert trace(SIZES["ESM-2 3B"], HALF, "mixed").bytes_per_number == pytest.approx(52, abs=0.5)
    assert trace(SIZES["DNABERT-S"], HALF, "500 bp").bytes_per_number == pytest.approx(56, abs=0.5)
    assert trace(SIZES["ESM-2 3B"], BFLOAT16, "mixed", fused=False).bytes_per_number == pytest.approx(84, abs=0.5)


def test_means_take_as_many_kernels_however_many_lengths_there_are() -> None:
    for name in ("DNABERT-S", "ESM-2 650M"):
        lengths = lengths_of("mixed", SIZES[name].kind, BUDGET)
        assert len(np.unique(lengths)) > 10
        around = trace(SIZES[name], HALF, "mixed").around
        assert around["aten::segment_reduce"] == 2
        assert around["aten::mean"] == 0


@pytest.mark.parametrize(("name", "dtype", "most"), [("DNABERT-S", HALF, 14), ("ESM-2 650M", BFLOAT16, 14)])
def test_where_kernels_of_our_own_do_not_compile_torch_s_are_used(name: str, dtype: torch.dtype, most: int) -> None:
    traced = trace(SIZES[name], dtype, "500 bp", fused=False)
    assert traced.launches <= most
    assert not any(kernel.startswith("jiterator") for kernel in traced.layer)


def test_bfloat16_has_no_fused_attention_on_volta_and_turing() -> None:
    traced = trace(SIZES["ESM-2 8M"], BFLOAT16, "single", capability=(7, 5))
    with pytest.raises(AssertionError, match="plain matrix products"):
        check_layer(SIZES["ESM-2 8M"], "single", traced)


# Each check fails on an encoder that is changed: below, what is changed, on which encoder, and what the check says.


def copied_plainly(array: Any, device: torch.device) -> torch.Tensor:
    return (torch.from_numpy(array) if isinstance(array, np.ndarray) else array).to(device)


def copied_and_waited_for(array: Any, device: torch.device) -> torch.Tensor:
    return (torch.from_numpy(array) if isinstance(array, np.ndarray) else array).pin_memory().to(device)


def looked_at(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return functional.gelu(gate) * value if gate.max().item() > 0 else value


def chosen_by_mask(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return functional.gelu(gate)[gate > 0]


def brought_to_the_host(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return gate.cpu()


def in_three_kernels(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return functional.gelu(gate.clone()).mul_(value)


def rotated_with_a_temporary(states: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    exact = states.float()
    torch.view_as_complex(exact.unflatten(2, (-1, 2))).mul_(rotation)
    return exact.to(states.dtype)


def apart_in_memory(states: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    return states.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def off_by_one(states: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    return functional.pad(states, (1, 0))[:, :, 1:]


def bool_mask(self: Packing, group: packing.LengthGroup, bias: Any, dtype: torch.dtype) -> torch.Tensor | None:
    return None if group.absent is None else group.absent == 0


def single_bias(self: dnabert_s.DnabertS, length: int, hidden: torch.Tensor) -> torch.Tensor:
    return torch.empty(self.config.heads, 128, 128, dtype=SINGLE, device=hidden.device)


def bias_without_spare(self: dnabert_s.DnabertS, length: int, hidden: torch.Tensor) -> torch.Tensor:
    rows = -(-length // 8) * 8
    longest = length - 15  # the bucket's
    shape = (self.config.heads, longest, longest)
    return torch.empty_strided(shape, (rows * rows, rows, 1), dtype=hidden.dtype, device=hidden.device)


def without_num_splits(*given: Any, num_splits: int | None = None, **options: Any) -> Any:
    return varlen_attn(*given, **options)


padded = packing._padded


def off_by_one_in_groups(flat: torch.Tensor, group: packing.LengthGroup) -> torch.Tensor:
    return functional.pad(padded(flat, group), (1, 0))[..., 1:]


offsets_of_64_bits = property(lambda self: packing.to_device(self.offsets, self.device))
VARLEN = "torch.nn.attention.varlen.varlen_attn"
LONG = np.arange(1489, 1505)
CHANGES = {
    "a copy from memory that is not pinned": (packing, "to_device", copied_plainly, "ESM-2 8M", "single", "waits"),
    "a copy that is waited for": (packing, "to_device", copied_and_waited_for, "ESM-2 8M", "single", "non_blocking"),
    "tokens that are not pinned": (encoder, "to_device", copied_plainly, "ESM-2 8M", "single", "pinned is False"),
    "frequencies that are not pinned": (esm2, "to_device", copied_plainly, "ESM-2 8M", "single", "pinned is False"),
    "slopes that are not pinned": (dnabert_s, "to_device", copied_plainly, "DNABERT-S", "single", "pinned is False"),
    "a number that is looked at": (layers, "gelu_times", looked_at, "DNABERT-S", "single", "item waits"),
    "elements chosen by a mask": (layers, "gelu_times", chosen_by_mask, "DNABERT-S", "single", "by a mask waits"),
    "a tensor on the host": (layers, "gelu_times", brought_to_the_host, "DNABERT-S", "single", "to cpu waits"),
    "rotation with a temporary": (esm2, "rotated", rotated_with_a_temporary, "ESM-2 3B", "500 bp", "14 launches"),
    "GELU in three kernels": (layers, "gelu_times", in_three_kernels, "DNABERT-S", "500 bp", "15 launches"),
    "heads that are no rows": (esm2, "rotated", apart_in_memory, "ESM-2 8M", "single", "not contiguous"),
    "rows of odd length": (esm2, "rotated", off_by_one, "ESM-2 8M", "single", "strides .* not of 8"),
    "groups of odd rows": (packing, "_padded", off_by_one_in_groups, "DNABERT-S", "single", "query: strides"),
    "offsets of 64 bits": (Packing, "cu_seqlens", offsets_of_64_bits, "ESM-2 8M", "single", "cu_seq_q is torch.int64"),
    "a mask of truth values": (Packing, "_mask", bool_mask, "DNABERT-S", "crowded", "the mask is torch.bool"),
    "a bias of other numbers": (
        dnabert_s.DnabertS,
        "_bias",
        single_bias,
        "DNABERT-S",
        "single",
        "mask is torch.float32",
    ),
    "a bias of odd rows": (dnabert_s, "BIAS_STEP", 1, "DNABERT-S", "single", "not correctly aligned"),
    "a bias without spare": (
        dnabert_s.DnabertS,
        "_bias",
        bias_without_spare,
        "DNABERT-S",
        "single",
        "read past its end",
    ),
    "long sequences padded": (packing, "LONGEST_PADDED", 1 << 20, "DNABERT-S", LONG, "1.[0-9]+ of the memory"),
    "attention in splits": (VARLEN, "", without_num_splits, "ESM-2 8M", "single", "num_splits {None}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_encoder_is_refused(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, value, name, case, message = CHANGES[change]
    if attribute:
        monkeypatch.setattr(owner, attribute, value)
    else:
        monkeypatch.setattr(owner, value)
    size = SIZES[name]
    lengths = lengths_of(case, size.kind, BUDGET) if isinstance(case, str) else case

    def checked() -> None:
        traced = trace(size, HALF, case)
        check_layer(size, case if isinstance(case, str) else "", traced)
        check_memory(size, HALF, lengths, traced)

    with pytest.raises(AssertionError, match=message):
        checked()


@pytest.mark.parametrize(
    ("dtype", "capability", "message"), [(SINGLE, (9, 0), "only supports half"), (HALF, (7, 5), "Ampere")]
)
def test_the_variable_length_kernel_is_refused_where_there_is_none(
    dtype: torch.dtype, capability: tuple[int, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "has_varlen_kernel", lambda device, dtype: True)
    with pytest.raises(AssertionError, match=message):
        trace(SIZES["ESM-2 8M"], dtype, "single", capability=capability)
