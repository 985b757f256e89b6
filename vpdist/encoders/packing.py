"""A packed batch: the tokens of many sequences end to end, no padding between them, and attention over it.

Linear layers work on the flat tokens. Attention works on groups of neighbouring sequences: a group of equal lengths is
a plain view of the flat tensor, without copy or mask. Where many lengths lie close together, a group is padded to its
longest sequence instead. Sorted batches have few groups.

Shapes: B sequences, T tokens in all, D width, H heads, E numbers per head, N sequences of a group, L tokens per
sequence of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from vpdist.encoders import cpu_attention
from vpdist.ragged import offsets_of

MOST_PER_HEAD = 256
"""Numbers of a head that the variable-length kernel takes."""
LENGTHS_APART = 8
"""Most lengths of a bucket that are computed apart, each by one kernel without padding. A padded group takes five for
queries, keys, values, attention and its output, and those copy and mask."""
LONGEST_PADDED = 512
"""Longer sequences are never padded: a few of them keep a GPU busy, and their masks would outgrow all else."""
SEGMENT = 64
"""Tokens that one thread sums up, of each number of the vector: few enough that many threads share a long sequence."""


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Neighbouring sequences of about the same length, over which attention is computed at once."""

    start: int
    """First token, in the flat batch."""
    stop: int
    """One past the last token."""
    sequences: int
    """Number of sequences."""
    length: int
    """Tokens per sequence, once padded."""
    gathered: torch.Tensor | None
    """(sequences * length,) int64: each padded position's token within the group (its sequence's last one, where there
    is none); None: no padding."""
    present: torch.Tensor | None
    """(stop - start,) int64: each token's position in the padded layout; None: no padding."""
    absent: torch.Tensor | None
    """(sequences, 1, 1, length) float32: 0 where there is a token, else -inf; None: no padding."""


