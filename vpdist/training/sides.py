"""Groups to training, validation, test and calibration: seeded, stratified by source, one group on one side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from vpdist.errors import UsageError

SIDES = ("training", "validation", "test", "calibration")
TRAINING, VALIDATION, TEST, CALIBRATION = range(4)
NEEDED = 3
"""Sides without which there is no model: the first ones."""
OVERSHOOT = 1.25
"""A group joins a held-out side unless that would then be larger than so many times its share."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The side of each of n records, and of what groups it consists."""

    side: np.ndarray
    """(n,) int8, index into SIDES."""
    group: np.ndarray
    """(n,) int64, the first record of the group."""
    weight: np.ndarray
    """(n,) int64, fragments of the record, by which shares are counted."""
    source: np.ndarray
    """(n,) int32, index of the record's source."""

    def digest(self) -> str:
        """xxh3_128 (hex) of the side and group of every record."""
        digest = xxhash.xxh3_128(self.side.tobytes())
        digest.update(self.group.astype("<i8").tobytes())
        return digest.hexdigest()

    def counts(self, sources: tuple[str, ...]) -> dict[str, Any]:
        """Records, groups and fragments of each source on each side."""
        table: dict[str, Any] = {}
        for number, source in enumerate(sources):
            of_source = self.source == number
            table[source] = {}
            for side, name in enumerate(SIDES):
                here = of_source & (self.side == side)
                table[source][name] = {
                    "sequences": int(here.sum()),
                    "groups": len(np.unique(self.group[here])),
                    "fragments": int(self.weight[here].sum()),
                }
        return table


def divide(
    group: np.ndarray,
    weight: np.ndarray,
    source: np.ndarray,
    sources: tuple[str, ...],
    *,
    validation_share: float,
    test_share: float,
    calibration_share: float = 0.0,
    seed: int,
) -> Sides:
    """Divide the groups of each source in a random order: test takes what fits into its share, then validation, then
    calibration, which may get none; the rest is for training. A group of several sources counts for the one with most
    of its fragments.

    Args: all (n,), see `Sides`. Raises UsageError for a source with fragments in fewer than three groups: then no group
    is left for a side.
    """
    rng = np.random.default_rng(seed)
    roots, member = np.unique(group, return_inverse=True)
    fragments = np.zeros((len(roots), len(sources)), np.int64)
    np.add.at(fragments, (member, source), weight)
    size, main = fragments.sum(axis=1), fragments.argmax(axis=1)
    side_of = np.zeros(len(roots), np.int8)
    for number, name in enumerate(sources):
        mine = np.flatnonzero((main == number) & (size > 0))
        if len(mine) < NEEDED:
            count = "no group" if not len(mine) else "one group only" if len(mine) == 1 else f"{len(mine)} groups only"
            raise UsageError(
                f"{name}: {count} of sequences with open frames that share neither accession nor 25-mer, but training, "
                f"validation and test need one each; give more sequences"
            )
        order = mine[rng.permutation(len(mine))]
        total, left = int(size[order].sum()), order
        for side, share, kept in (
            (TEST, test_share, 2),
            (VALIDATION, validation_share, 1),
            (CALIBRATION, calibration_share, 1),
        ):
            taken = _that_fit(size[left], share * total, len(left) - kept, needed=side < NEEDED)
            side_of[left[taken]] = side
            left = left[~taken]
    return Sides(side_of[member], group, weight, source)


def _that_fit(sizes: np.ndarray, share: float, most: int, *, needed: bool) -> np.ndarray:
    """(g,) bool: at most `most` groups in their order that fit into `share`; where none does, the smallest one if one
    is needed."""
    taken = np.zeros(len(sizes), bool)
    have = n = 0
    for number, size in enumerate(sizes.tolist()):
        if n < most and have < share and have + size <= OVERSHOOT * share:
            taken[number] = True
            have, n = have + size, n + 1
    if needed and not have:
        taken[int(sizes.argmin())] = True
    return taken
