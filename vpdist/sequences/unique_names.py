"""Records' names to names that are unique over the whole input.

Enter: the names of all records, in input order. Leave: new names for repeated ones. Promises: memory for a 64-bit hash
per record, not for its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import xxhash


def name_hashes(names: Iterable[str]) -> np.ndarray:
    """(n,) uint64, the names' hashes for `resolve_names`."""
    return np.fromiter((_hash(name) for name in names), np.uint64)


def resolve_names(hashes: Sequence[np.ndarray], read_names: Callable[[], Iterable[Iterable[str]]]) -> dict[int, str]:
    """New names for the records whose name an earlier record has: `name__2`, or the next free number.

    A new name is one that no record of the input has. `hashes` are those of all names in input order, in any number of
    groups (blocks); `read_names` gives the names themselves and is called only where there are repeats. Memory: 8 bytes
    per name, as much again while they are sorted, and the repeated names. Returns record number -> new name.
    """
    known = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
    known.sort()
    repeated = set(known[1:][known[1:] == known[:-1]].tolist())
    if not repeated:
        return {}

    def is_taken(name: str) -> bool:
        position = int(np.searchsorted(known, np.uint64(_hash(name))))
        return position < len(known) and int(known[position]) == _hash(name)

    new_names: dict[int, str] = {}
    last_number: dict[str, int] = {}
    for record, name in enumerate(name for names in read_names() for name in names):
        if _hash(name) not in repeated:
            continue
        number = last_number.get(name, 0) + 1
        if number > 1:
            while is_taken(f"{name}__{number}"):
                number += 1
            new_names[record] = f"{name}__{number}"
        last_number[name] = number
    return new_names


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())
