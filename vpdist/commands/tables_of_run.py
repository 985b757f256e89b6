"""The tables of a run of `predict` or `embed`, from its parts."""

from __future__ import annotations

from vpdist.commands import further_files, retry, told_to_displays
from vpdist.commands.run_calibration import choice_of, judged_anew, judging_of
from vpdist.commands.run_inputs import RunInputs
from vpdist.config import Settings
from vpdist.models import choose
from vpdist.planning.plan import Plan
from vpdist.results.parts import PartHeader
from vpdist.results.tables import Totals
from vpdist.results.write_results import checked_scores, part_scores, write_tables
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.session import Session
from vpdist.storage.table_switch import TablesOrigin


def tables_of_run(
    settings: Settings,
    session: Session,
    summary: StoreSummary,
    plan: Plan,
    header: PartHeader,
    inputs: RunInputs,
) -> tuple[Totals, list[str]]:
    """Write the tables, on rank 0; returns their totals, and what people must be told of them and of files beside them.
    Raises DamagedFile, StorageError."""
    resolved = inputs.resolved
    folder, raise_if_ending = session.folder, session.control.raise_if_ending
    further = further_files.of_predict(session, summary, inputs, settings)
    steps = told_to_displays.TableSteps(session.control, summary, plan.n_units, files=further.passes)
    further.file_done = steps.file
    scores = part_scores(folder, plan, header, summary.n_fragments, steps.unit)
    if header.classifier:
        scores = checked_scores(scores)
    judging = judging_of(choose.calling_model_of(settings), choice_of(settings), settings.consensus)
    told = judged_anew(folder, judging)
    totals = write_tables(
        folder,
        summary,
        scores,
        resolved.input_names,
        TablesOrigin(
            command="predict",
            classifier=header.classifier,
            consensus=settings.consensus,
            plan=header.plan,
            shortest_chunk=resolved.shortest_chunk,
            summary=header.summary,
            min_score=settings.min_score,
        ),
        raise_if_ending,
        legacy=settings.legacy_output,
        judging=judging,
        further=further,
        block_done=steps.block,
    )
    steps.end()
    retry.forget(folder)
    return totals, [*told, *further.told]
