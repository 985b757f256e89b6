"""Groups of records that must be on one side of a split: of one accession, or with a 25-mer in common.

Enters: the records and their files, and groups of the user's. Leaves: a number per record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vpdist.errors import InputError
from vpdist.storage.atomic_files import read_limited
from vpdist.training.kmers import components, shared
from vpdist.training.labelled import Labelled, Records

READ_NAME = re.compile(r"[^:\s]+(:[^:\s]+){4,}")
"""A sequencer's: instrument, run, flow cell, ... These are no accessions."""
PROJECT = re.compile(r"(?:NZ_)?((?:[A-Z]{4}|[A-Z]{6})[0-9]{2})(?:[0-9]{6,})?(?![A-Za-z0-9])")
"""The accession of a contig of a whole-genome project begins with that of the project, which is one genome."""
ACCESSION = re.compile(r"((?:[A-Z]{2}_[A-Z]{0,4}[0-9]{6,}|[A-Z]{1,3}[0-9]{5,8}))(?![A-Za-z0-9])")
"""Of INSDC and RefSeq, without a version."""
PLACED = re.compile(r"(.+?)(?:[:#|/]c?[0-9]+(?:-|\.\.|_|#)c?[0-9]+|_c?[0-9]+(?:-|\.\.)c?[0-9]+|/[12])")
"""A name that ends with a position, or with the number of a mate. Two numbers after `_` are no position: genes of a
contig `k141_7` are called `k141_7_1`, and all of an assembly would be one."""
GROUPS_LIMIT = 1 << 30
"""Bytes of a file of groups at most."""


def accession(name: str) -> str:
    """What a record's name has in common with those of the same accession.

    The project of a whole-genome contig (`NZ_ABCD01000001.1` gives ABCD01); an accession without version and what
    follows it (`NC_008199.3#3k#1#900`, `NC_018264:c29335-28853`); any other name without a position (`contig_5:1-900`)
    or the number of a mate (`x/1`) at its end.
    """
    if READ_NAME.fullmatch(name):
        return name
    found = PROJECT.match(name) or ACCESSION.match(name) or PLACED.fullmatch(name)
    return name if found is None else found[1]


def read_groups(path: Path) -> dict[str, str]:
    """The group of each name in lines `name<TAB>group`; blank lines are skipped. Raises InputError naming the line."""
    try:
        text = read_limited(path, GROUPS_LIMIT, follow=True).decode()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8", path=str(path), position=f"byte {error.start + 1}") from error
    groups: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, *rest = line.split("\t")
        if not line.strip():
            continue
        if len(rest) != 1 or not name or not rest[0].strip():
            raise InputError("is not name<TAB>group", path=str(path), position=f"line {number}")
        if groups.setdefault(name, rest[0]) != rest[0]:
            raise InputError(f"{name} is in two groups", path=str(path), position=f"line {number}")
    return groups


def same_key(keys: Sequence[str | None]) -> np.ndarray:
    """Pairs (m, 2) that connect all items with the same key; None is no key."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(key, item), item) for item, key in enumerate(keys) if key is not None]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def find_groups(
    labelled: Labelled,
    records: Records,
    raise_if_ending: Callable[[], None] = lambda: None,
    *,
    replace_unknown: bool = False,
) -> np.ndarray:
    """(n,) int64: the first record of each record's group. Raises InputError."""
    root = components(len(records.names), same_key([accession(name) for name in records.names]))
    if labelled.groups is not None:
        given = read_groups(labelled.groups)
        if unknown := given.keys() - set(records.names):
            raise InputError(
                f"names {len(unknown):,} sequences that no file has, {min(unknown)} for one", path=str(labelled.groups)
            )
        root = components(len(root), same_key([given.get(name) for name in records.names]), root)
    for pairs in shared(labelled.paths, records.n_bases, raise_if_ending, replace_unknown=replace_unknown):
        root = components(len(root), pairs, root)
    return root
