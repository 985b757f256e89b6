"""The two result files of the original method (VirNucPro)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vpdist.results.scores import Scores
from vpdist.results.table_files import opened_text
from vpdist.results.tables import Output
from vpdist.storage.atomic_files import replacing
from vpdist.storage.run_folder import LEGACY


def write_virnucpro_files(folder: Path, scores: Scores) -> None:
    """Write the original method's two files from fragments.tsv in `folder` and the scores. Raises StorageError."""
    results, calls = (folder / name for name in LEGACY)
    with replacing(results) as fragments, replacing(calls) as chunks:
        fill_virnucpro_files(fragments, chunks, folder / "fragments.tsv", scores)


def fill_virnucpro_files(fragments: Output, chunks: Output, table: Path, scores: Scores) -> None:
    """Write the content of the two files, made from fragments.tsv (`table`) and the scores.

    prediction_results.txt has a row per fragment in input order, prediction_results_highestscore.csv (separated by
    tabs in spite of its name) a row per scored chunk, sorted by its id.
    """
    called: dict[str, tuple[float, float]] = {}
    fragments.write(b"Sequence_ID\tPrediction\tscore1\tscore2\n")
    for identifier, score1, score2 in _scored_fragments(table, scores):
        label = "virus" if score2 > score1 else "others"
        fragments.write(f"{identifier}\t{label}\t{score1!s}\t{score2!s}\n".encode())
        chunk = identifier[:-2]
        best = called.get(chunk, (-1.0, -1.0))
        called[chunk] = (max(best[0], float(score1)), max(best[1], float(score2)))
    chunks.write(b"Modified_ID\tIs_Virus\n")
    for chunk in sorted(called):
        nonvirus, virus = called[chunk]
        chunks.write(f"{chunk}\t{virus >= nonvirus}\n".encode())


def _scored_fragments(path: Path, scores: Scores) -> Iterator[tuple[str, np.float32, np.float32]]:
    with opened_text(path) as file:
        next(file)
        for line, nonvirus, virus in zip(file, scores.nonvirus, scores.virus, strict=True):
            if not np.isnan(virus):
                yield line.split(b"\t", 1)[0].decode(), nonvirus, virus
