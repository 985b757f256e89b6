"""`python -m scripts.mini.folds FA... --fold K [--of 4] --into FOLDER`: the sequences of a fold, by accession.

A fold is a share of the accessions that depends on their names alone. The folds of two files with the same accessions
are the same, so a model made `--without` a fold can be judged on it by anybody who has the files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import dnaio
import xxhash

from vpdist.training.groups import accession

FOLDS = 4


def fold_of(name: str, folds: int = FOLDS) -> int:
    """The fold of a sequence's accession."""
    return xxhash.xxh3_64_intdigest(accession(name).encode()) % folds


def of_fold(path: Path, fold: int, folds: int = FOLDS) -> Iterator[tuple[str, str]]:
    """Name and letters of each sequence of a fold."""
    with dnaio.open(path) as reader:
        for record in reader:
            if fold_of(record.name, folds) == fold:
                yield record.name, record.sequence


def write_fold(path: Path, fold: int, into: Path, folds: int = FOLDS) -> Path:
    """The file of a fold in `into`."""
    into.mkdir(parents=True, exist_ok=True)
    target = into / f"{path.name.removesuffix('.gz').rpartition('.')[0]}.fold-{fold}.fa"
    target.write_text("".join(f">{name}\n{letters}\n" for name, letters in of_fold(path, fold, folds)))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FA")
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--of", type=int, default=FOLDS)
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    for path in arguments.files:
        print(write_fold(path, arguments.fold, arguments.into, arguments.of))


if __name__ == "__main__":
    main()
