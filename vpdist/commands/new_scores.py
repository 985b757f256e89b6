"""Scores of all fragments of a run under a classifier, from the embeddings that its parts hold."""

from __future__ import annotations

from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.classifier import Classifier, logits
from vpdist.results.scores import Scores
from vpdist.session.session import Session


def scores_under(session: Session, classifier: Classifier, plan: Plan, n_fragments: int) -> Scores:
    """Unit by unit, as `predict` does, so that equal classifiers give equal bits. Raises DamagedFile."""
    scores = Scores.empty(n_fragments)
    for unit in range(plan.n_units):
        part = parts.read(session.folder.parts, unit, ("failed", *classifier.kinds))
        fragment, row = parts.fragment_rows(plan, unit)
        scores.set_unit(fragment, row, part["failed"], logits(classifier, part))
        session.progress.add(units=1, fragments=len(fragment))
        session.control.raise_if_ending()
    return scores
