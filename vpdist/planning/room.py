"""How many fragments one plan may have: the memory that planning takes, and the shards to cut a larger input into.

Planning, and the flags of tables, hold most per fragment of all steps. Shards of a manifest are planned on their own,
so an archive of any size never has all its fragments in one place (docs/archive.md).
"""

from __future__ import annotations

import math

from vpdist.errors import UsageError
from vpdist.text import bytes_text

BYTES_PER_FRAGMENT, BY_OBJECT = 52, 70
"""Of the process that plans: keys 28, sort key 8, order 8, marks; then rows, lengths and the image of the file. With a
manifest the second one, as keys, the plans of all objects and the one that joins them are there at once.
`python -m scripts.archive.simulate` measures it, tests/planning/test_room.py bounds it."""
MOST_FRAGMENTS = 100_000_000
"""Of one plan: made in a minute and 5 GB."""
SHARE = 0.8
"""Of the memory that planning may take; the program and what else runs there need the rest."""


def planning_bytes(n_fragments: int, *, by_object: bool = False) -> int:
    """Memory that the process needs which plans so many fragments."""
    return (BY_OBJECT if by_object else BYTES_PER_FRAGMENT) * n_fragments


def most_fragments(memory_bytes: int, *, by_object: bool = True) -> int:
    """Of one plan, on a machine with so much memory."""
    return max(1, min(MOST_FRAGMENTS, int(SHARE * memory_bytes) // planning_bytes(1, by_object=by_object)))


def shards_needed(n_fragments: int, memory_bytes: int) -> int:
    """Of the manifest, so that no shard has more fragments than a plan may have."""
    return max(1, math.ceil(n_fragments / most_fragments(memory_bytes)))


def advice(n_fragments: int, memory_bytes: int, *, by_object: bool = False) -> str:
    """What to do with more fragments than one plan may have; '' where they are few enough."""
    if n_fragments <= most_fragments(memory_bytes, by_object=by_object):
        return ""
    shards = max(2, shards_needed(n_fragments, memory_bytes))
    needed = planning_bytes(n_fragments, by_object=by_object)
    return (
        f"{n_fragments:,} fragments need about {bytes_text(needed)} for planning; "
        f"cut into shards: --manifest FILE --shard i/n with n >= {shards:,}"
    )


def check(n_fragments: int, memory_bytes: int, *, by_object: bool = False) -> str:
    """The advice, as a warning. Raises UsageError where the machine has less memory than planning needs."""
    told = advice(n_fragments, memory_bytes, by_object=by_object)
    if planning_bytes(n_fragments, by_object=by_object) > memory_bytes:
        raise UsageError(f"{told} (this machine has {bytes_text(memory_bytes)})")
    return told and f"warning: {told}"
