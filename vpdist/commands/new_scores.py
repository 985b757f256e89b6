"""Scores of all fragments of a run under a model, from the embeddings that its parts hold."""

from __future__ import annotations

import numpy as np

from vpdist.commands import prepare
from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.heads import Heads
from vpdist.results.scores import Scores
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.session import Session


def scores_under(session: Session, heads: Heads, plan: Plan, plan_id: str, summary: StoreSummary) -> Scores:
    """Unit by unit, as `predict` does, so that equal classifiers give equal bits. On rank 0. Raises DamagedFile."""
    folder = session.folder
    bases = prepare.bases_of_rows(session.control, folder, summary, plan, plan_id, heads)
    scores = Scores.empty(summary.n_fragments, distances=heads.summary is not None)
    for unit in range(plan.n_units):
        part = parts.read(folder.parts, unit, ("failed", *heads.kinds))
        of_rows = None if bases is None else np.asarray(bases[plan.rows(unit).start : plan.rows(unit).stop])
        results = heads.results(part, of_rows)
        fragment, row = parts.fragment_rows(plan, unit)
        scores.set_unit(fragment, row, part["failed"], results["logits"], results.get("distance"))
        session.progress.add(units=1, fragments=len(fragment))
        session.control.raise_if_ending()
    return scores
