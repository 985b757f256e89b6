"""`python -m scripts.mini.calibration --virus FA... --other FA... [--model mini]`: why calibrations are as they are.

Cuts a piece of each length from every sequence, scores them with the model, and prints two tables. By length and number
of scored chunks: the slope of the log-odds. By length and share of viruses, in mixtures of 1,000 pieces: the estimated
share over the true one, and the share of false calls at a nominal one, with and without limits of the likelihood ratio.
Groups (accessions) are halved at random: one half calibrates, mixtures are drawn from the other one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scripts.bench.goals import conditions
from scripts.mini.judge import rows_of
from scripts.mini.make import records_of
from vpdist.calibration.calibrated import Calibration
from vpdist.calibration.fit import LEAST_GROUPS, Scored, fit, logistic
from vpdist.calibration.judgement import probabilities, q_values
from vpdist.calibration.prevalence import estimate
from vpdist.calibration.scores import log_odds
from vpdist.training.groups import accession

LENGTHS = (150, 300, 500, 1000, 3000)
SHARES = (0.001, 0.01, 0.1, 0.5)
NOMINAL = (0.01, 0.05, 0.1)
IN_MIXTURE, HALVES, MIXTURES = 1000, 10, 20


@dataclass(frozen=True, slots=True)
class Pieces:
    """n scored pieces."""

    score: np.ndarray
    length: np.ndarray
    scored_chunks: np.ndarray
    virus: np.ndarray
    group: np.ndarray


def write_pieces(virus: Sequence[str], other: Sequence[str], path: Path, seed: int) -> None:
    """A piece of each length from every sequence that has it; its name is `label|accession|length|number`."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="ascii") as file:
        for label, files in ((1, virus), (0, other)):
            for number, record in enumerate(records_of([Path(name) for name in files])):
                for length in LENGTHS:
                    if len(record.sequence) >= length:
                        start = int(rng.integers(0, len(record.sequence) - length + 1))
                        name = f"{label}|{accession(record.name.split()[0])}|{length}|{number}"
                        file.write(f">{name}\n{record.sequence[start : start + length]}\n")


def scored_pieces(path: Path, model: str, run: Path) -> Pieces:
    """The pieces in `path` that `model` scores. Raises CalledProcessError."""
    command = [sys.executable, "-m", "vpdist", "predict", str(path), "-o", str(run), "--model", model]
    command += ["--no-embeddings", "--replace-unknown", "--progress", "none"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = [row for row in rows_of(run / "sequences.tsv") if row["virus_score"] != "NA"]
    names = [row["seq_name"].split("|") for row in rows]
    scores = [np.array([float(row[name]) for row in rows]) for name in ("virus_score", "nonvirus_score")]
    return Pieces(
        score=log_odds(*scores),
        length=np.array([int(name[2]) for name in names]),
        scored_chunks=np.array([int(row["n_scored_chunks"]) for row in rows]),
        virus=np.array([name[0] == "1" for name in names]),
        group=np.unique([name[1] for name in names], return_inverse=True)[1],
    )


def slopes(pieces: Pieces) -> Iterator[str]:
    """A line per length and number of scored chunks."""
    yield "| bases | scored chunks | viruses | others | slope | bias |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for length in LENGTHS:
        for chunks in np.unique(pieces.scored_chunks[pieces.length == length]).tolist():
            here = (pieces.length == length) & (pieces.scored_chunks == chunks)
            viruses, others = int((here & pieces.virus).sum()), int((here & ~pieces.virus).sum())
            if min(viruses, others) >= LEAST_GROUPS:
                ((slope, bias),) = logistic({500: _of_one_length(pieces, here)})
                yield f"| {length:,} | {chunks} | {viruses:,} | {others:,} | {slope:.2f} | {bias:.2f} |"
    yield ""


def mixtures(pieces: Pieces, seed: int) -> Iterator[str]:
    """A line per length, share of viruses, and with or without limits."""
    yield "| bases | share of viruses | limits | estimated / true | false at 1 % | at 5 % | at 10 % |"
    yield "| ---: | ---: | --- | ---: | ---: | ---: | ---: |"
    for length in LENGTHS:
        for share in SHARES:
            for limited in (True, False):
                rng = np.random.default_rng(seed)
                found = np.array(list(_realised(pieces, length, share, rng, limited=limited)))
                if len(found):
                    false = " | ".join(f"{100 * value:.1f} %" for value in found[:, 1:].mean(axis=0))
                    told = "yes" if limited else "no"
                    yield f"| {length:,} | {share:g} | {told} | {found[:, 0].mean():.2f} | {false} |"
    yield ""


def _realised(
    pieces: Pieces, length: int, share: float, rng: np.random.Generator, *, limited: bool
) -> Iterator[tuple[float, ...]]:
    """Of each mixture: the estimated share over the true one, and the shares of false calls."""
    for _ in range(HALVES):
        calibrates = (rng.random(pieces.group.max() + 1) < 0.5)[pieces.group]
        here = pieces.length == length
        mine = here & calibrates
        bases = np.full(len(pieces.score), 500)
        fitted, _ = fit(_of_one_length(pieces, mine))
        if fitted is None:
            continue
        ratio = _calibration(fitted, limited=limited).log_likelihood_ratio(pieces.score, bases)
        viruses, others = (np.flatnonzero(here & ~calibrates & (pieces.virus == label)) for label in (True, False))
        for _ in range(MIXTURES):
            n = max(1, int(rng.binomial(IN_MIXTURE, share)))
            drawn = np.concatenate((rng.choice(viruses, n), rng.choice(others, IN_MIXTURE - n)))
            found = estimate(ratio[drawn]).value
            q = q_values(probabilities(ratio[drawn], found))
            false = [(q[n:] <= nominal).sum() / max(1, (q <= nominal).sum()) for nominal in NOMINAL]
            yield (found * IN_MIXTURE / n, *false)


def _of_one_length(pieces: Pieces, which: np.ndarray) -> Scored:
    """Some of the pieces as those of one class, whatever their length."""
    return Scored(pieces.score[which], np.full(int(which.sum()), 500), pieces.virus[which], pieces.group[which])


def _calibration(fitted: Calibration, *, limited: bool) -> Calibration:
    if limited:
        return fitted
    return replace(fitted, classes=tuple(replace(each, least=-50.0, most=50.0) for each in fitted.classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--virus", nargs="+", required=True)
    parser.add_argument("--other", nargs="+", required=True)
    parser.add_argument("--model", default="mini", help="a name or a folder")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(conditions() + "\n")
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "pieces.fa")
        write_pieces(arguments.virus, arguments.other, path, arguments.seed)
        pieces = scored_pieces(path, arguments.model, Path(work, "run"))
    print("\n".join((*slopes(pieces), *mixtures(pieces, arguments.seed))))


if __name__ == "__main__":
    main()
