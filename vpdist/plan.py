"""The plan: from the lengths and hashes of all fragments to units of work, the same on every rank.

Fragments are sorted by (residues, nucleotide tokens, nucleotide hash, protein hash); equal neighbours share one row,
which is embedded once. Rows are packed into batches of a token budget, batches into units that taper: large ones
first, single batches last. A pure function of its arguments; world size and ranks do not enter, nor does torch.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from vpdist.fragments import are_offsets

TAPER = 1024
"""A unit takes at most 1/TAPER of the cost that is left, so that the last ones are single batches."""
COST_SCALE = 1000
"""Costs are whole thousands of floating-point operations: ten million fragments of a 3B model fit in an int64."""
SHARD_TOKEN_BYTES = 32 << 20
"""Tokens are laid out in plan order in files of about this size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCost:
    """Operations an encoder spends on a sequence of t tokens: linear·t + attention·t²."""

    linear: int
    attention: int

    def of(self, tokens: np.ndarray) -> np.ndarray:
        """Cost of each sequence (int64, thousands of operations, at least 1) from its token count."""
        tokens = tokens.astype(np.int64)
        return np.maximum(1, (self.linear * tokens + self.attention * tokens * tokens) // COST_SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a unit."""

    token_budget: int
    """Tokens a batch holds at most (a longer sequence is a batch of its own)."""
    unit_cost: int
    """Cost of a unit at most, about a minute on its device (a single batch may exceed it)."""
    unit_rows: int
    """Rows of a unit at most, so that its part stays within 64 MiB (a single batch may exceed it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentKeys:
    """What the plan needs to know of n fragments, in input order."""

    residues: np.ndarray
    """(n,) residues of each protein, before truncation."""
    nucleotide_tokens: np.ndarray
    """(n,) tokens with [CLS] and [SEP]; zeros when no nucleotide encoder runs."""
    protein_tokens: np.ndarray
    """(n,) tokens with <cls> and <eos>, after truncation; zeros when no protein encoder runs."""
    nucleotide_hash: np.ndarray
    """(n,) uint64."""
    protein_hash: np.ndarray
    """(n,) uint64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """n fragments in r rows in u units. Arrays are int64."""

    fragment: np.ndarray
    """(n,) fragment numbers in plan order; those of row k are fragment[row_start[k]:row_start[k + 1]]."""
    row_start: np.ndarray
    """(r + 1,) where each row's fragments begin."""
    unit_row: np.ndarray
    """(u + 1,) first row of each unit."""
    unit_cost: np.ndarray
    """(u,) thousands of operations."""
    unit_tokens: np.ndarray
    """(u,) tokens of both encoders."""
    shard_unit: np.ndarray
    """(s + 1,) first unit of each token shard."""

    @property
    def n_units(self) -> int:
        return len(self.unit_cost)

    @property
    def n_rows(self) -> int:
        return len(self.row_start) - 1

    def digest(self) -> str:
        """xxh3_128 (hex) of every array: two plans with the same digest are the same plan."""
        total = xxhash.xxh3_128()
        for array in (self.fragment, self.row_start, self.unit_row, self.unit_cost, self.unit_tokens, self.shard_unit):
            total.update(np.int64(len(array)).tobytes())
            total.update(np.ascontiguousarray(array, dtype=np.int64).view(np.uint8).data)
        return total.hexdigest()

    def is_sound(self) -> bool:
        """Whether this is a plan at all: every fragment in exactly one row, every row in one unit, every unit in one
        shard. `build` makes no other; a file may hold anything."""
        n, u = len(self.fragment), len(self.unit_cost)
        if any(
            array.dtype != np.int64 or array.ndim != 1 for array in (self.fragment, self.unit_cost, self.unit_tokens)
        ):
            return False
        if n and not (int(self.fragment.min()) >= 0 and int(self.fragment.max()) < n):
            return False
        return (
            are_offsets(self.row_start, n, least=1)
            and are_offsets(self.unit_row, self.n_rows, n=u, least=1)
            and are_offsets(self.shard_unit, u, least=1)
            and len(self.unit_tokens) == u
            and bool((np.bincount(self.fragment, minlength=n) == 1).all())
            and bool((self.unit_cost >= 0).all() and (self.unit_tokens >= 0).all())
        )


def plan_order(keys: FragmentKeys) -> np.ndarray:
    """(n,) fragment numbers sorted by (residues, nucleotide tokens, nucleotide hash, protein hash, number).

    One sort of a 64-bit key (20 bits of each length, 24 of the hash), then the few fragments whose keys are equal are
    sorted among themselves by the rest. Raises ValueError for lengths of 2**20 and more.
    """
    for lengths in (keys.residues, keys.nucleotide_tokens):
        if lengths.size and int(lengths.max()) >= 1 << 20:
            raise ValueError("a fragment is longer than 1,048,575 residues or tokens")
    key = keys.residues.astype(np.uint64) << np.uint64(44)
    key |= keys.nucleotide_tokens.astype(np.uint64) << np.uint64(24)
    key |= keys.nucleotide_hash >> np.uint64(40)
    order = np.argsort(key)
    key = key[order]
    tied = np.zeros(len(order), dtype=bool)
    same = key[1:] == key[:-1]
    tied[1:] |= same
    tied[:-1] |= same
    where = np.flatnonzero(tied)
    members = order[where]
    again = np.lexsort((members, keys.protein_hash[members], keys.nucleotide_hash[members], key[where]))
    order[where] = members[again]
    return order


def shared_rows(keys: FragmentKeys, order: np.ndarray) -> np.ndarray:
    """(rows + 1,) where in plan order a new row begins: equal fragments stand side by side and share one."""
    new = np.ones(len(order) + 1, dtype=bool)
    same = np.ones(max(0, len(order) - 1), dtype=bool)
    for array in (keys.residues, keys.nucleotide_tokens, keys.nucleotide_hash, keys.protein_hash):
        sorted_array = array[order]
        same &= sorted_array[1:] == sorted_array[:-1]
    new[1 : len(order)] = ~same
    return np.flatnonzero(new).astype(np.int64)


def greedy_ends(tokens: np.ndarray, budget: int) -> np.ndarray:
    """Ends of consecutive groups, each as many sequences as fit into `budget` tokens and at least one."""
    total = np.concatenate(([0], np.cumsum(tokens, dtype=np.int64)))
    ends: list[int] = []
    start = 0
    while start < len(tokens):
        end = int(np.searchsorted(total, total[start] + budget, side="right")) - 1
        start = max(end, start + 1)
        ends.append(start)
    return np.array(ends, dtype=np.int64)


def build(
    keys: FragmentKeys,
    limits: Limits,
    nucleotide_cost: EncoderCost | None,
    protein_cost: EncoderCost | None,
) -> Plan:
    """Plan all fragments. Every fragment is in exactly one row, every row in exactly one unit."""
    order = plan_order(keys)
    row_start = shared_rows(keys, order)
    first = order[row_start[:-1]]
    nucleotide_tokens = keys.nucleotide_tokens[first].astype(np.int64)
    protein_tokens = keys.protein_tokens[first].astype(np.int64)
    cost = np.zeros(len(first), dtype=np.int64)
    if nucleotide_cost is not None:
        cost += nucleotide_cost.of(nucleotide_tokens)
    if protein_cost is not None:
        cost += protein_cost.of(protein_tokens)
    batch_end = greedy_ends(protein_tokens if protein_cost is not None else nucleotide_tokens, limits.token_budget)
    unit_row = _units(batch_end, np.concatenate(([0], np.cumsum(cost))), limits)
    tokens = np.concatenate(([0], np.cumsum(nucleotide_tokens + protein_tokens)))
    token_bytes = np.concatenate(([0], np.cumsum(2 * nucleotide_tokens + protein_tokens)))
    shard_end = greedy_ends(np.diff(token_bytes[unit_row]), SHARD_TOKEN_BYTES)
    return Plan(
        fragment=order.astype(np.int64),
        row_start=row_start,
        unit_row=unit_row,
        unit_cost=np.diff(np.concatenate(([0], np.cumsum(cost)))[unit_row]),
        unit_tokens=np.diff(tokens[unit_row]),
        shard_unit=np.concatenate(([0], shard_end)).astype(np.int64),
    )


def _units(batch_end: np.ndarray, cost_before: np.ndarray, limits: Limits) -> np.ndarray:
    """(units + 1,) row bounds: whole batches, up to 1/TAPER of the cost left and the limits, at least one batch."""
    bounds = [0]
    batch, n_batches = 0, len(batch_end)
    cost_at_end = cost_before[batch_end]
    total = cost_before[-1]
    while batch < n_batches:
        start = bounds[-1]
        allowed = min(limits.unit_cost, (total - cost_before[start]) // TAPER)
        last = min(
            int(np.searchsorted(cost_at_end, cost_before[start] + allowed, side="right")),
            int(np.searchsorted(batch_end, start + limits.unit_rows, side="right")),
        )
        batch = max(last, batch + 1)
        bounds.append(int(batch_end[batch - 1]))
    return np.array(bounds, dtype=np.int64)


def longest_first(costs: Sequence[int] | np.ndarray) -> np.ndarray:
    """Positions of `costs` from the most expensive to the cheapest, equal ones in order."""
    return np.argsort(-np.asarray(costs, dtype=np.int64), kind="stable")


def deal(costs: Sequence[int] | np.ndarray, world_size: int) -> list[list[int]]:
    """Deal positions of `costs` to `world_size` ranks, each time the longest left to the least loaded rank.

    (Graham 1969, "Bounds on multiprocessing timing anomalies": the busiest rank exceeds the mean by less than one
    unit.) Every position is dealt exactly once; each rank's list runs from the longest to the shortest.
    """
    if world_size < 1:
        raise ValueError(f"world size {world_size} is not positive")
    dealt: list[list[int]] = [[] for _ in range(world_size)]
    loads = [(0, rank) for rank in range(world_size)]
    costs = np.asarray(costs, dtype=np.int64)
    for position in longest_first(costs).tolist():
        load, rank = heapq.heappop(loads)
        dealt[rank].append(position)
        heapq.heappush(loads, (load + int(costs[position]), rank))
    return dealt
