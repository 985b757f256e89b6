"""A packed batch: the tokens of many sequences end to end, no padding between them, and attention over it.

Linear layers work on the flat tokens. Attention works on groups of neighbouring sequences of about the same length: a
group of equal lengths is a plain view of the flat tensor, without copy or mask; any other is padded to its longest
sequence. Sorted batches have few groups.

Shapes: B sequences, T tokens in all, H heads, E numbers per head, N sequences of a group, L tokens per sequence of a
group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import pad

from vpdist.encoders.cpu_attention import attention
from vpdist.ragged import offsets_of

MOST_PER_HEAD = 256
"""Numbers of a head that the variable-length kernel takes."""


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
    scattered: torch.Tensor | None
    """(stop - start,) int64: each token's position in the padded (sequences * length) layout; None: no padding."""


class Packing:
    """The layout of B sequences in a flat batch.

    `lengths` is (B,) int64. `length_bucket` is how far lengths may differ within a group: they are rounded
    up to its multiple. 1 pads nothing; more makes fewer, larger kernels.
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

    @property
    def _rounded(self) -> np.ndarray:
        return -(-self.lengths // self.length_bucket) * self.length_bucket

    @cached_property
    def groups(self) -> list[LengthGroup]:
        """The groups in order; together they cover every sequence once."""
        rounded, first = self._rounded, _starts_of_groups(self._rounded)
        return [
            self._group(a, b, int(rounded[a])) for a, b in zip(first, [*first[1:], len(rounded)], strict=True) if b > a
        ]

    def _group(self, first: int, last: int, length: int) -> LengthGroup:
        start, stop = int(self.offsets[first]), int(self.offsets[last])
        scattered = None
        if stop - start != (last - first) * length:
            row = np.repeat(np.arange(last - first), self.lengths[first:last])
            scattered = to_device(row * length + self._positions[start:stop], self.device)
        return LengthGroup(start, stop, last - first, length, scattered)

    @property
    def padded_tokens(self) -> int:
        """Tokens of padding in all groups."""
        return int((self._rounded - self.lengths).sum())

    def means(self, hidden_TD: torch.Tensor, *, first: int = 0, last: int = 0) -> torch.Tensor:
        """(B, D) float32: the mean of every sequence's tokens, less `first` at its start and `last` at its end.

        Sums in float32 whatever the dtype. Every sequence must have a token left.
        """
        pooled_BD = torch.empty(len(self.lengths), hidden_TD.shape[1], dtype=torch.float32, device=hidden_TD.device)
        starts = _starts_of_groups(self.lengths)
        for a, b in zip(starts, [*starts[1:], len(self.lengths)], strict=True):
            length = int(self.lengths[a])
            hidden_NLD = hidden_TD[self.offsets[a] : self.offsets[b]].view(b - a, length, -1)
            torch.mean(hidden_NLD[:, first : length - last], 1, dtype=torch.float32, out=pooled_BD[a:b])
        return pooled_BD

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
            attended_THE = varlen_attn(query_THE, key_THE, value_THE, *bounds, scale=scale)
            assert isinstance(attended_THE, torch.Tensor)  # a tuple only where auxiliary outputs are asked for
            return attended_THE
        outputs = []
        for group in self.groups:
            query_NHLE, key_NHLE, value_NHLE = (_padded(flat, group) for flat in (query_THE, key_THE, value_THE))
            mask = self._mask(group, bias_HLL)
            output_NHLE = attention(query_NHLE, key_NHLE, value_NHLE, mask, scale)
            output_THE = output_NHLE.transpose(1, 2).reshape(-1, *query_THE.shape[1:])
            outputs.append(output_THE if group.scattered is None else output_THE[group.scattered])
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _mask(self, group: LengthGroup, bias_HLL: torch.Tensor | None) -> torch.Tensor | None:
        """The group's attention mask, None without bias and padding; where it is padded, made once for all layers."""
        mask = None if bias_HLL is None else bias_HLL[None, :, : group.length, : group.length]
        if group.scattered is None:
            return mask
        if group.start not in self._masks:
            present_NL = torch.zeros(group.sequences * group.length, dtype=torch.bool, device=group.scattered.device)
            present_N11L = present_NL.index_fill_(0, group.scattered, True).view(group.sequences, 1, 1, group.length)
            self._masks[group.start] = present_N11L if mask is None else torch.where(present_N11L, mask, -torch.inf)
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
    """The group's tokens as (N, H, L, E), padded with zeros where its lengths differ."""
    part_THE = flat_THE[group.start : group.stop]
    if group.scattered is not None:
        padded_THE = part_THE.new_zeros(group.sequences * group.length, *flat_THE.shape[1:])
        part_THE = padded_THE.index_copy_(0, group.scattered, part_THE)
    return part_THE.unflatten(0, (group.sequences, group.length)).transpose(1, 2)


def _starts_of_groups(values: np.ndarray) -> list[int]:
    """The index at which each group of equal neighbours begins."""
    return [0, *(np.flatnonzero(np.diff(values)) + 1).tolist()] if len(values) else []


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """`array` on the device; on CUDA through pinned memory, without waiting for what the device is doing."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
