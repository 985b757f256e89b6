"""`python -m scripts.mini.genomes FA... > groups.tsv`: the genome of each gene, for `vpdist train --groups`.

Genes of one genome look alike without sharing a 25-mer, so a model must be judged on genomes that it has not seen.
Names tell them: `genome=X` in the header; GeneIDs were given out genome by genome, and RefSeq's transcript numbers
(XM_, NM_) about species by species, so numbers that follow each other closely are of one. Other names get no group.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import dnaio
import numpy as np

GENOME = re.compile(r"\bgenome=(\S+)")
NUMBERED = re.compile(r"(GeneID:|XM_|NM_)([0-9]+)")
FARTHEST = {"GeneID:": 10, "XM_": 1000, "NM_": 1000}
"""How far apart the numbers of neighbours in a genome may be. 59,237 GeneIDs of 3,500 viral genomes fall into 3,551
runs; with other distances the count changes: 5 gives 5,651 runs, 20 gives 2,200."""


def genomes(headers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and genome of each header that tells its genome."""
    numbered: dict[str, list[tuple[int, str]]] = {prefix: [] for prefix in FARTHEST}
    for header in headers:
        name = header.split()[0]
        if said := GENOME.search(header):
            yield name, f"genome={said[1]}"
        elif found := NUMBERED.match(name):
            numbered[found[1]].append((int(found[2]), name))
    for prefix, named in numbered.items():
        named.sort()
        numbers = np.array([number for number, _ in named], np.int64)
        run = np.cumsum(np.diff(numbers, prepend=numbers[:1]) > FARTHEST[prefix])
        yield from ((name, f"{prefix}run{which}") for (_, name), which in zip(named, run.tolist(), strict=True))


def headers_of(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        with dnaio.open(path) as reader:
            yield from (record.name for record in reader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FA")
    for name, genome in genomes(headers_of(parser.parse_args().files)):
        sys.stdout.write(f"{name}\t{genome}\n")


if __name__ == "__main__":
    main()
