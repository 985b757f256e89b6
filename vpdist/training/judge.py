"""How well a classifier does on the test side: per fragment, chunk and sequence, per length class, per source.

Chunks have the largest scores of their fragments, sequences the means of their chunks' (as in the tables). What is
judged is the virus score's share of both: virus / (virus + other), at least 1/2 where the call is virus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vpdist.results.scores import softmax
from vpdist.training.fragments import Fragments
from vpdist.training.metrics import Judged, with_intervals
from vpdist.training.sides import SIDES, TEST, Sides

LEVELS = ("fragments", "chunks", "sequences")
LENGTHS = (150, 300, 500, 1000, 3000, 10_000)
"""Where classes of the sequence's length begin, in bases."""
ALL = "all"
AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Scored:
    """n fragments, chunks or sequences of the test side."""

    virus: np.ndarray
    """(n,) bool, the label."""
    share: np.ndarray
    """(n,) float64, virus / (virus + other)."""
    record: np.ndarray
    """(n,) int64, record of each."""


def length_class(lengths: np.ndarray) -> np.ndarray:
    """(n,) names of the classes of sequences of these lengths: under 150, 150, 300, ..., 10000."""
    names = np.array([f"under {LENGTHS[0]}", *(str(length) for length in LENGTHS)])
    return names[np.searchsorted(LENGTHS, lengths, side="right")]


def score(
    fragments: Fragments,
    sides: Sides,
    virus: np.ndarray,
    logits: Callable[[np.ndarray], np.ndarray],
    raise_if_ending: Callable[[], None] = lambda: None,
) -> dict[str, Scored]:
    """The test side's scores by level. `virus` (r,) bool: the label of each record; `logits` returns (m, 2) of rows."""
    mine = np.flatnonzero(fragments.usable & (sides.side[fragments.record] == TEST))
    scores = np.empty((2, len(mine)))  # other, virus
    for start in range(0, len(mine), AT_ONCE):
        piece = slice(start, start + AT_ONCE)
        scores[:, piece] = softmax(logits(fragments.row[mine[piece]]))
        raise_if_ending()
    record, chunk = fragments.record[mine], fragments.chunk[mine]
    chunks, first = np.unique(chunk, return_index=True)
    of_chunk = np.maximum.reduceat(scores, first, axis=1) if len(chunks) else scores
    record_of_chunk = record[first]
    records, member = np.unique(record_of_chunk, return_inverse=True)
    sums = np.stack([np.bincount(member, each, len(records)) for each in of_chunk])
    of_record = sums / np.bincount(member, minlength=len(records))
    by_level = ((scores, record), (of_chunk, record_of_chunk), (of_record, records))
    return {
        level: Scored(virus[owner], values[1] / values.sum(axis=0), owner)
        for level, (values, owner) in zip(LEVELS, by_level, strict=True)
    }


def figures(
    scored: dict[str, Scored],
    sides: Sides,
    lengths: np.ndarray,
    *,
    resamples: int,
    seed: int,
    raise_if_ending: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """By level and length class (ALL: of any length): how many were judged, and the figures with their intervals."""
    table: dict[str, Any] = {}
    for level, items in scored.items():
        classes = length_class(lengths[items.record])
        table[level] = {}
        for name in (ALL, *dict.fromkeys(length_class(np.array([0, *LENGTHS])).tolist())):
            which = np.ones(len(classes), bool) if name == ALL else classes == name
            if not which.any():
                continue
            judged = Judged.of(items.virus[which], items.share[which], sides.group[items.record[which]])
            counts = {"n": len(judged), "virus": int(judged.virus.sum()), "groups": judged.n_groups}
            table[level][name] = counts | with_intervals(judged, resamples, seed, raise_if_ending)
    return table


def confusion(scored: dict[str, Scored], sides: Sides, sources: tuple[str, ...]) -> dict[str, Any]:
    """By level and source: how many of the test side are called virus, non-virus, or (sequences) not at all."""
    table: dict[str, Any] = {}
    for level, items in scored.items():
        table[level] = {}
        for number, source in enumerate(sources):
            mine = sides.source[items.record] == number
            virus = int((items.share[mine] >= 0.5).sum())
            table[level][source] = {"virus": virus, "non-virus": int(mine.sum()) - virus}
            if level == LEVELS[-1]:
                all_of_it = int(((sides.source == number) & (sides.side == TEST)).sum())
                table[level][source]["NA"] = all_of_it - int(mine.sum())
    return table


def side_name() -> str:
    """What the figures are measured on."""
    return f"{SIDES[TEST]} side, groups kept apart"
