"""The calibration stage of `vpdist train`: pieces of the labelled sequences, embedded and scored as `predict` would.

Those of the calibration side are what scores are calibrated on; those of the test side tell how well that holds at one
length. The pieces are a second run, MODEL/calibration-run, on all ranks and resumable as the first one is. Their scores
are those of the tables: the same code, the same consensus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vpdist.calibration import fit as fitting
from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.judgement import Evidence
from vpdist.calibration.scores import CALIBRATED_CONSENSUS, CLASS_BASES, class_name, log_odds
from vpdist.commands.new_scores import scores_under
from vpdist.commands.predict import Predict
from vpdist.config import Settings
from vpdist.errors import StorageError
from vpdist.models.card import LENGTHS
from vpdist.planning import plan_file
from vpdist.results.embedded_run import EmbeddedRun
from vpdist.results.heads import Heads
from vpdist.results.scores import Scores, softmax
from vpdist.results.write_results import evidence_of, withheld
from vpdist.sequences import store_summary
from vpdist.session.session import Session
from vpdist.storage.atomic_files import read_limited, storage_error, write_file
from vpdist.storage.run_folder import RunFolder
from vpdist.train_settings import TrainSettings
from vpdist.training.calibration_figures import calibration_figures
from vpdist.training.fragments import Fragments
from vpdist.training.judge import AT_ONCE
from vpdist.training.labelled import Labelled, Records
from vpdist.training.length_figures import length_figures
from vpdist.training.pieces import PIECE_BASES, Pieces, choose_pieces, fasta
from vpdist.training.sides import CALIBRATION, TEST, Sides

PIECES_LIMIT = 1 << 30
"""Bytes of the file of pieces; pieces.MOST_BASES gives less."""

MOST_TEST_PIECES = 1000
"""Of the test side, of one length and label."""

RUN_KEYS = "calibration-run"
"""Before the keys of that run in the key store."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What the calibration stage leaves."""

    calibration: Calibration
    null_scores: NullScores
    figures: dict[str, Any]
    """Of the test side, see `calibration_figures`."""


@dataclass(frozen=True, slots=True)
class LabelledSides:
    """What rank 0 knows of the labelled sequences."""

    records: Records
    sides: Sides
    virus: np.ndarray
    """(r,) bool, the label of each record."""


def embed_pieces(
    session: Session, settings: Settings, run: EmbeddedRun, labelled: Labelled, known: LabelledSides | None, seed: int
) -> Pieces | None:
    """Embed pieces of the calibration and the test side's sequences, on all ranks; `known`: on rank 0. Returns the
    pieces on rank 0, None on the others, and where there are none. Raises as `predict` does."""
    control, folder = session.control, RunFolder(labelled.calibration_run)
    pieces: Pieces | None = None

    def make() -> str:
        nonlocal pieces
        assert known is not None
        given = (known.sides, known.records.lengths, known.virus, seed)
        pieces = choose_pieces(*given)
        pieces += choose_pieces(*given, side=TEST, all_bases=LENGTHS, most=MOST_TEST_PIECES)
        _write(pieces, labelled, folder, control.raise_if_ending, replace_unknown=settings.replace_unknown)
        return str(len(pieces))

    if int(control.broadcast_from_rank_0("train/pieces", make)) == 0:
        return None
    control.wait_for_file(labelled.pieces)
    control.wait_for_file(folder.parts)
    resolved = run.resolved
    inner = session.inside(RUN_KEYS, folder)
    outcome = Predict(
        replace(
            settings,
            inputs=(str(labelled.pieces),),
            files_from=None,
            output=folder.path,
            chunk_length=resolved.chunk_length,
            min_length=0,
            dtype=resolved.dtype,
            embedding_dtype=resolved.embedding_dtype,
            token_budget=resolved.token_budget,
            threads=resolved.threads,
            restart=False,
            reuse=None,
        ),
        inner,
    ).stages()
    if control.is_first:
        inner.end("done_with_failures" if outcome.failures else "done", 0, outcome.message)
    return pieces


