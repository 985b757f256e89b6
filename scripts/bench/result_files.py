"""`python -m scripts.bench.result_files [--sequences N] [--times K]`: what rank 0 writes while all others wait.

Tables, and apart from them the files that are made from the tables, in microseconds of a processor for each of their
rows: those of all three tables, and those of sequences.tsv and chunks.tsv, which are read for the others. The input is
made: reads without a stop codon, of one chunk or two, and contigs of many chunks, half of them without an open frame.
Scores are random; they are judged by the built-in model, as those of a run are.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scripts.bench import large_inputs
from scripts.bench.goals import Row, conditions, printed, table
from scripts.demo.make_sample import SENSE_CODONS
from vpdist.calibration.judgement import Choice
from vpdist.commands.run_calibration import judging_of
from vpdist.distributed.runtime import start
from vpdist.environment import LaunchContext
from vpdist.models.find import find_model
from vpdist.results import call_files, tables, virus_fasta, write_results
from vpdist.results.scores import Scores, softmax
from vpdist.sequences import ingest
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.coordination import Control
from vpdist.session.signals import StopRequest
from vpdist.storage.atomic_files import write_json
from vpdist.storage.run_folder import RunFolder

SEQUENCES, TIMES = 150_000, 5
LENGTHS = (180, 300, 501, 900)
"""Bases of reads."""
CHUNKS_A_CONTIG = 5
"""On average, about."""

TABLES, FASTA = "tables", "virus.fna.gz"
APART = (TABLES, FASTA)

Result = TypeVar("Result")
Seconds = dict[str, list[float]]
"""Of a processor, by what was written."""


def write_reads(path: Path, n: int) -> Path:
    """FASTA of n reads of random sense codons; the same arguments give the same bytes."""
    rng = np.random.default_rng(16)
    with open(path, "w", encoding="utf-8") as file:
        for number, length in enumerate(rng.choice(LENGTHS, n).tolist(), 1):
            file.write(f">read_{number} length={length}\n{''.join(rng.choice(SENSE_CODONS, length // 3))}\n")
    return path


def write_contigs(path: Path, n: int) -> Path:
    """About n contigs as assemblers give them."""
    return large_inputs.write_contigs(path, CHUNKS_A_CONTIG * n)


def made(source: Path, folder: RunFolder) -> StoreSummary:
    """The token store of an input, without tokens."""
    folder.prepare(restart=False)
    control = Control(start(LaunchContext()), StopRequest(on_second_signal=lambda stopped: stopped.exit_code))
    length = large_inputs.CHUNK_LENGTH
    return ingest.ingest(control, folder, [source], "benchmark", chunk_length=length, min_length=0, tokenizers={})


def timed(source: Path, folder: RunFolder, summary: StoreSummary, times: int) -> Seconds:
    """Write the tables and each of the other files, as often as `times`."""
    logits = np.random.default_rng(3).normal(0, 2, (summary.n_fragments, 2)).astype(np.float32)
    nonvirus, virus = softmax(logits)
    scores = Scores(virus, nonvirus, np.zeros(summary.n_fragments, bool))
    judging = judging_of(find_model("mini", offline=True), Choice(), "mean")
    assert judging is not None
    new, sources = folder.path, [str(source)]
    write_json(folder.calibration, judging.to_dict())
    seconds: Seconds = {}

    def clocked(what: str, write: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        started = time.process_time()
        result = write(*arguments, **named)
        seconds.setdefault(what, []).append(time.process_time() - started)
        return result

    for _ in range(times):
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(new / f"{name}.tsv", "wb")) for name in tables.COLUMNS}
            written = (files, folder, summary, scores, sources, "mean")
            clocked(TABLES, write_results.fill_tables, *written, judging=judging)
        found = clocked("sequences.tsv read", call_files.read_sequences, new, sources, 0.0, _go_on)
        clocked("summary.tsv", call_files.write_summary, new, found.sources, called=True)
        clocked("virus.tsv", call_files.write_virus_table, new, found.virus, _go_on)
        clocked("regions", call_files.write_regions, new, 0.0, _go_on)
        clocked("README.txt", call_files.write_readme, new, [])
        with call_files.opened_names(new, found.virus) as names:
            which = (np.array([0, summary.n_records]), found.virus.record, names)
            clocked(FASTA, virus_fasta.write_virus_fasta, new / FASTA, [source], *which, _go_on)
    return seconds


def _go_on() -> None:
    """Nobody ends this."""


def rows(n: int = SEQUENCES, times: int = TIMES) -> Iterator[Row]:
    """Of both inputs: tables, the other files without virus.fna.gz and each of them, virus.fna.gz."""
    for kind, write in (("reads", write_reads), ("contigs", write_contigs)):
        with tempfile.TemporaryDirectory() as name:
            folder = RunFolder(Path(name) / "run")
            source = write(Path(name) / f"{kind}.fa", n)
            summary = made(source, folder)
            seconds = timed(source, folder, summary, times)
        read = summary.n_records + summary.n_chunks
        counts = f"{summary.n_records:,} {kind}, {summary.n_chunks:,} chunks, {summary.n_fragments:,} fragments"
        further = [sum(each) for each in zip(*(seconds[what] for what in seconds if what not in APART), strict=True)]
        yield _row(f"tables of {kind}", seconds[TABLES], read + summary.n_fragments, counts)
        yield _row(f"files made from them, without {FASTA}", further, read, "")
        for what, each in seconds.items():
            if what != TABLES:
                yield _row(f"- {what}", each, read, "")


def _row(what: str, seconds: list[float], n_rows: int, note: str) -> Row:
    each = [1e6 * second / n_rows for second in seconds]
    spread = f"median of {len(each)}, {min(each):.2f} to {max(each):.2f}; {statistics.median(seconds):.2f} s"
    return Row(what, statistics.median(each), "us/row", note="; ".join(filter(None, (note, spread))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=SEQUENCES)
    parser.add_argument("--times", type=int, default=TIMES)
    arguments = parser.parse_args()
    print(conditions(), flush=True)
    print(table(printed(rows(arguments.sequences, arguments.times))))


if __name__ == "__main__":
    main()
