"""From a run's parts to its tables, and the summary of them: shared by `predict` and `classify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from vpdist.errors import StorageError
from vpdist.planning.plan import Plan
from vpdist.results import parts, tables, virnucpro_files
from vpdist.results.parts import PartHeader
from vpdist.results.scores import Scores
from vpdist.results.table_files import table_path
from vpdist.results.tables import Totals
from vpdist.sequences import store_summary, token_store
from vpdist.sequences.blocks import BlockTable
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.atomic_files import replacing
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.table_switch import TablesOrigin, replacing_tables
from vpdist.text import printable, without_open_quotes


def part_scores(
    folder: RunFolder, plan: Plan, header: PartHeader, n_fragments: int, raise_if_ending: Callable[[], None]
) -> Scores:
    """Scores of all fragments from the parts' logits; `raise_if_ending` is called between parts. Raises DamagedFile,
    also for a part of another run: this rank believes no other that has checked it."""
    scores = Scores.empty(n_fragments)
    names = ["failed"] + (["logits"] if header.classifier else [])
    for unit in range(plan.n_units):
        parts.check(folder.parts, unit, plan, header, full=False)
        part = parts.read(folder.parts, unit, names)
        fragment, row = parts.fragment_rows(plan, unit)
        scores.set_unit(fragment, row, part["failed"], part.get("logits"))
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
    further: Callable[[Path], None] = lambda new: None,
) -> Totals:
    """Write the three tables from the token store and the scores, with `legacy` also the original's two files, which
    are removed otherwise, and what `further` writes into the folder of the new tables: all of them together, or none.
    `raise_if_ending` is called between blocks. Raises StorageError."""
    with replacing_tables(folder, origin) as new, ExitStack() as stack:
        files = {name: stack.enter_context(replacing(new / f"{name}.tsv")) for name in tables.COLUMNS}
        totals = fill_tables(files, folder, summary, scores, sources, origin.consensus, raise_if_ending)
        stack.close()
        if legacy:
            virnucpro_files.write_virnucpro_files(new, scores)
        further(new)
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
) -> Totals:
    """The content of the three tables, written to `files` (sequences, chunks, fragments). Raises StorageError."""

    def blocks() -> Iterator[BlockTable]:
        for path in store_summary.block_paths(folder, summary):
            yield token_store.read_table(path)
            raise_if_ending()

    totals = tables.fill(
        files,
        blocks(),
        scores,
        sources=[without_open_quotes(printable(source)) for source in sources],
        new_names=store_summary.new_names(folder, summary),
        n_records=summary.n_records,
        consensus=consensus,
    )
    if (totals.chunks, totals.fragments) != (summary.n_chunks, summary.n_fragments):
        raise StorageError(
            f"the tables have {totals.chunks} chunks and {totals.fragments} fragments, but the token store has "
            f"{summary.n_chunks} and {summary.n_fragments}"
        )
    return totals


def summary_text(folder: RunFolder, totals: Totals, seconds: float, *, called: bool) -> str:
    """The lines that the user reads at the end."""
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(totals.statuses.items())) or "none"
    paths = [table_path(folder.path, name) for name in tables.COLUMNS]
    lines = [f"{totals.records:,} sequences ({statuses}) in {seconds:.1f} s"]
    lines.append(f"{totals.open_chunks:,} of {totals.chunks:,} chunks have an open frame")
    if called:
        lines.append(f"{totals.virus_sequences:,} sequences called virus")
    if totals.failed_fragments:
        lines.append(f"{totals.failed_fragments:,} fragments FAILED; they are NA in fragments.tsv, see the log files")
    lines.append(f"tables: {', '.join([str(paths[0]), *(path.name for path in paths[1:])])}")
    return "\n".join(lines)
