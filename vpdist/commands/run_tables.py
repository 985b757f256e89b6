"""The tables of a run, made from its parts by rank 0."""

from __future__ import annotations

from collections.abc import Callable

from vpdist.config import ResolvedConfig, Settings
from vpdist.planning.plan import Plan
from vpdist.results.parts import PartHeader
from vpdist.results.tables import Totals
from vpdist.results.write_results import checked_scores, part_scores, write_tables
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.table_switch import TablesOrigin


def write_run_tables(
    folder: RunFolder,
    settings: Settings,
    resolved: ResolvedConfig,
    summary: StoreSummary,
    plan: Plan,
    header: PartHeader,
    raise_if_ending: Callable[[], None],
) -> Totals:
    """Raises DamagedFile for a part that is not this run's, StorageError."""
    scores = part_scores(folder, plan, header, summary.n_fragments, raise_if_ending)
    if header.classifier:
        scores = checked_scores(scores)
    origin = TablesOrigin(
        command="predict",
        classifier=header.classifier,
        consensus=settings.consensus,
        plan=header.plan,
        shortest_chunk=resolved.shortest_chunk,
        summary=header.summary,
    )
    sources, legacy = resolved.input_names, settings.legacy_output
    return write_tables(folder, summary, scores, sources, origin, raise_if_ending, legacy=legacy)
