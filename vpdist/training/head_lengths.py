"""`--heads 150,300=nucleotide`: the lengths for which further classifiers are fitted, and where each begins.

A classifier judges the lengths around its own: two neighbours meet at the geometric mean of theirs, since what a short
piece tells less of goes with the ratio of lengths, not with the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vpdist.encoder_kinds import CLASSIFIED
from vpdist.errors import UsageError

SHORTEST_SHARE = 0.6
"""Of the shortest length that a classifier is fitted on: shorter chunks are not judged, unless the user says."""


@dataclass(frozen=True, slots=True)
class HeadLength:
    """One further classifier."""

    length: int
    """Bases of the pieces that it is fitted on."""
    kinds: tuple[str, ...]
    """The encoders whose embeddings it takes; none named: all of the model's."""
    begins: int
    """Bases of the shortest chunk that it judges."""


def parsed_heads(text: str | None) -> list[tuple[int, tuple[str, ...]]]:
    """Lengths, ascending, and the kinds named with each. Raises UsageError for anything else."""
    found: dict[int, tuple[str, ...]] = {}
    for item in [] if text is None else text.split(","):
        length, equals, kinds = item.partition("=")
        named = tuple(kinds.split("+")) if equals else ()
        if not (length.isascii() and length.isdigit()) or len(length) > 6 or int(length) < 3:
            raise UsageError(f"--heads {text}: {item!r} is no length of at least 3 bases, as in 150,300")
        if named != tuple(kind for kind in CLASSIFIED if kind in named) or (equals and not named):
            raise UsageError(f"--heads {text}: {item!r} names no encoders; take {' or '.join(CLASSIFIED)}")
        if int(length) in found:
            raise UsageError(f"--heads {text}: {length} is named twice")
        found[int(length)] = named
    return sorted(found.items())


def head_lengths(text: str | None, chunk_length: int, shortest_chunk: int) -> list[HeadLength]:
    """The further classifiers, ascending. Raises UsageError for one that is not shorter than the model's own, or that
    `shortest_chunk` leaves nothing."""
    parsed = parsed_heads(text)
    begins = [shortest_chunk, *meets([length for length, _ in parsed], chunk_length)]
    for (length, _), begin in zip(parsed, begins[1:], strict=True):
        if length >= chunk_length or begin <= shortest_chunk or length < shortest_chunk:
            raise UsageError(
                f"--heads {text}: {length} must be below the chunk length of {chunk_length}, and judge chunks of more "
                f"than {shortest_chunk} bases, the shortest, itself among them"
            )
    return [HeadLength(length, kinds, begin) for (length, kinds), begin in zip(parsed, begins, strict=False)]


def meets(lengths: Sequence[int], chunk_length: int) -> list[int]:
    """Where each classifier but the first begins, the model's own included."""
    longer = [*lengths, chunk_length][1:]
    return [round(math.sqrt(before * after)) for before, after in zip(lengths, longer, strict=True)]


def shortest_chunk_of(given: int | None, text: str | None) -> int | None:
    """Bases of the shortest chunk that the model is to judge: as given, else by the shortest length in `--heads`; None
    where neither says, and every chunk is judged."""
    parsed = parsed_heads(text)
    if given is not None or not parsed:
        return given
    return max(3, round(SHORTEST_SHARE * parsed[0][0]))
