"""`python -m scripts.mini.cross --virus FA... --other [NAME=]FA... --contigs-virus FA --contigs-other FA --work FOLDER`

How well `mini` does on contigs whose accessions it has not seen, while others of them are in its training: the contigs
are parted into four folds by accession, for each fold a model is made without it (`scripts.mini.make`) and scores it,
and AUROC is that of all contigs together. Sources of the contigs are called viral_contigs and prokaryotic_contigs.
Further arguments go to scripts.mini.make. The models stay in FOLDER/fold-K/model; the package has that of fold 0.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from scripts.bench.goals import conditions
from scripts.mini.folds import FOLDS, write_fold
from scripts.mini.judge import Scores, Source, figure, scores

SOURCES = ("viral_contigs", "prokaryotic_contigs")


def made(fold: int, arguments: argparse.Namespace, more: list[str]) -> list[Scores]:
    """The scores of a fold's contigs, viruses first, under a model that is made without them."""
    work = arguments.work / f"fold-{fold}"
    contigs = (arguments.contigs_virus, arguments.contigs_other)
    held_out = [write_fold(path, fold, work) for path in contigs]
    command = [sys.executable, "-m", "scripts.mini.make", "--work", str(work), "--into", str(work / "model"), *more]
    command += ["--virus", *arguments.virus, f"{SOURCES[0]}={contigs[0]}"]
    command += ["--other", *arguments.other, f"{SOURCES[1]}={contigs[1]}", "--without", *map(str, held_out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sources = [Source(name, str(path), path == held_out[0]) for name, path in zip(SOURCES, held_out, strict=True)]
    return [scores(each, str(work / "model"), work / f"scores-{each.name}") for each in sources]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--virus", nargs="+", required=True)
    parser.add_argument("--other", nargs="+", required=True)
    parser.add_argument("--contigs-virus", type=Path, required=True)
    parser.add_argument("--contigs-other", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="*", default=list(range(FOLDS)), help="some of them")
    arguments, more = parser.parse_known_args()
    print(conditions() + "\n")
    found = []
    print("| fold | AUROC per fragment | AUROC per contig |\n| --- | --- | --- |")
    for fold in arguments.folds:
        found.append(made(fold, arguments, more))
        print(f"| {fold} | {' | '.join(figures(found[-1:]))} |", flush=True)
    print(f"| all | {' | '.join(figures(found))} |")


def figures(found: list[list[Scores]]) -> list[str]:
    """AUROC of fragments and contigs of several folds together, as of one."""
    texts = []
    for level in ("fragment", "sequence"):
        sides = [
            (
                np.concatenate([getattr(fold[side], level) for fold in found]),
                np.concatenate([getattr(fold[side], f"{level}_group") for fold in found]),
            )
            for side in (0, 1)
        ]
        texts.append(figure(sides[0], sides[1]))
    return texts


if __name__ == "__main__":
    main()
