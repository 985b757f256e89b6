"""Golden scores of a model: a few sequences, and the scores that they had when the model was made.

A table beside the model: golden.tsv in its folder, or of a preset, whose files are other people's, in this package.
Whoever has the model elsewhere, or with other libraries, sees from it whether it still gives the same answers.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpdist.errors import WeightsError
from vpdist.models.bundle import Bundle
from vpdist.models.catalogue import PRESETS
from vpdist.storage.atomic_files import read_limited, write_file
from vpdist.text import NAME_LETTERS, shortened

GOLDEN_FILE = "golden.tsv"
GOLDEN_LIMIT = 1 << 20
"""Bytes of a file of golden scores at most."""
COLUMNS = ("seq_name", "sequence", "n_scored_chunks", "virus_score", "nonvirus_score")
NA = "NA"
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 5e-2}
"""By number format: how far a score may be from the golden one, which was computed in float32 on a CPU. GPUs and other
processors add in another order: 1e-5 was seen between processors; a coarser format has its own error of rounding."""
LENGTHS = (2, 150, 300, 500, 777, 1500, 3000)
"""Bases of synthetic sequences; the first one gets no score."""
STOPS = ("TAA", "TAG", "TGA")


@dataclass(frozen=True, slots=True)
class Golden:
    """A sequence and its scores."""

    name: str
    sequence: str
    scored_chunks: int
    virus: float
    """NaN without a score."""
    nonvirus: float


def synthetic_sequences() -> dict[str, str]:
    """Sequences by name: of each length one of random bases and one of random codons without a stop codon, the latter
    with a codon usage of its own. Nobody's data."""
    rng = np.random.default_rng(1)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in STOPS]
    sequences = {}
    for bases in LENGTHS:
        sequences[f"random_{bases}"] = "".join(rng.choice(list("ACGT"), bases))
        usage = rng.dirichlet(np.full(len(codons), 0.5))
        sequences[f"coding_{bases}"] = "".join(rng.choice(codons, bases // 3 + 1, p=usage))[:bases]
    return sequences


def golden_path(bundle: Bundle, named: str) -> Path:
    """Where the golden scores of a model lie that was found under a name."""
    if named in PRESETS:
        return Path(__file__).parent / "golden" / f"{named}.tsv"
    return bundle.folder / GOLDEN_FILE


def write_golden(path: Path, rows: Sequence[Golden]) -> None:
    """Raises StorageError."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        scores = (NA if math.isnan(score) else f"{score:.6g}" for score in (row.virus, row.nonvirus))
        writer.writerow((row.name, row.sequence, row.scored_chunks, *scores))
    write_file(path, text.getvalue().encode())


def read_golden(path: Path) -> list[Golden]:
    """Raises WeightsError naming the line for anything but a table of golden scores."""
    try:
        text = read_limited(path, GOLDEN_LIMIT, follow=True).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    header, *lines = [line.split("\t") for line in text.splitlines()] or [[]]
    if tuple(header) != COLUMNS or not lines:
        raise WeightsError(f"{path}: is no table of golden scores, with the columns {' '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            name, sequence, chunks, virus, nonvirus = line
            scores = (float("nan") if score == NA else float(score) for score in (virus, nonvirus))
            rows.append(Golden(name, sequence, int(chunks), *scores))
        except ValueError as error:
            raise WeightsError(f"{path}, line {number}: is not a row of golden scores: {error}") from error
    return rows


def differences(golden: Sequence[Golden], found: Sequence[Golden], tolerance: float) -> tuple[float, list[str]]:
    """The largest difference of a score, and a line for each sequence whose scores are others than they were."""
    largest, lines = 0.0, []
    for was, now in zip(golden, found, strict=True):
        name = shortened(was.name, NAME_LETTERS)
        if was.scored_chunks != now.scored_chunks:
            lines.append(f"{name}: {now.scored_chunks} chunks have a score, {was.scored_chunks} had")
            continue
        for what, before, after in (
            ("virus_score", was.virus, now.virus),
            ("nonvirus_score", was.nonvirus, now.nonvirus),
        ):
            if math.isnan(before) and math.isnan(after):
                continue
            difference = abs(before - after)
            if not difference <= tolerance:
                lines.append(f"{name}: {what} is {after:.6g}, it was {before:.6g}")
            largest = max(largest, difference if math.isfinite(difference) else math.inf)
    return largest, lines
