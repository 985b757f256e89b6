"""`python -m scripts.trust.prove --virus FA... --other NAME=FA... --splits MODEL/splits.tsv --model MODEL...`

Whether probabilities, q-values, p-values and the estimated share of viruses hold, on the test side of the files that a
model was fitted on: mixtures at four shares of viruses, of sequences of 150 to 10,000 bases, 200 of each. Then what the
model says of sequences that are no viruses at all: with shuffled bases, and of `--unseen NAME=FA...` kingdoms that it
was not fitted on. Prints tables; `--plots FOLDER` draws them. `--short` takes two lengths and shares.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scripts.bench.goals import conditions
from scripts.mini.judge import rows_of
from scripts.mini.make import records_of
from scripts.trust import plots
from scripts.trust.mixtures import NOMINAL, Interval, MixtureFigures, Pool, below, calibration_error, mixed
from scripts.trust.scored import Labelled, scored
from scripts.trust.shuffled import shuffled
from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.judgement import CALLS, Choice, Evidence, judge
from vpdist.models.find import find_model
from vpdist.training.drawn_pieces import choose_pieces
from vpdist.training.groups import accession
from vpdist.training.pieces import texts
from vpdist.training.sides import SIDES, TEST, Sides

LENGTHS = (150, 300, 500, 1000, 3000, 10_000)
SHARES = (0.001, 0.01, 0.1, 0.5)
SHORT_LENGTHS, SHORT_SHARES = (500, 3000), (0.01, 0.5)
GREATEST_ERROR, GREATEST_SHARE_ERROR = 0.02, 0.2
LEAST_GENOMES = 10
"""Of which sequences are scored; without, an interval over genomes means nothing."""
SHARE_AMONG = 0.1
"""Viruses in the mixtures with kingdoms that a model does not know."""


class Known:
    """The sequences of labelled files that a model was not fitted on, by the table of its splits."""

    def __init__(self, files: Sequence[File], splits: Path | None) -> None:
        """Without `splits` all sequences, each accession a group. Raises ValueError for files that are not those of the
        splits."""
        self.files = files
        names, lengths, of_file = [], [], []
        for number, file in enumerate(files):
            for record in records_of([file.path]):
                names.append(record.name.split()[0])
                lengths.append(len(record.sequence))
                of_file.append(number)
        self.lengths, file_of = np.array(lengths, np.int64), np.array(of_file)
        self.sources = list(dict.fromkeys(file.source for file in files))
        source = np.array([self.sources.index(file.source) for file in files], np.int32)[file_of]
        self.virus = np.array([file.virus for file in files])[file_of]
        groups, side = [accession(name) for name in names], np.full(len(names), TEST, np.int8)
        if splits is not None:
            rows = list(rows_of(splits))
            if [row["seq_name"] for row in rows] != names:
                raise ValueError(f"{splits}: is not the table of these files; name them in the order of vpdist train")
            groups = [row["group"] for row in rows]
            side = np.array([SIDES.index(row["side"]) for row in rows], np.int8)
        group = np.unique(groups, return_inverse=True)[1]
        self.sides = Sides(side, group, np.ones(len(names), np.int64), source)

    def pieces(self, bases: int, seed: int) -> Iterator[Labelled]:
        """Pieces of one length of the test side, as `vpdist train` cuts those that it calibrates on."""
        chosen = choose_pieces(self.sides, self.lengths, self.virus, seed, side=TEST, all_bases=(bases,))
        bases_of = texts(chosen, [file.path for file in self.files], replace_unknown=True)
        for record, text in zip(chosen.first_record.tolist(), bases_of, strict=True):
            source = self.sources[self.sides.source[record]]
            yield Labelled(text.decode(), str(self.sides.group[record]), source, bool(self.virus[record]))


@dataclass(frozen=True, slots=True)
class File:
    """A file of labelled sequences."""

    source: str
    path: Path
    virus: bool


class Proof:
    """One model on one set of sequences."""

    def __init__(self, model: str, known: Known, work: Path, seed: int, *, short: bool) -> None:
        bundle = find_model(model, offline=True)
        self.name, self.model, self.work, self.seed = bundle.model.name, model, work, seed
        self.calibration: Calibration = bundle.model.calibration or Calibration(())
        self.nulls: NullScores = bundle.model.null_scores or NullScores(())
        self.lengths: tuple[int, ...] = SHORT_LENGTHS if short else LENGTHS
        self.shares: tuple[float, ...] = SHORT_SHARES if short else SHARES
        self.pieces = {n: list(known.pieces(n, seed)) for n in self.lengths}
        self.pools = {n: scored(each, model, work, f"pieces-{n}") for n, each in self.pieces.items() if each}
        self.mixtures: dict[int, list[MixtureFigures]] = {}

    def lines(self, unseen: Mapping[str, Known]) -> Iterator[str]:
        yield f"### {self.name}\n"
        yield from self._mixtures()
        yield from self._calibration()
        yield from self._p_values()
        yield from self._others(unseen)

    def _mixtures(self) -> Iterator[str]:
        head = "| bases | share of viruses | " + " | ".join(f"false calls at q <= {rate:g}" for rate in NOMINAL)
        yield head + " | viruses found at q <= 0.05 | estimated share | within 20 % | holds |"
        yield "| ---: | ---: | --- | --- | --- | --- | --- | --- | --- |"
        for length, pool in self.pools.items():
            for number, share in enumerate(self.shares):
                if not usable(pool):
                    yield f"| {length:,} | {share:g} | too few sequences of this length |  |  |  |  |  |  |"
                    continue
                rng = np.random.default_rng((self.seed, length, number))
                each = mixed(pool, self.calibration, self.nulls, share, rng)
                self.mixtures.setdefault(length, []).append(each)
                holds = all(each.false_discovery[rate].low <= rate for rate in NOMINAL)
                rates = " | ".join(percent(each.false_discovery[rate]) for rate in NOMINAL)
                close = each.relative_error.value <= GREATEST_SHARE_ERROR
                yield (
                    f"| {length:,} | {share:g} | {rates} | {percent(each.found[0.05])} | {number_text(each.estimated)} "
                    f"| {'yes' if close else f'no, {each.relative_error.value:.0%} off'} | {'yes' if holds else 'NO'} |"
                )
        yield ""

    def _calibration(self) -> Iterator[str]:
        yield f"| bases | viruses, others | not calibrated | error (at most {GREATEST_ERROR}) | by chance | holds |"
        yield "| ---: | --- | ---: | --- | ---: | --- |"
        for length, pool in self.pools.items():
            known = ~np.isnan(judge(pool.evidence, self.calibration, self.nulls, Choice(prevalence=0.5)).probability)
            counts = f"{int((known & pool.virus).sum()):,}, {int((known & ~pool.virus).sum()):,}"
            if not known.any():
                yield f"| {length:,} | {counts} | 100 % | NA | NA | NA |"
                continue
            error = calibration_error(pool, self.calibration, self.nulls, np.random.default_rng((self.seed, length)))
            holds = "yes" if error.found.value <= GREATEST_ERROR else "NO"
            if holds == "NO" and error.found.value - error.by_chance <= GREATEST_ERROR:
                holds = "yes, less chance"
            texts = f"{number_text(error.found)} | {error.by_chance:.3f} | {holds}"
            yield f"| {length:,} | {counts} | {1 - known.mean():.0%} | {texts} |"
        yield ""

    def _p_values(self) -> Iterator[str]:
        yield "| bases | " + " | ".join(f"others with p <= {rate:g}" for rate in NOMINAL) + " | holds |"
        yield "| ---: | --- | --- | --- | --- |"
        for length, pool in self.pools.items():
            rates = below(pool, self.nulls, NOMINAL, np.random.default_rng((self.seed, length, 9)))
            if np.isnan(rates[NOMINAL[0]].value):
                continue
            holds = all(each.low <= rate for rate, each in rates.items())
            yield f"| {length:,} | {' | '.join(map(percent, rates.values()))} | {'yes' if holds else 'NO'} |"
        yield ""

    def _others(self, unseen: Mapping[str, Known]) -> Iterator[str]:
        """Sequences that are no viruses, alone and among viruses."""
        yield "| others | bases | p <= 0.05 | alone: called virus | a tenth viruses: false calls at q <= 0.05 | holds |"
        yield "| --- | ---: | --- | --- | --- | --- |"
        for length, mine in self.pieces.items():
            if length not in self.pools:
                continue
            viruses = self.pools[length].rows(self.pools[length].virus)
            rng = np.random.default_rng((self.seed, length, 5))
            others = {
                f"{source}, shuffled": [
                    replace(each, sequence=shuffled(each.sequence, rng)) for each in mine if each.source == source
                ]
                for source in dict.fromkeys(each.source for each in mine if not each.virus)
            }
            for name, sequences_of in unseen.items():
                others[name] = list(sequences_of.pieces(length, self.seed))
            for number, (name, sequences) in enumerate(others.items()):
                if sequences and viruses.virus.any():
                    pool = scored(sequences, self.model, self.work, f"others-{length}-{number}")
                    yield f"| {name} | {length:,} | {self._other(pool, viruses, rng)} |"
        yield ""

    def _other(self, pool: Pool, viruses: Pool, rng: np.random.Generator) -> str:
        alone = judge(pool.evidence, self.calibration, self.nulls, Choice())
        calibrated = ~np.isnan(alone.probability)
        if not calibrated.any():
            return "NA | NA | NA | no score"
        if len(np.unique(pool.group[calibrated])) < LEAST_GENOMES:
            return f"NA | NA | NA | {int(calibrated.sum())} scored only"
        rate = below(pool, self.nulls, (0.05,), rng)[0.05]
        called = (alone.call == CALLS.index("virus")).mean()
        among = mixed(joined(pool, viruses), self.calibration, self.nulls, SHARE_AMONG, rng).false_discovery[0.05]
        holds = rate.low <= 0.05 and among.low <= 0.05
        return f"{percent(rate)} | {called:.1%} | {percent(among)} | {'yes' if holds else 'NO'}"


def joined(first: Pool, second: Pool) -> Pool:
    """Both pools; groups stay apart."""
    a, b = first.evidence, second.evidence
    evidence = Evidence(
        *(np.concatenate(each) for each in ((a.virus, b.virus), (a.nonvirus, b.nonvirus), (a.bases, b.bases)))
    )
    group = np.concatenate((first.group, second.group + first.group.max(initial=0) + 1))
    return Pool(
        evidence, np.concatenate((first.virus, second.virus)), group, np.concatenate((first.source, second.source))
    )


def usable(pool: Pool) -> bool:
    """Whether mixtures can be drawn: both labels are there, of LEAST_GENOMES each."""
    return all(len(np.unique(pool.group[pool.virus == virus])) >= LEAST_GENOMES for virus in (True, False))


def percent(interval: Interval) -> str:
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def number_text(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def named(texts: Sequence[str], default: str) -> list[tuple[str, Path]]:
    """Name and path of each [NAME=]FILE, as `vpdist train` names sources."""
    found = []
    for text in texts:
        name, _, path = text.rpartition("=")
        found.append((name or default, Path(path)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--virus", nargs="+", required=True)
    parser.add_argument("--other", nargs="+", required=True, help="[NAME=]FILE, as they were given to vpdist train")
    parser.add_argument("--splits", type=Path, help="splits.tsv of the model; without it no sequence may be one of its")
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--unseen", nargs="*", default=[], help="NAME=FILE: no viruses, and none of the files above")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--plots", type=Path)
    arguments = parser.parse_args()
    files = [File(name, path, True) for name, path in named(arguments.virus, "virus")]
    files += [File(name, path, False) for name, path in named(arguments.other, "other")]
    known = Known(files, arguments.splits)
    unseen = {name: Known([File(name, path, False)], None) for name, path in named(arguments.unseen, "unseen")}
    print(conditions() + "\n")
    with tempfile.TemporaryDirectory() as work:
        for number, model in enumerate(arguments.model):
            folder = Path(work, str(number))
            folder.mkdir()
            proof = Proof(model, known, folder, arguments.seed, short=arguments.short)
            for line in proof.lines(unseen):
                print(line, flush=True)
            if arguments.plots:
                plots.draw(arguments.plots, proof.name, proof.mixtures)


if __name__ == "__main__":
    main()
