"""The calibration stage of `vpdist train`: pieces of the labelled sequences, embedded and scored as `predict` would.

Those of the calibration side are what scores are calibrated on; those of the test side tell how well that holds at one
length. The pieces are a second run, MODEL/calibration-run, on all ranks and resumable as the first one is. Their scores
are those of the tables: the same code, the same consensus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from vpdist.calibration import fit as fitting
from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.judgement import Evidence
from vpdist.calibration.scores import CALIBRATED_CONSENSUS, CLASS_BASES, class_name, log_odds
from vpdist.commands.embedded_pieces import EmbeddedPieces, embed_pieces, piece_settings
from vpdist.commands.labelled_sides import LabelledSides
from vpdist.commands.new_scores import scores_under
from vpdist.config import Settings
from vpdist.errors import StorageError
from vpdist.models.card import LENGTHS
from vpdist.results.embedded_run import EmbeddedRun, finished_run
from vpdist.results.heads import Heads
from vpdist.results.scores import Scores, softmax
from vpdist.results.write_results import evidence_of, withheld
from vpdist.session.session import Session
from vpdist.storage.run_folder import RunFolder
from vpdist.train_settings import TrainSettings
from vpdist.training.calibration_figures import calibration_figures
from vpdist.training.drawn_pieces import PIECE_BASES, choose_pieces
from vpdist.training.judge import AT_ONCE
from vpdist.training.labelled import Labelled
from vpdist.training.length_figures import length_figures
from vpdist.training.pieces import Pieces
from vpdist.training.sides import CALIBRATION, TEST

MOST_TEST_PIECES = 1000
"""Of the test side, of one length and label."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What the calibration stage leaves."""

    calibration: Calibration
    null_scores: NullScores
    figures: dict[str, Any]
    """Of the test side, see `calibration_figures`."""


@dataclass(frozen=True, slots=True)
class ScoredPieces:
    """Pieces and their scores."""

    pieces: Pieces
    evidence: Evidence


def embed_for_calibration(
    session: Session, settings: Settings, run: EmbeddedRun, labelled: Labelled, known: LabelledSides | None, seed: int
) -> EmbeddedPieces | None:
    """Embed pieces of the calibration and the test side's sequences, on all ranks; `known`: on rank 0. None where there
    are no pieces. Raises as `predict` does."""

    def choose() -> Pieces:
        assert known is not None
        given = (known.sides, known.records.lengths, known.virus, seed)
        return choose_pieces(*given) + choose_pieces(*given, side=TEST, all_bases=LENGTHS, most=MOST_TEST_PIECES)

    inner = session.inside("calibration-run", RunFolder(labelled.calibration_run))
    settings = piece_settings(settings, run.resolved, labelled.pieces, labelled.calibration_run)
    return embed_pieces(inner, settings, labelled, choose, (b"piece%d" % number for number in count(1)))


def score_pieces(embedded: EmbeddedPieces, heads: Heads, shortest_chunk: int = 0) -> ScoredPieces:
    """On rank 0: the scores of all pieces under `heads`; `shortest_chunk`: bases below which the model gives none.
    Raises StorageError."""
    inner, ending = embedded.session, embedded.session.control.raise_if_ending
    assert embedded.pieces is not None
    run = finished_run(inner.folder)
    if run.summary.n_records != len(embedded.pieces):
        raise StorageError(f"{inner.folder.path}: its token store is not that of the pieces")
    scores = scores_under(inner, heads, run.plan, run.header.plan, run.summary)
    scores = withheld(inner.folder, run.summary, scores, shortest_chunk, ending)
    found = evidence_of(inner.folder, run.summary, scores, CALIBRATED_CONSENSUS, ending)
    return ScoredPieces(embedded.pieces, found)


def calibrated(
    session: Session,
    training: TrainSettings,
    run: EmbeddedRun,
    known: LabelledSides,
    scored: ScoredPieces | None,
    logits: Callable[[np.ndarray], np.ndarray],
    shortest_chunk: int = 0,
) -> tuple[Calibrated | None, list[str]]:
    """On rank 0: calibration, null scores and their figures, as far as the pieces suffice;
    and what is missing, in words. `logits` as in `judge.score`. Raises StorageError."""
    if scored is None or not (mine := known.sides.side[scored.pieces.first_record] == CALIBRATION).any():
        return None, [f"no calibration: no sequence of the calibration side has {PIECE_BASES[0]} bases"]
    found, record = scored.evidence, scored.pieces.first_record[mine]
    calibration, nulls = fitting.fit(
        fitting.Scored(
            score=log_odds(found.virus[mine], found.nonvirus[mine]),
            bases=found.bases[mine],
            virus=known.virus[record],
            group=known.sides.group[record],
        )
    )
    fitted = set() if calibration is None else {each.least_bases for each in calibration.classes}
    missing = [class_name(number) for number, bases in enumerate(CLASS_BASES) if bases not in fitted]
    told = [
        f"no calibration for sequences of {', '.join(missing)} scored bases: under {fitting.LEAST_GROUPS} groups of "
        f"either label on the calibration side"
    ] * bool(missing)
    if calibration is None or nulls is None:
        return None, told
    figures = _figures(session, training, run, known, logits, calibration, shortest_chunk)
    return Calibrated(calibration, nulls, figures), told


def by_length(
    training: TrainSettings,
    known: LabelledSides,
    scored: ScoredPieces | None,
    calibrated: Calibrated | None,
    raise_if_ending: Callable[[], None],
) -> dict[str, Any]:
    """On rank 0: the figures of the test side's pieces, see `length_figures`."""
    if scored is None:
        return {}
    mine = known.sides.side[scored.pieces.first_record] == TEST
    found, record = scored.evidence, scored.pieces.first_record[mine]
    return length_figures(
        Evidence(found.virus[mine], found.nonvirus[mine], found.bases[mine]),
        scored.pieces.bases[mine],
        known.virus[record],
        known.sides.group[record],
        None if calibrated is None else (calibrated.calibration, calibrated.null_scores),
        resamples=training.bootstraps,
        seed=training.seed,
        raise_if_ending=raise_if_ending,
    )


def _figures(
    session: Session,
    training: TrainSettings,
    run: EmbeddedRun,
    known: LabelledSides,
    logits: Callable[[np.ndarray], np.ndarray],
    calibration: Calibration,
    shortest_chunk: int,
) -> dict[str, Any]:
    """Figures of the test side's sequences as they are, scored as the tables score them."""
    ending = session.control.raise_if_ending
    fragments, mine = known.fragments, known.usable(TEST)
    scores = Scores.empty(len(fragments.record))
    for start in range(0, len(mine), AT_ONCE):
        piece = mine[start : start + AT_ONCE]
        scores.nonvirus[piece], scores.virus[piece] = softmax(logits(fragments.row[piece]))
        ending()
    scores = withheld(session.folder, run.summary, scores, shortest_chunk, ending)
    found = evidence_of(session.folder, run.summary, scores, CALIBRATED_CONSENSUS, ending)
    test = known.sides.side == TEST
    return calibration_figures(
        Evidence(found.virus[test], found.nonvirus[test], found.bases[test]),
        known.virus[test],
        known.sides.group[test],
        calibration,
        resamples=training.bootstraps,
        seed=training.seed,
        raise_if_ending=ending,
    )