class Packing:
    """The layout of B sequences in a flat batch.

    `lengths` is (B,) int64. A group may hold lengths that are equal when rounded up to a multiple of `length_bucket`,
    where more than LENGTHS_APART are; it is padded to that multiple. With 1 nothing is padded.
    """

    def __init__(self, lengths: np.ndarray, device: torch.device, length_bucket: int = 1) -> None:
        self.lengths, self.device, self.length_bucket = lengths, device, length_bucket
        self.offsets = offsets_of(lengths)
        self.longest = int(self.lengths.max(initial=0))
        self._masks: dict[int, torch.Tensor] = {}

    @cached_property
    def cu_seqlens(self) -> torch.Tensor:
        """(B + 1,) int32 on the device: the offsets, for variable-length kernels."""
        return to_device(self.offsets.astype(np.int32), self.device)

    @cached_property
    def positions(self) -> torch.Tensor:
        """(T,) int64 on the device: each token's position in its sequence, from 0."""
        return to_device(self._positions, self.device)

    @cached_property
    def _positions(self) -> np.ndarray:
        return np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.lengths)

    @cached_property
    def groups(self) -> list[LengthGroup]:
        """The groups in order; together they cover every sequence once."""
        return [self._group(first, last, length) for first, last, length in self._bounds]

    @cached_property
    def _bounds(self) -> list[tuple[int, int, int]]:
        """First sequence of each group, one past its last, and its padded length."""
        starts = _starts_of_groups(self.lengths)
        runs = [(first, last, int(self.lengths[first])) for first, last in pairwise([*starts, len(self.lengths)])]
        bounds = []
        for rounded, same in groupby(runs, lambda run: -(-run[2] // self.length_bucket) * self.length_bucket):
            apart = list(same)
            if len(apart) > LENGTHS_APART and rounded <= LONGEST_PADDED:
                apart = [(apart[0][0], apart[-1][1], rounded)]
            bounds += apart
        return bounds

    def _group(self, first: int, last: int, length: int) -> LengthGroup:
        start, stop, n = int(self.offsets[first]), int(self.offsets[last]), last - first
        if stop - start == n * length:
            return LengthGroup(start, stop, n, length, None, None, None)
        lengths_N1 = self.lengths[first:last, None]
        place_L = np.arange(length)
        gathered_NL = self.offsets[first:last, None] - start + np.minimum(place_L, lengths_N1 - 1)
        present_NL = place_L < lengths_N1
        absent_NL = np.where(present_NL, 0, -np.inf).astype(np.float32)
        on_device = (
            to_device(array, self.device) for array in (gathered_NL.ravel(), np.flatnonzero(present_NL), absent_NL)
        )
        gathered, present, absent = on_device
        return LengthGroup(start, stop, n, length, gathered, present, absent.view(n, 1, 1, length))

    @property
    def padded_tokens(self) -> int:
        """Tokens of padding in all groups."""
        return sum((last - first) * length for first, last, length in self._bounds) - int(self.offsets[-1])

    def means(self, hidden_TD: torch.Tensor, *, first: int = 0, last: int = 0) -> torch.Tensor:
        """(B, D) float32: the mean of every sequence's tokens, less `first` at its start and `last` at its end.

        Sums in float32 whatever the dtype. Every sequence must have a token left.
        """
        if hidden_TD.is_cuda:
            return self.means_of_segments(hidden_TD, first, last)
        pooled_BD = torch.empty(len(self.lengths), hidden_TD.shape[1], dtype=torch.float32, device=hidden_TD.device)
        starts = _starts_of_groups(self.lengths)
        for a, b in pairwise([*starts, len(self.lengths)]):
            length = int(self.lengths[a])
            hidden_NLD = hidden_TD[self.offsets[a] : self.offsets[b]].view(b - a, length, -1)
            torch.mean(hidden_NLD[:, first : length - last], 1, dtype=torch.float32, out=pooled_BD[a:b])
        return pooled_BD

    def means_of_segments(self, hidden_TD: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """The same by as many kernels for any number of lengths: sums of SEGMENT tokens, and their sums.

        One thread makes each sum in order. Segments begin where their sequence does, so that bits are the same in any
        batch.
        """
        segments, sequences = self._segments(first, last)
        counted_B1 = (self.lengths - first - last).astype(np.float32)[:, None]
        bounds = (to_device(each, hidden_TD.device) for each in (segments, sequences, counted_B1))
        segments_on_device, sequences_on_device, divisors_B1 = bounds
        sums_SD = torch.segment_reduce(hidden_TD.float(), "sum", offsets=segments_on_device, unsafe=True)
        sums_RD = torch.segment_reduce(sums_SD, "sum", offsets=sequences_on_device, unsafe=True)
        return sums_RD.unflatten(0, (-1, 3))[:, 1] / divisors_B1

    def _segments(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The first token of every segment, and the first segment of every third of a sequence: its `first` tokens,
        those between in segments of SEGMENT, its `last` tokens. Both with their end."""
        starts_B, stops_B = self.offsets[:-1] + first, self.offsets[1:] - last
        per_sequence_B = -(-(stops_B - starts_B) // SEGMENT) + 2
        begin_B1 = offsets_of(per_sequence_B)
        place_S = np.arange(begin_B1[-1]) - np.repeat(begin_B1[:-1], per_sequence_B) - 1
        tokens_S = np.minimum(
            np.repeat(starts_B, per_sequence_B) + place_S * SEGMENT, np.repeat(stops_B, per_sequence_B)
        )
        tokens_S[place_S < 0] = self.offsets[:-1]
        thirds_B3 = np.stack([begin_B1[:-1], begin_B1[:-1] + 1, begin_B1[1:] - 1], axis=1)
        return np.append(tokens_S, self.offsets[-1]), np.append(thirds_B3, begin_B1[-1])

    def attention(
        self,
        query_THE: torch.Tensor,
        key_THE: torch.Tensor,
        value_THE: torch.Tensor,
        scale: float,
        bias_HLL: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(T, H, E): softmax(scale * query key + bias) value within every sequence.

        `bias_HLL` covers the longest group's length and depends on two positions only; every call gets the same.
        Without one, in half precision on CUDA, through the variable-length kernel; else through SDPA, group by group.
        Heads that kernels do not take as they are get zeros at their end, which change neither scores nor values.
        """
        if spare := spare_numbers(query_THE):
            query_THE, key_THE, value_THE = (pad(each, (0, spare)) for each in (query_THE, key_THE, value_THE))
            return self._attention(query_THE, key_THE, value_THE, scale, bias_HLL)[..., :-spare]
        return self._attention(query_THE, key_THE, value_THE, scale, bias_HLL)

    def _attention(
        self,
        query_THE: torch.Tensor,
        key_THE: torch.Tensor,
        value_THE: torch.Tensor,
        scale: float,
        bias_HLL: torch.Tensor | None,
    ) -> torch.Tensor:
        if bias_HLL is None and has_varlen_kernel(query_THE.device, query_THE.dtype):
            from torch.nn.attention.varlen import varlen_attn

            bounds = (self.cu_seqlens, self.cu_seqlens, self.longest, self.longest)
            # one split: bits don't depend on the batch, and torch 2.14 doesn't turn to cuDNN, which plans per shape
            attended_THE = varlen_attn(query_THE, key_THE, value_THE, *bounds, scale=scale, num_splits=1)
            assert isinstance(attended_THE, torch.Tensor)  # a tuple only where auxiliary outputs are asked for
            return attended_THE
        outputs = []
        for group in self.groups:
            query_NHLE, key_NHLE, value_NHLE = (_padded(flat, group) for flat in (query_THE, key_THE, value_THE))
            mask = self._mask(group, bias_HLL, query_THE.dtype)
            if cpu_attention.serves(query_NHLE, mask):
                output_NHLE = cpu_attention.attention(query_NHLE, key_NHLE, value_NHLE, mask, scale)
            else:
                output_NHLE = scaled_dot_product_attention(
                    query_NHLE, key_NHLE, value_NHLE, attn_mask=mask, scale=scale
                )
            output_THE = output_NHLE.transpose(1, 2).reshape(-1, *query_THE.shape[1:])
            outputs.append(output_THE if group.present is None else output_THE[group.present])
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _mask(self, group: LengthGroup, bias_HLL: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
        """The group's attention mask, None without bias and padding; where it is padded, made once for all layers, and
        of the numbers that kernels add."""
        bias_1HLL = None if bias_HLL is None else bias_HLL[None, :, : group.length, : group.length]
        if group.absent is None:
            return bias_1HLL
        if group.start not in self._masks:
            absent_N11L = group.absent.to(dtype if bias_1HLL is None else bias_1HLL.dtype)
            self._masks[group.start] = absent_N11L if bias_1HLL is None else bias_1HLL + absent_N11L
        return self._masks[group.start]


def spare_numbers(states_THE: torch.Tensor) -> int:
    """Numbers that a head lacks to end at a multiple of 16 bytes: on CUDA the variable-length kernel refuses others,
    and SDPA computes them by its slowest kernel, which holds all scores of a group in memory."""
    return -states_THE.shape[-1] % (16 // states_THE.element_size()) if states_THE.is_cuda else 0


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the variable-length kernel serves this device and dtype: half precision, Ampere or newer."""
    half = dtype in (torch.float16, torch.bfloat16)
    return device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0)


def _padded(flat_THE: torch.Tensor, group: LengthGroup) -> torch.Tensor:
    """The group's tokens as (N, H, L, E), each sequence followed by its last token where it is shorter."""
    part_THE = flat_THE[group.start : group.stop]
    if group.gathered is not None:
        part_THE = part_THE[group.gathered]
    return part_THE.unflatten(0, (group.sequences, group.length)).transpose(1, 2)


def _starts_of_groups(values: np.ndarray) -> list[int]:
    """The index at which each group of equal neighbours begins."""
    return [0, *(np.flatnonzero(np.diff(values)) + 1).tolist()] if len(values) else []


def to_device(array: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """`array`, of the host, on the device; on CUDA through pinned memory, without waiting for what the device does."""
    tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
