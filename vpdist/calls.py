"""From a run's parts to its tables, and what people are told about them: shared by `predict` and `classify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vpdist import ingest, original_files, parts, store, tables
from vpdist.blocks import BlockTable
from vpdist.config import Decisions
from vpdist.errors import StorageError, printable
from vpdist.ingest import StoreSummary
from vpdist.parts import PartHeader
from vpdist.plan import Plan
from vpdist.runfolder import LEGACY, RunFolder
from vpdist.tables import Scores, Totals


def part_header(plan_id: str, decisions: Decisions) -> PartHeader:
    """What the parts of a run say of themselves."""
    return PartHeader(
        plan=plan_id,
        dtype=decisions.dtype,
        embedding_dtype=decisions.embedding_dtype,
        threads=decisions.threads,
        models=decisions.models,
        classifier=decisions.classifier or "",
        embeddings=decisions.embeddings,
    )


def part_scores(
    folder: RunFolder, plan: Plan, header: PartHeader, n_fragments: int, check: Callable[[], None]
) -> Scores:
    """Scores of all fragments from the parts' logits; `check` is called between parts. Raises DamagedFile."""
    scores = Scores.empty(n_fragments)
    names = ["failed"] + (["logits"] if header.classifier else [])
    for unit in range(plan.n_units):
        part = parts.read(folder.parts, unit, names)
        fragment, row = parts.fragment_rows(plan, unit)
        scores.set_unit(fragment, row, part["failed"], part.get("logits"))
        check()
    return scores


def checked_scores(scores: Scores) -> Scores:
    """`scores`, if every fragment that has not failed has one. Raises StorageError."""
    without = np.flatnonzero(np.isnan(scores.virus) & ~scores.failed)
    if len(without):
        raise StorageError(f"{len(without)} fragments have no score, the first is number {without[0] + 1}")
    return scores


def write_tables(
    folder: RunFolder,
    summary: StoreSummary,
    scores: Scores,
    sources: Sequence[str],
    consensus: str,
    check: Callable[[], None],
    *,
    legacy: bool,
) -> Totals:
    """The three tables from the token store and the scores, and the original's two files where `legacy`; otherwise
    such files of an earlier command are removed. `check` is called between blocks. Raises StorageError."""

    def blocks() -> Iterator[BlockTable]:
        for path in ingest.block_paths(folder, summary):
            yield store.read_table(path)
            check()

    totals = tables.write(
        folder.path,
        blocks(),
        scores,
        sources=[printable(source) for source in sources],
        new_names=ingest.new_names(folder),
        n_records=summary.n_records,
        consensus=consensus,
    )
    if (totals.chunks, totals.fragments) != (summary.n_chunks, summary.n_fragments):
        raise StorageError(
            f"the tables have {totals.chunks} chunks and {totals.fragments} fragments, "
            f"the token store {summary.n_chunks} and {summary.n_fragments}"
        )
    for name in LEGACY:
        (folder.path / name).unlink(missing_ok=True)
    if legacy:
        original_files.write(folder.path, scores)
    return totals


def summary_for_people(folder: RunFolder, totals: Totals, seconds: float, *, called: bool) -> str:
    """What people read at the end."""
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(totals.statuses.items())) or "none"
    lines = [f"{totals.records:,} sequences ({statuses}) in {seconds:.1f} s"]
    lines.append(f"{totals.open_chunks:,} of {totals.chunks:,} chunks have an open frame")
    if called:
        lines.append(f"{totals.virus_sequences:,} sequences called virus")
    if totals.failed_fragments:
        lines.append(f"{totals.failed_fragments:,} fragments FAILED; they are NA in fragments.tsv, see the log files")
    lines.append(f"tables: {folder.path / 'sequences.tsv'}, chunks.tsv, fragments.tsv")
    return "\n".join(lines)
