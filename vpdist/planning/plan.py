"""The plan: from the lengths and hashes of all fragments to units of work, the same on every rank.

Fragments are sorted by (residues, nucleotide tokens, nucleotide hash, protein hash); equal neighbours share one row,
which is embedded once. Rows are packed into batches of a token budget, batches into units that taper: large ones
first, single batches last. A pure function of its arguments; world size and ranks do not enter, nor does torch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import xxhash

from vpdist.encoder_kinds import KINDS, NUCLEOTIDE
from vpdist.ragged import Ragged, offsets_of

LEAST_TAPER, MOST_TAPER, BATCHES_PER_TAPER = 1024, 2048, 32
"""A unit takes at most 1/taper of the cost that is left, so that the last units are single batches. The taper is a 32nd
of the number of batches, within bounds: at 2,048 even a GPU of half speed among 1,024 ends its unit before the others
end the rest; smaller inputs, which fewer GPUs share, make fewer files."""
COST_SCALE = 1000
"""Costs are in thousands of floating-point operations: those of ten million fragments of a 3B model fit in an int64."""
COSTS_PER_MFLOP = 10**6 // COST_SCALE
SHARD_TOKEN_BYTES = 32 << 20
"""Size of a token shard, a file with tokens in plan order."""
SLAB = 1 << 18
"""Long arrays are processed in slabs of this many rows, so that intermediate results stay small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCost:
    """Operations of an encoder for a sequence of t tokens: linear·t + attention·t²."""

    linear: int
    attention: int

    def of(self, tokens: np.ndarray) -> np.ndarray:
        """Cost of each sequence (int64, thousands of operations, at least 1) from its token count."""
        tokens = tokens.astype(np.int64)
        return np.maximum(1, (self.linear * tokens + self.attention * tokens * tokens) // COST_SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a batch and of a unit."""

    token_budget: int
    """Tokens a batch holds at most (a longer sequence is a batch of its own)."""
    unit_cost: int
    """Cost of a unit at most, about a minute on its device (a single batch may exceed it)."""
    unit_rows: int
    """Rows of a unit at most, so that its part stays within 64 MiB (a single batch may exceed it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentKeys:
    """The columns of n fragments, in input order, from which the plan is made."""

    residues: np.ndarray
    """(n,) residues of each protein, before truncation."""
    tokens: Mapping[str, np.ndarray]
    """(n,) tokens by kind of encoder, with special tokens, after truncation; zeros where no such encoder runs."""
    nucleotide_hash: np.ndarray
    """(n,) uint64."""
    protein_hash: np.ndarray
    """(n,) uint64."""

    @property
    def nucleotide_tokens(self) -> np.ndarray:
        """(n,) the second sort key."""
        return self.tokens[NUCLEOTIDE.name]


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
    """(u,) tokens of all encoders."""
    shard_unit: np.ndarray
    """(s + 1,) first unit of each token shard."""

    @property
    def n_units(self) -> int:
        return len(self.unit_cost)

    @property
    def n_rows(self) -> int:
        return len(self.row_start) - 1

    def rows(self, unit: int) -> range:
        """The rows of a unit."""
        return range(int(self.unit_row[unit]), int(self.unit_row[unit + 1]))

    def shard_rows(self, shard: int) -> range:
        """The rows of a token shard's units."""
        first, end = self.unit_row[self.shard_unit[shard : shard + 2]].tolist()
        return range(first, end)

    def fragments(self, unit: int) -> Ragged:
        """The fragment numbers of each row of a unit."""
        rows = self.rows(unit)
        return Ragged(self.fragment, self.row_start).between(rows.start, rows.stop)

    def digest(self) -> str:
        """xxh3_128 (hex) of all arrays."""
        total = xxhash.xxh3_128()
        for field in fields(self):
            array = getattr(self, field.name)
            total.update(np.int64(len(array)).tobytes())
            total.update(np.ascontiguousarray(array, dtype=np.int64).view(np.uint8).data)
        return total.hexdigest()

    def is_sound(self) -> bool:
        """Whether every fragment is in exactly one row, every row in one unit, every unit in one shard.

        For plans from untrusted files; those of `build` are sound.
        """
        for column in (self.fragment, self.unit_cost, self.unit_tokens):
            if column.dtype != np.int64 or column.ndim != 1 or int(column.min(initial=0)) < 0:
                return False
        n, u = len(self.fragment), len(self.unit_cost)
        if int(self.fragment.max(initial=-1)) >= n:
            return False
        is_planned = np.zeros(n, dtype=bool)
        is_planned[self.fragment] = True
        return (
            Ragged(self.fragment, self.row_start).is_sound(least=1)
            and Ragged(self.row_start[:-1], self.unit_row).is_sound(n=u, least=1)
            and Ragged(self.unit_cost, self.shard_unit).is_sound(least=1)
            and len(self.unit_tokens) == u
            and bool(is_planned.all())
        )


def plan_order(keys: FragmentKeys) -> np.ndarray:
    """(n,) fragment numbers sorted by (residues, nucleotide tokens, nucleotide hash, protein hash, number).

    One sort of a 64-bit key (20 bits of each length, 24 of the hash), then a full sort of the few fragments with equal
    keys. Raises ValueError for lengths of 2**20 and more.
    """
    for lengths in (keys.residues, keys.nucleotide_tokens):
        if lengths.size and int(lengths.max()) >= 1 << 20:
            raise ValueError("a fragment is longer than 1,048,575 residues or tokens")
    key = np.empty(len(keys.residues), dtype=np.uint64)
    for rows in slabs(len(key)):
        residues, tokens = (array[rows].astype(np.uint64) for array in (keys.residues, keys.nucleotide_tokens))
        key[rows] = residues << np.uint64(44) | tokens << np.uint64(24) | keys.nucleotide_hash[rows] >> np.uint64(40)
    order = np.argsort(key).astype(np.int64, copy=False)
    key = key[order]
    tied = np.zeros(len(order), dtype=bool)
    same = key[1:] == key[:-1]
    tied[1:] |= same
    tied[:-1] |= same
    positions = np.flatnonzero(tied)
    members = order[positions]
    sorting = np.lexsort((members, keys.protein_hash[members], keys.nucleotide_hash[members], key[positions]))
    order[positions] = members[sorting]
    return order


def shared_rows(keys: FragmentKeys, order: np.ndarray) -> np.ndarray:
    """(rows + 1,) where in plan order each row begins: equal fragments are neighbours and share one."""
    new = np.ones(len(order) + 1, dtype=bool)
    for rows in slabs(len(order)):
        both_sides = order[max(0, rows.start - 1) : rows.stop]
        same = np.ones(max(0, len(both_sides) - 1), dtype=bool)
        for array in (keys.residues, keys.nucleotide_tokens, keys.nucleotide_hash, keys.protein_hash):
            sorted_array = array[both_sides]
            same &= sorted_array[1:] == sorted_array[:-1]
        new[rows.stop - len(same) : rows.stop] = ~same
    return np.flatnonzero(new).astype(np.int64, copy=False)


def greedy_ends(tokens: np.ndarray, budget: int) -> np.ndarray:
    """Ends of consecutive groups, each as many sequences as fit into `budget` tokens and at least one."""
    total = offsets_of(tokens)
    pieces: list[np.ndarray] = []
    start = 0
    for rows in slabs(len(tokens)):
        # For each row of the slab, where a group that begins there ends; then the chain of groups is followed.
        furthest = np.searchsorted(total, total[rows] + budget, side="right") - 1
        following = np.maximum(furthest, np.arange(rows.start + 1, rows.stop + 1)).tolist()
        ends: list[int] = []
        while start < rows.stop:
            start = following[start - rows.start]
            ends.append(start)
        pieces.append(np.array(ends, dtype=np.int64))
    return np.concatenate([np.zeros(0, dtype=np.int64), *pieces])


def build(keys: FragmentKeys, limits: Limits, costs: Mapping[str, EncoderCost], least_taper: int = LEAST_TAPER) -> Plan:
    """Plan all fragments. Every fragment is in exactly one row, every row in exactly one unit.

    `costs` are those of the encoders that run, at least one, in their order; a unit is whole batches of the last one.
    """
    order = plan_order(keys)
    row_start = shared_rows(keys, order)
    n_rows = len(row_start) - 1
    lengths: dict[str, np.ndarray] = {}
    for kind in costs:
        lengths[kind] = np.empty(n_rows, dtype=np.int32)
        for rows in slabs(n_rows):
            lengths[kind][rows] = keys.tokens[kind][order[row_start[rows]]]
    *_, last = costs
    batch_end = greedy_ends(lengths[last], limits.token_budget)
    cost_before = np.zeros(n_rows + 1, dtype=np.int64)
    for rows in slabs(n_rows):
        cost = cost_before[rows.start + 1 : rows.stop + 1]
        for kind, encoder_cost in costs.items():
            cost += encoder_cost.of(lengths[kind][rows])
    np.cumsum(cost_before, out=cost_before)
    unit_row = _units(batch_end, cost_before, limits, least_taper)
    unit_cost = np.diff(cost_before[unit_row])
    del cost_before
    unit_tokens, unit_bytes = np.zeros((2, len(unit_cost)), dtype=np.int64)
    for kind, tokens in lengths.items():
        per_unit = np.add.reduceat(np.append(tokens, np.int32(0)), unit_row, dtype=np.int64)[:-1]
        unit_tokens += per_unit
        unit_bytes += np.dtype(KINDS[kind].token_type).itemsize * per_unit
    return Plan(
        fragment=order,
        row_start=row_start,
        unit_row=unit_row,
        unit_cost=unit_cost,
        unit_tokens=unit_tokens,
        shard_unit=np.append(np.int64(0), greedy_ends(unit_bytes, SHARD_TOKEN_BYTES)),
    )


def slabs(n: int) -> Iterator[slice]:
    """Consecutive slices of at most SLAB that cover `n` rows."""
    return (slice(start, min(start + SLAB, n)) for start in range(0, n, SLAB))


def _units(batch_end: np.ndarray, cost_before: np.ndarray, limits: Limits, least_taper: int) -> np.ndarray:
    """(units + 1,) row bounds: at least one whole batch, up to 1/taper of the cost that is left and the limits."""
    bounds = [0]
    batch, n_batches = 0, len(batch_end)
    taper = min(MOST_TAPER, max(least_taper, n_batches // BATCHES_PER_TAPER))
    cost_at_end = cost_before[batch_end]
    total = cost_before[-1]
    while batch < n_batches:
        start = bounds[-1]
        allowed = min(limits.unit_cost, (total - cost_before[start]) // taper)
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
    """Deal positions of `costs` to `world_size` ranks: the most expensive one left goes to the least loaded rank.
    The busiest rank exceeds the mean by less than one unit (Graham 1969, "Bounds on multiprocessing timing anomalies").
    Every position is dealt exactly once; each rank's list is sorted from expensive to cheap.
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


def batches(lengths: np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """Positions of `lengths` (tokens per sequence) batch by batch, in length order, each batch within the budget.

    A sequence longer than the budget is a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in greedy_ends(lengths[order], token_budget).tolist():
        yield order[start:end]
        start = end
