"""The order of the plan: all fragments sorted by lengths and hashes, equal neighbours in one row.

Enter: lengths and hashes of all fragments. Leave: their order, and where each row begins. It holds the keys (28 bytes a
fragment), a sort key and the order (8 each); `planning/room.py` has the sum of planning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vpdist.encoder_kinds import NUCLEOTIDE

SLAB = 1 << 18
"""Long arrays are processed in slabs of this many rows, so that intermediate results stay small."""


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


def slabs(n: int) -> Iterator[slice]:
    """Consecutive slices of at most SLAB that cover `n` rows."""
    return (slice(start, min(start + SLAB, n)) for start in range(0, n, SLAB))


def plan_order(keys: FragmentKeys) -> np.ndarray:
    """(n,) fragment numbers sorted by (residues, nucleotide tokens, nucleotide hash, protein hash, number).

    One sort of a 64-bit key (as many bits as the lengths need, the rest of the hash), then a full sort of the
    few fragments with equal keys. Raises ValueError for lengths of 2**20 and more.
    """
    key = _sort_key(keys)
    order = np.argsort(key).astype(np.int64, copy=False)
    tied = np.zeros(len(order), dtype=bool)
    for rows in slabs(len(order)):
        first = max(0, rows.start - 1)
        in_order = key[order[first : rows.stop]]
        same = in_order[1:] == in_order[:-1]
        tied[first + 1 : rows.stop] |= same
        tied[first : max(first, rows.stop - 1)] |= same
    positions = np.flatnonzero(tied)
    del tied
    members = order[positions]
    sorting = np.lexsort((members, keys.protein_hash[members], keys.nucleotide_hash[members], key[members]))
    order[positions] = members[sorting]
    return order


def _sort_key(keys: FragmentKeys) -> np.ndarray:
    """(n,) uint64: residues, nucleotide tokens and the first bits of the nucleotide hash. Raises ValueError."""
    lengths = (keys.residues, keys.nucleotide_tokens)
    residue_bits, token_bits = (int(array.max(initial=0)).bit_length() for array in lengths)
    if max(residue_bits, token_bits) > 20:
        raise ValueError("a fragment is longer than 1,048,575 residues or tokens")
    hash_bits = 64 - max(1, residue_bits + token_bits)  # a shift by 64 bits is not defined
    key = np.empty(len(keys.residues), dtype=np.uint64)
    for rows in slabs(len(key)):
        residues, tokens = (array[rows].astype(np.uint64) for array in lengths)
        key[rows] = residues << np.uint64(token_bits) | tokens
        key[rows] <<= np.uint64(hash_bits)
        key[rows] |= keys.nucleotide_hash[rows] >> np.uint64(64 - hash_bits)
    return key


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
