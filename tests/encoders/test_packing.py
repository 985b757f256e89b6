from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpdist.encoders.packing import LONGEST_PADDED, Packing

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12) | st.permutations(range(1, 20)).map(list)
GRANULES = st.sampled_from([1, 8, 16])


def packing(lengths: list[int], length_bucket: int = 1) -> Packing:
    return Packing(np.array(lengths, dtype=np.int64), CPU, length_bucket)


@given(LENGTHS, GRANULES)
def test_runs_cover_every_sequence_once_in_order(lengths: list[int], length_bucket: int) -> None:
    packed = packing(lengths, length_bucket)
    assert sum(group.sequences for group in packed.groups) == len(lengths)
    assert [group.start for group in packed.groups] == [0, *(group.stop for group in packed.groups[:-1])]
    assert packed.groups[-1].stop == sum(lengths)


@given(LENGTHS)
def test_groups_of_equal_lengths_are_not_padded(lengths: list[int]) -> None:
    assert all(group.present is None for group in packing(lengths).groups)


def test_more_than_eight_lengths_of_a_bucket_make_one_group() -> None:
    crowded, few = [*range(17, 26), *range(19, 26)], [*range(33, 41), 41, 49]
    assert len(packing(sorted(crowded)).groups) == 9
    lengths = [(group.length, group.sequences) for group in packing(sorted(crowded) + few[:8], 16).groups]
    assert lengths == [(32, 16), *((length, 1) for length in range(33, 41))]
    assert packing(few, 16).groups[0].sequences == len(few) - 1
    assert packing(sorted(crowded), 16).padded_tokens == 16 * 32 - sum(crowded)


def test_long_sequences_are_never_padded() -> None:
    assert packing(list(range(LONGEST_PADDED - 15, LONGEST_PADDED + 1)), 16).padded_tokens > 0
    longer = packing(list(range(LONGEST_PADDED + 1, LONGEST_PADDED + 17)), 16)
    assert longer.padded_tokens == 0
    assert len(longer.groups) == 16


def test_positions_restart_with_every_sequence() -> None:
    packed = packing([3, 1, 2])
    assert packed.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert packed.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert packed.longest == 3


@given(LENGTHS, GRANULES, st.booleans())
@settings(max_examples=30)
def test_attention_stays_within_every_sequence(lengths: list[int], length_bucket: int, biased: bool) -> None:
    packed = packing(lengths, length_bucket)
    random = torch.Generator().manual_seed(len(lengths))
    query, key, value = torch.randn(3, sum(lengths), 2, 8, generator=random)
    size = packed.longest + length_bucket
    place = torch.arange(size, dtype=torch.float32)
    bias = -torch.tensor([0.5, 0.1])[:, None, None] * (place[:, None] - place).abs() if biased else None

    packed.attention(key, value, query, 0.3, bias)  # another layer's, of which only masks are kept
    attended = packed.attention(query, key, value, 0.3, bias)

    for start, stop in pairwise(packed.offsets):
        scores = torch.einsum("ihe,jhe->hij", query[start:stop], key[start:stop]) * 0.3
        if bias is not None:
            scores += bias[:, : stop - start, : stop - start]
        expected = torch.einsum("hij,jhe->ihe", scores.softmax(-1), value[start:stop])
        torch.testing.assert_close(attended[start:stop], expected, atol=1e-5, rtol=1e-4)


@given(LENGTHS, st.booleans())
@settings(max_examples=30)
def test_a_sequence_that_overflows_leaves_the_others_of_a_padded_group_alone(lengths: list[int], biased: bool) -> None:
    packed = packing(lengths, 16)
    random = torch.Generator().manual_seed(len(lengths))
    query, key, value = torch.randn(3, sum(lengths), 2, 8, generator=random)
    bias = torch.zeros(2, packed.longest + 16, packed.longest + 16) if biased else None
    before = packed.attention(query, key, value, 0.3, bias)
    first = slice(packed.offsets[0], packed.offsets[1])
    for tensor in (query, key, value):
        tensor[first] = torch.inf
    after = packed.attention(query, key, value, 0.3, bias)
    assert torch.equal(before[lengths[0] :], after[lengths[0] :])
    assert not after[first].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 1)])
def test_means_of_segments_are_the_means_and_the_same_in_any_batch(dtype: torch.dtype, first: int, last: int) -> None:
    lengths = [3, 64, 65, 66, 67, 7, 7, 300, 128, 5]
    hidden = torch.randn(sum(lengths), 5, generator=torch.Generator().manual_seed(0)).add(8).to(dtype)
    hidden[3:10] = torch.inf
    packed = packing(lengths)
    means = packed.means_of_segments(hidden, first, last)
    assert means.dtype == torch.float32
    torch.testing.assert_close(means, packed.means(hidden, first=first, last=last), atol=1e-5, rtol=1e-6)
    for row, (start, stop) in enumerate(pairwise(packed.offsets)):
        alone = packing([lengths[row]]).means_of_segments(hidden[start:stop], first, last)
        assert torch.equal(alone[0], means[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_leave_out_the_ends_and_sum_in_float32(dtype: torch.dtype) -> None:
    lengths = [300, 300, 3, 7]
    hidden = torch.randn(sum(lengths), 5, generator=torch.Generator().manual_seed(0)).add(8).to(dtype)
    means = packing(lengths).means(hidden, first=1, last=1)
    expected = torch.stack([part[1:-1].double().mean(0) for part in hidden.split(lengths)])
    assert means.dtype == torch.float32
    torch.testing.assert_close(means.double(), expected, atol=1e-5, rtol=1e-6)