def _write(
    pieces: Pieces,
    labelled: Labelled,
    folder: RunFolder,
    raise_if_ending: Callable[[], None],
    *,
    replace_unknown: bool,
) -> None:
    """Write the file of pieces and prepare their run; one of other pieces is discarded. Raises InputError,
    StorageError."""
    content = b"".join(fasta(pieces, labelled.paths, raise_if_ending, replace_unknown=replace_unknown))
    try:
        before = read_limited(labelled.pieces, PIECES_LIMIT) if labelled.pieces.exists() else None
        folder.prepare(restart=before != content)
        labelled.fit.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(labelled.pieces, error) from error
    folder.remove_temporary_files()
    if before != content:
        write_file(labelled.pieces, content)


def evidence_of_pieces(
    session: Session, labelled: Labelled, pieces: Pieces, heads: Heads, shortest_chunk: int = 0
) -> Evidence:
    """On rank 0: the scores of all pieces under `heads`; `shortest_chunk`: bases below which the model gives none.
    Raises StorageError."""
    inner = session.inside(RUN_KEYS, RunFolder(labelled.calibration_run))
    summary = store_summary.load_summary(inner.folder)
    if summary is None or summary.n_records != len(pieces):
        raise StorageError(f"{inner.folder.path}: its token store is not that of {labelled.pieces}")
    plan, plan_id = plan_file.map_plan(inner.folder.plan, n_fragments=summary.n_fragments, store=summary.digest)
    ending = session.control.raise_if_ending
    scores = withheld(inner.folder, summary, scores_under(inner, heads, plan, plan_id, summary), shortest_chunk, ending)
    return evidence_of(inner.folder, summary, scores, CALIBRATED_CONSENSUS, ending)


def calibrated(
    session: Session,
    training: TrainSettings,
    run: EmbeddedRun,
    fragments: Fragments,
    known: LabelledSides,
    pieces: Pieces | None,
    found: Evidence | None,
    logits: Callable[[np.ndarray], np.ndarray],
    shortest_chunk: int = 0,
) -> tuple[Calibrated | None, list[str]]:
    """On rank 0: calibration, null scores and their figures, as far as the pieces with the evidence `found` suffice;
    and what is missing, in words. `logits` as in `judge.score`. Raises StorageError."""
    if pieces is None or found is None or not (mine := known.sides.side[pieces.record] == CALIBRATION).any():
        return None, [f"no calibration: no sequence of the calibration side has {PIECE_BASES[0]} bases"]
    calibration, nulls = fitting.fit(
        fitting.Scored(
            score=log_odds(found.virus[mine], found.nonvirus[mine]),
            bases=found.bases[mine],
            virus=known.virus[pieces.record[mine]],
            group=known.sides.group[pieces.record[mine]],
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
    figures = _figures(session, training, run, fragments, known, logits, calibration, shortest_chunk)
    return Calibrated(calibration, nulls, figures), told


def by_length(
    training: TrainSettings,
    known: LabelledSides,
    pieces: Pieces | None,
    found: Evidence | None,
    calibrated: Calibrated | None,
    raise_if_ending: Callable[[], None],
) -> dict[str, Any]:
    """On rank 0: the figures of the test side's pieces, see `length_figures`."""
    if pieces is None or found is None:
        return {}
    mine = known.sides.side[pieces.record] == TEST
    return length_figures(
        Evidence(found.virus[mine], found.nonvirus[mine], found.bases[mine]),
        pieces.bases[mine],
        known.virus[pieces.record[mine]],
        known.sides.group[pieces.record[mine]],
        None if calibrated is None else (calibrated.calibration, calibrated.null_scores),
        resamples=training.bootstraps,
        seed=training.seed,
        raise_if_ending=raise_if_ending,
    )


def _figures(
    session: Session,
    training: TrainSettings,
    run: EmbeddedRun,
    fragments: Fragments,
    known: LabelledSides,
    logits: Callable[[np.ndarray], np.ndarray],
    calibration: Calibration,
    shortest_chunk: int,
) -> dict[str, Any]:
    """Figures of the test side's sequences as they are, scored as the tables score them."""
    ending = session.control.raise_if_ending
    scores = Scores.empty(len(fragments.record))
    mine = np.flatnonzero(fragments.usable & (known.sides.side[fragments.record] == TEST))
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
