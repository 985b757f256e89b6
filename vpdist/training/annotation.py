"""Annotated genomes: fragments inside a coding sequence of GenBank flat files, without ambiguous bases.

The rule is the original's (Li et al. 2025): a fragment trains only where its translation is part of an annotated
protein. Here it must lie inside one piece of a CDS, on its strand and in its reading frame.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vpdist.errors import InputError, UsageError
from vpdist.sequences.decompression import DECOMPRESSION_ERRORS, decompressed, describe_damage, find_compression
from vpdist.sequences.records import read_records
from vpdist.training.fragments import Fragments
from vpdist.training.labelled import Labelled, Records

FORWARD, REVERSE = 0, 1
_KNOWN = np.zeros(256, bool)
_KNOWN[list(b"ACGT")] = True
Pieces = dict[tuple[int, int], list[tuple[int, int]]]
"""By strand and by the remainder modulo 3 of where codons begin (on the reverse strand: of their last base in forward
direction): first base and end (exclusive) of each piece, from 0."""


def check_installed(files: Sequence[Path]) -> None:
    """Raises UsageError where there are files to read, but Biopython is not installed."""
    if files and importlib.util.find_spec("Bio") is None:
        raise UsageError("--gbff needs Biopython: pip install 'vpdist[genbank]'")


def read_coding(path: Path) -> Iterator[tuple[tuple[str, str], Pieces]]:
    """Accession.version and locus name of each record of a flat file (plain or compressed), and its coding pieces.

    Pseudogenes and pieces of other records are left out. Raises InputError for a file that is no flat file or damaged.
    """
    from Bio import SeqIO

    n, compression = 0, None
    try:
        with open(path, "rb") as file:
            compression = find_compression(file)
            text = io.TextIOWrapper(decompressed(file, compression), encoding="utf-8", errors="replace")
            for record in SeqIO.parse(text, "genbank"):
                n += 1
                yield (record.id, record.name), _pieces(record.features)
    except DECOMPRESSION_ERRORS as error:
        raise InputError(describe_damage(error, compression), path=str(path), position=f"after record {n}") from error
    except (ValueError, AssertionError, KeyError) as error:
        reason = f"cannot be read as a GenBank flat file: {error}"
        raise InputError(reason, path=str(path), position=f"after record {n}") from error
    if not n:
        raise InputError("holds no record of a GenBank flat file", path=str(path))


def _pieces(features: Sequence[Any]) -> Pieces:
    pieces: Pieces = {}
    for feature in features:
        qualifiers = feature.qualifiers
        if feature.type != "CDS" or feature.location is None or {"pseudo", "pseudogene"} & qualifiers.keys():
            continue
        read = 1 - int(qualifiers.get("codon_start", ["1"])[0])  # bases since a codon began
        for part in feature.location.parts:
            start, end = int(part.start), int(part.end)
            if part.ref is None:
                reverse = part.strand == -1
                begin = (end - 1 + read if reverse else start - read) % 3
                pieces.setdefault((REVERSE if reverse else FORWARD, begin), []).append((start, end))
            read += end - start
    return pieces


def are_inside(pieces: Pieces, start: np.ndarray, end: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """(n,) bool: whether all codons of fragments of one record lie in one piece, in its frame. `start`, `end`: 1-based,
    inclusive, with the extra base; `frame`: index into six_frames.FRAMES."""
    bases = (end - start + 1) // 3 * 3
    reverse = frame >= 3
    first = np.where(reverse, end - bases, start - 1)
    last = first + bases
    begin = np.where(reverse, end - 1, start - 1) % 3
    inside = np.zeros(len(start), bool)
    for (strand, remainder), spans in pieces.items():
        mine = np.flatnonzero((reverse == (strand == REVERSE)) & (begin == remainder))
        ordered = np.array(sorted(spans), np.int64)
        furthest = np.maximum.accumulate(ordered[:, 1])
        before = np.searchsorted(ordered[:, 0], first[mine], side="right") - 1
        inside[mine] = (before >= 0) & (furthest[before] >= last[mine])
    return inside


def inside_coding(
    fragments: Fragments, records: Records, labelled: Labelled, raise_if_ending: Callable[[], None] = lambda: None
) -> tuple[Fragments, str]:
    """The fragments, of which only those are usable that the annotations and the bases allow; and a line for the user.

    Raises InputError where an annotation cannot be read or names none of the sequences.
    """
    coding: dict[str, Pieces] = {}
    for path in labelled.gbff:
        for names, pieces in read_coding(path):
            coding |= dict.fromkeys(names, pieces)
            raise_if_ending()
    usable = np.zeros(len(fragments.usable), bool)
    ends = np.searchsorted(fragments.record, np.arange(len(records.names) + 1))
    annotated = 0
    for number, record in enumerate(read_records(labelled.paths, replace_unknown=True)):
        raise_if_ending()
        if (found := coding.get(record.name)) is None:
            continue
        annotated += 1
        mine = slice(ends[number], ends[number + 1])
        start, end = fragments.start[mine], fragments.end[mine]
        unknown = np.zeros(len(record.sequence) + 1, np.int64)
        np.cumsum(~_KNOWN[np.frombuffer(record.sequence, np.uint8)], out=unknown[1:])
        usable[mine] = are_inside(found, start, end, fragments.frame[mine]) & (unknown[end] == unknown[start - 1])
    if not annotated:
        raise InputError("annotates none of the labelled sequences: names must agree", path=str(labelled.gbff[0]))
    usable &= fragments.usable
    told = (
        f"{int(usable.sum()):,} of {len(usable):,} fragments lie inside an annotated CDS; "
        f"{len(records.names) - annotated:,} sequences without annotation are left out"
    )
    return replace(fragments, usable=usable), told
