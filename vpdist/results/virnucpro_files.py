"""The two result files of the original method (VirNucPro)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vpdist.results.scores import Scores
from vpdist.storage.atomic_files import replacing


def write_virnucpro_files(folder: Path, scores: Scores) -> None:
    """Write the original method's two files from fragments.tsv and the scores. Raises StorageError.

    prediction_results.txt has a row per fragment in input order, prediction_results_highestscore.csv (separated by
    tabs in spite of its name) a row per scored chunk, sorted by its id.
    """
    called: dict[str, tuple[float, float]] = {}
    with replacing(folder / "prediction_results.txt") as file:
        file.write(b"Sequence_ID\tPrediction\tscore1\tscore2\n")
        for identifier, score1, score2 in _scored_fragments(folder / "fragments.tsv", scores):
            label = "virus" if score2 > score1 else "others"
            file.write(f"{identifier}\t{label}\t{score1!s}\t{score2!s}\n".encode())
            chunk = identifier[:-2]
            best = called.get(chunk, (-1.0, -1.0))
            called[chunk] = (max(best[0], float(score1)), max(best[1], float(score2)))
    with replacing(folder / "prediction_results_highestscore.csv") as file:
        file.write(b"Modified_ID\tIs_Virus\n")
        for chunk in sorted(called):
            nonvirus, virus = called[chunk]
            file.write(f"{chunk}\t{virus >= nonvirus}\n".encode())


def _scored_fragments(path: Path, scores: Scores) -> Iterator[tuple[str, np.float32, np.float32]]:
    with open(path, encoding="utf-8", newline="\n") as file:
        next(file)
        for line, nonvirus, virus in zip(file, scores.nonvirus, scores.virus, strict=True):
            if not np.isnan(virus):
                yield line.split("\t", 1)[0], nonvirus, virus
