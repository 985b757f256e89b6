"""From a run's parts to its tables, and the summary of them: shared by `predict` and `classify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vpdist.calibration import judging as judged
from vpdist.calibration.judgement import Evidence
from vpdist.calibration.judging import Judging
from vpdist.errors import StorageError
from vpdist.planning.plan import Plan
from vpdist.results import doubts, parts, tables, virnucpro_files
from vpdist.results.parts import PartHeader
from vpdist.results.scores import Scores
from vpdist.results.sequence_sums import BlockReader, evidence
from vpdist.results.table_files import table_path
from vpdist.results.tables import Totals
from vpdist.sequences import store_summary, token_store
from vpdist.sequences.blocks import BlockTable
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.atomic_files import replacing, write_json
from vpdist.storage.run_folder import CALIBRATION, RunFolder
from vpdist.storage.table_switch import TablesOrigin, replacing_tables
from vpdist.text import number_of, printable, without_open_quotes

MOST_SOURCES = 1 << 32
"""More than a run has: names of inputs are checked where they are written."""


def part_scores(
    folder: RunFolder, plan: Plan, header: PartHeader, n_fragments: int, raise_if_ending: Callable[[], None]
) -> Scores:
    """Scores of all fragments from the parts' logits; `raise_if_ending` is called between parts. Raises DamagedFile,
    also for a part of another run: this rank believes no other that has checked it."""
    scores = Scores.empty(n_fragments, distances=bool(header.summary))
    names = [name for name in ("failed", "logits", "distance") if name in header.datasets()]
    for unit in range(plan.n_units):
        parts.check(folder.parts, unit, plan, header, full=False)
        part = parts.read(folder.parts, unit, names)
        fragment, row = parts.fragment_rows(plan, unit)
        scores.set_unit(fragment, row, part["failed"], part.get("logits"), part.get("distance"))
        raise_if_ending()
    return scores


def checked_scores(scores: Scores) -> Scores:
    """`scores`. Raises StorageError unless every fragment that has not failed has one."""
    missing = np.flatnonzero(np.isnan(scores.virus) & ~scores.failed)
    if len(missing):
        raise StorageError(f"{len(missing)} fragments have no score, the first is number {missing[0] + 1}")
    return scores


def write_tables(
    folder: RunFolder,
    summary: StoreSummary,
    scores: Scores,
    sources: Sequence[str],
    origin: TablesOrigin,
    raise_if_ending: Callable[[], None],
    *,
    legacy: bool,
    judging: Judging | None = None,
    further: Callable[[Path, dict[str, Any] | None], None] = lambda new, judgement: None,
    block_done: Callable[[], None] = lambda: None,
) -> Totals:
    """Write the three tables from the token store and the scores, with `legacy` also the original's two files, which
    are removed otherwise, and what `further` writes into the folder of the new tables, told what run.json will have of
    the judgement: all of them together, or none.

    `judging` says what the scores are worth, and is kept beside the tables; None where nothing is known.
    `raise_if_ending` is called between blocks, `block_done` when the rows of one are written. Raises StorageError.
    """
    about: dict[str, Any] = {"judgement": None}
    if judging is not None:
        origin = replace(origin, calibration=CALIBRATION)
    shortest = origin.shortest_chunk
    with replacing_tables(folder, origin, about) as new, ExitStack() as stack:
        files = {name: stack.enter_context(replacing(new / f"{name}.tsv")) for name in tables.COLUMNS}
        scores = withheld(folder, summary, scores, shortest, raise_if_ending)
        by = (origin.consensus, raise_if_ending, judging, shortest, block_done)
        totals = fill_tables(files, folder, summary, scores, sources, *by)
        stack.close()
        if judging is not None:
            about["judgement"] = totals.judgement
            write_json(new / CALIBRATION, judging.to_dict())
        if legacy:
            virnucpro_files.write_virnucpro_files(new, scores)
        further(new, totals.judgement)
        raise_if_ending()
    return totals


def fill_tables(
    files: Mapping[str, tables.Output],
    folder: RunFolder,
    summary: StoreSummary,
    scores: Scores,
    sources: Sequence[str],
    consensus: str,
    raise_if_ending: Callable[[], None] = lambda: None,
    judging: Judging | None = None,
    shortest_chunk: int = 0,
    block_done: Callable[[], None] = lambda: None,
) -> Totals:
    """The content of the three tables, written to `files` (sequences, chunks, fragments). The blocks are read several
    times: flags of a sequence depend on all its chunks, and with `judging` what is said of one depends on all of them.
    `shortest_chunk`: bases of the shortest one that the model judges, 0 for every chunk. Raises StorageError."""

    def written() -> None:
        block_done()
        raise_if_ending()

    judgement, described = None, None
    if judging is not None:
        found = evidence_of(folder, summary, scores, consensus, raise_if_ending)
        judgement = judging.judge(found)
        described = judging.described(judgement, found)
    totals = tables.fill(
        files,
        _blocks(folder, summary, written),
        scores,
        sources=[without_open_quotes(printable(source)) for source in sources],
        new_names=store_summary.new_names(folder, summary),
        n_records=summary.n_records,
        consensus=consensus,
        judgement=judgement,
        flags=doubts.find_doubts(_blocks(folder, summary, raise_if_ending), scores, summary.n_records, shortest_chunk),
    )
    if (totals.chunks, totals.fragments) != (summary.n_chunks, summary.n_fragments):
        raise StorageError(
            f"the tables have {totals.chunks} chunks and {totals.fragments} fragments, but the token store has "
            f"{summary.n_chunks} and {summary.n_fragments}"
        )
    totals.judgement = described
    totals.failed_objects = len(summary.report.failed)
    return totals


def withheld(
    folder: RunFolder,
    summary: StoreSummary,
    scores: Scores,
    shortest_chunk: int,
    raise_if_ending: Callable[[], None] = lambda: None,
) -> Scores:
    """The scores without those of chunks that are shorter than the model judges (0: it judges every one)."""
    return doubts.withhold_short(_blocks(folder, summary, raise_if_ending), scores, shortest_chunk)


def evidence_of(
    folder: RunFolder,
    summary: StoreSummary,
    scores: Scores,
    consensus: str,
    raise_if_ending: Callable[[], None] = lambda: None,
) -> Evidence:
    """The scores of all sequences, as the tables have them, and the bases that were scored. Raises StorageError."""
    reader = BlockReader(scores, {}, MOST_SOURCES, None)
    return evidence(_blocks(folder, summary, raise_if_ending), reader, consensus)


def _blocks(folder: RunFolder, summary: StoreSummary, raise_if_ending: Callable[[], None]) -> Iterator[BlockTable]:
    """The token store without its tokens. Raises DamagedFile."""
    for path in store_summary.block_paths(folder, summary):
        yield token_store.read_table(path)
        raise_if_ending()


def summary_text(folder: RunFolder, totals: Totals, seconds: float, *, called: bool) -> str:
    """The lines that the user reads at the end, warnings first."""
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(totals.statuses.items())) or "none"
    paths = [table_path(folder.path, name) for name in tables.COLUMNS]
    lines = [] if totals.judgement is None else judged.warnings(totals.judgement)
    lines.append(f"{number_of(totals.records, 'sequence')} ({statuses}) in {seconds:.1f} s")
    lines.append(f"{totals.open_chunks:,} of {totals.chunks:,} chunks have an open frame")
    if called:
        by = " by the larger score (column `prediction`)"
        if totals.judgement is None:
            by += "; they are not calibrated, so `probability` and `call` are NA"
        lines.append(f"{number_of(totals.virus_sequences, 'sequence')} called virus{by}")
    if totals.judgement is not None:
        lines += judged.lines(totals.judgement)
    if totals.failed_fragments:
        lines.append(f"{totals.failed_fragments:,} fragments FAILED; they are NA in fragments.tsv, see the log files")
    lines.append(f"tables: {', '.join([str(paths[0]), *(path.name for path in paths[1:])])}")
    return "\n".join(lines)
