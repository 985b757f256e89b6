"""From a run's parts to its tables, and what people are told about them: shared by `predict` and `classify`."""

from __future__ import annotations

from collections.abc import Sequence

from vpdist import ingest, parts, store, tables
from vpdist.config import Decisions
from vpdist.ingest import StoreSummary
from vpdist.parts import PartHeader
from vpdist.plan import Plan
from vpdist.runfolder import RunFolder
from vpdist.tables import Scores, Totals


def part_header(plan_digest: str, decisions: Decisions) -> PartHeader:
    """What the parts of a run say of themselves."""
    return PartHeader(
        plan=plan_digest,
        dtype=decisions.dtype,
        nucleotide_model=decisions.nucleotide_model or "",
        protein_model=decisions.protein_model or "",
        classifier=decisions.classifier or "",
        embeddings=decisions.embeddings,
    )


def part_scores(folder: RunFolder, plan: Plan, header: PartHeader, n_fragments: int) -> Scores:
    """Scores of all fragments from the parts' logits. Raises DamagedFile."""
    scores = Scores.empty(n_fragments)
    names = ["fragment", "row", "failed"] + (["logits"] if header.classifier else [])
    for unit in range(plan.n_units):
        part = parts.read(folder.parts, unit, names)
        scores.set_unit(part["fragment"], part["row"], part["failed"], part.get("logits"))
    return scores


def write_tables(
    folder: RunFolder, summary: StoreSummary, scores: Scores, sources: Sequence[str], consensus: str
) -> Totals:
    """The three tables from the token store and the scores."""
    return tables.write(
        folder.path,
        (store.read_table(path) for path in ingest.block_paths(folder, summary)),
        scores,
        sources=sources,
        new_names=summary.new_names,
        n_records=summary.n_records,
        consensus=consensus,
    )


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
