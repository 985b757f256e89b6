"""Pieces of genomes of a given length, as a sample's contigs would be.

Where sequences are genes, those of one genome and file are put one after the other, in the order of the file, until
they are long enough: a dense stretch of genes, without what lies between them in the cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sequence, the genome that it is of, and its file's name and label."""

    sequence: str
    genome: str
    source: str
    virus: bool


def genomes(sequences: Iterable[Labelled]) -> Mapping[tuple[str, str], list[Labelled]]:
    """The sequences of each file and genome, in their order."""
    found: dict[tuple[str, str], list[Labelled]] = {}
    for each in sequences:
        found.setdefault((each.source, each.genome), []).append(each)
    return found


def pieces(
    found: Mapping[tuple[str, str], list[Labelled]], bases: int, most: int, most_of_genome: int, seed: int
) -> Iterator[Labelled]:
    """Pieces of exactly `bases`, at most `most_of_genome` of a genome and `most` of a file, genomes in a random order,
    places at random without overlap."""
    for source in dict.fromkeys(name for name, _ in found):
        rng = np.random.default_rng((seed, bases))
        mine = [key for key in found if key[0] == source]
        left = most
        for number in rng.permutation(len(mine)).tolist():
            members = found[mine[number]]
            for text in _cut([each.sequence for each in members], bases, min(left, most_of_genome), rng):
                yield Labelled(text, members[0].genome, source, members[0].virus)
                left -= 1
            if not left:
                break


def _cut(sequences: list[str], bases: int, most: int, rng: np.random.Generator) -> list[str]:
    """At most `most` pieces of a genome: of its sequences where these are long enough, else of all in a row."""
    long = [text for text in sequences if len(text) >= bases] or ["".join(sequences)]
    places = [(text, start) for text in long for start in range(0, len(text) - bases + 1, bases)]
    return [places[i][0][places[i][1] : places[i][1] + bases] for i in rng.permutation(len(places))[:most].tolist()]
