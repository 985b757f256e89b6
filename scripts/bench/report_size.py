"""`python -m scripts.bench.report_size [--sequences 10000 100000]`: bytes of report.html, and how soon it can be used.

The runs are real ones of the built-in model, on contigs that are made up: each is cut from one of several genomes with
a codon usage of its own, so that scores, probabilities and lengths differ as much as those of a sample. So the report
has every column, and the map. Where there is a headless Chromium, a page counts as usable when a click on its first
row has been answered: seconds from the start of the navigation, by the page's own clock, median of several.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from scripts.bench.first_sign import command, environment
from scripts.bench.goals import Row, conditions, printed, table
from scripts.checks import browser
from scripts.demo.make_sample import SENSE_CODONS, contig_lengths, reverse_complement
from vpdist.report.page import write_report

SEQUENCES = (10_000, 100_000)
MOST_MB = {10_000: 1.0, 100_000: 5.0}
MOST_S = {10_000: 2.0}
"""Goals, by the number of sequences."""
OPENED = 5
GENOMES, GENOME_CODONS, LONGEST = 300, 10_000, 20_000
COMMAND_S = 3600.0


def write_contigs(path: Path, n: int, seed: int = 15) -> Path:
    """FASTA of n contigs, named as assemblers do; the same arguments give the same bytes."""
    rng = np.random.default_rng(seed)
    is_gc = np.array([[base in "GC" for base in codon] for codon in SENSE_CODONS])
    genomes = []
    for gc in rng.uniform(0.25, 0.7, min(n, GENOMES)):
        expected = np.where(is_gc, gc, 1 - gc).prod(axis=1)
        usage = rng.dirichlet(len(SENSE_CODONS) * expected / expected.sum())
        genomes.append("".join(rng.choice(SENSE_CODONS, GENOME_CODONS, p=usage)))
    with open(path, "w", encoding="utf-8") as file:
        for number, length in enumerate(np.minimum(contig_lengths(rng, n), LONGEST).tolist(), 1):
            start = int(rng.integers(3 * GENOME_CODONS - length))
            bases = genomes[rng.integers(len(genomes))][start : start + length]
            bases = reverse_complement(bases) if rng.random() < 0.5 else bases
            file.write(f">NODE_{number}_length_{length}_cov_{rng.lognormal(2, 1):.6f}\n{bases}\n")
    return path


def run_of(n: int, folder: Path) -> Path:
    """A finished run of `vpdist predict` on n sequences."""
    contigs, run = write_contigs(folder / "contigs.fa", n), folder / "run"
    options = ("-o", str(run), "--model", "mini", "--device", "cpu", "--prevalence", "0.1", "--progress", "none")
    ended = subprocess.run(
        command("predict", str(contigs), *options),
        env=environment(),
        capture_output=True,
        timeout=COMMAND_S,
        check=False,
    )
    if ended.returncode != 0:
        raise RuntimeError(f"vpdist predict ended with {ended.returncode}: {ended.stderr.decode(errors='replace')}")
    return run


def usable_s(report: Path, program: str, profile: Path, times: int = OPENED) -> list[float]:
    """Seconds from navigation to an answered click, for each time that the page is opened."""
    seconds = []
    with browser.opened(program, profile) as page:
        for _ in range(times):
            page.open(report)
            page.click(".row")
            seconds.append(page.run("performance.now()") / 1000)
            if page.text("#contigname") == "" or page.complaints():
                raise RuntimeError(f"{report}: a click on its first row is not answered: {page.complaints()}")
    return seconds


def rows(sequences: Sequence[int] = SEQUENCES) -> Iterator[Row]:
    """Bytes, and seconds where there is a browser."""
    program = browser.found()
    for n in sequences:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ((report, size),) = write_report(run_of(n, folder))
            yield Row(f"report.html of {n:,} sequences", size / 1e6, "MB", at_most=MOST_MB.get(n))
            what = f"report.html of {n:,} sequences, until a click is answered"
            if program is None:
                yield Row(what, None, "s", at_most=MOST_S.get(n), note="there is no Chromium on this machine")
                continue
            (folder / "profile").mkdir()
            seconds = usable_s(report, program, folder / "profile")
            note = f"median of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f}; {Path(program).name}"
            yield Row(what, statistics.median(seconds), "s", at_most=MOST_S.get(n), note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, nargs="+", default=SEQUENCES)
    arguments = parser.parse_args()
    print(conditions(), flush=True)
    print(table(printed(rows(arguments.sequences))))


if __name__ == "__main__":
    main()
