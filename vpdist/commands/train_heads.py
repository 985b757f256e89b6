"""What `vpdist train` fits beside the classifier: classifiers for shorter chunks, and the summary of embeddings.

For each length the labelled sequences are cut into pieces of that length, which are embedded as a run of their own,
MODEL/head-300/run, resumed as any other; groups are on the same sides, settings are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol, Self

import numpy as np

from vpdist.commands.beside import RATE, Beside, FittedHead
from vpdist.commands.embedded_pieces import EmbeddedPieces, embed_pieces, piece_settings
from vpdist.commands.labelled_sides import LabelledSides
from vpdist.config import ResolvedConfig, Settings
from vpdist.distributed.sums import Sums
from vpdist.encoder_kinds import CLASSIFIED
from vpdist.errors import UsageError
from vpdist.results.classifier import Classifier
from vpdist.results.classifier_kinds import KINDS_KEY, kinds_text
from vpdist.results.embedded_run import EmbeddedRun, finished_run
from vpdist.results.embedding_summary import EmbeddingSummary
from vpdist.results.heads import Heads
from vpdist.results.row_lengths import SHIFT
from vpdist.session.coordination import Control
from vpdist.session.session import Session
from vpdist.storage.run_folder import RunFolder
from vpdist.train_settings import TrainSettings
from vpdist.training import annotation, embedding_fit, judge
from vpdist.training.drawn_pieces import cut_chunks
from vpdist.training.fit import Examples, Fit
from vpdist.training.fragments import read_fragments
from vpdist.training.head_lengths import HeadLength, head_lengths, shortest_chunk_of
from vpdist.training.judge import Scored
from vpdist.training.labelled import Labelled
from vpdist.training.metrics import Judged, with_intervals
from vpdist.training.pieces import Pieces
from vpdist.training.rows import Rows
from vpdist.training.sides import SIDES, TRAINING, VALIDATION


class Train(Protocol):
    """What is used of `vpdist train` (commands.train)."""

    settings: Settings
    training: TrainSettings
    labelled: Labelled
    session: Session

    @property
    def control(self) -> Control: ...
    def again(self, settings: Settings, training: TrainSettings, labelled: Labelled, session: Session) -> Self: ...
    def _rows(self, run: EmbeddedRun) -> Rows: ...
    def _examples(self, known: LabelledSides | None, side: int, sums: Sums) -> Examples: ...
    def _fit(
        self,
        run: EmbeddedRun,
        rows: Rows,
        sums: Sums,
        training: Examples,
        validation: Examples,
        known: LabelledSides | None,
    ) -> Fit: ...


@dataclass(frozen=True, slots=True)
class Embedded:
    """A run of labelled sequences, embedded, as a fit takes it."""

    run: EmbeddedRun
    rows: Rows
    known: LabelledSides | None
    """On rank 0."""

    @property
    def on_rank_0(self) -> LabelledSides:
        """What is known, where it must be."""
        assert self.known is not None
        return self.known


def with_judged_fragments(main: Embedded, shortest_chunk: int) -> LabelledSides:
    """On rank 0: what is known of the main run, but fragments of chunks that the model does not judge are not usable:
    figures are of the model as it is used."""
    fragments = main.on_rank_0.fragments
    long_enough = fragments.end - fragments.start + 1 + SHIFT >= shortest_chunk
    return replace(main.on_rank_0, fragments=replace(fragments, usable=fragments.usable & long_enough))


def logits_of_rows(main: Embedded, heads: Heads) -> Callable[[np.ndarray], np.ndarray]:
    """On rank 0: a function that returns the logits (m, 2) of rows of the main run."""
    fragments, bases = main.on_rank_0.fragments, np.zeros(main.run.plan.n_rows, np.int64)
    bases[fragments.row] = fragments.end - fragments.start + 1

    def logits(row: np.ndarray) -> np.ndarray:
        embedded = dict(zip(main.run.kinds, main.rows.by_encoder(row), strict=True))
        return heads.results(embedded, bases[row] if heads.needs_bases else None)["logits"]

    return logits


def check(settings: Settings, training: TrainSettings) -> None:
    """Before anything is embedded. Raises UsageError for lengths that no classifier can be fitted for."""
    if training.heads_hidden is not None and training.heads is None:
        raise UsageError("--heads-hidden is of no use without --heads")
    shortest = shortest_chunk_of(training.shortest_chunk, training.heads)
    chunk_length = settings.bases_per_chunk
    if shortest is not None and shortest > chunk_length:
        raise UsageError(f"--shortest-chunk {shortest}: must be at most the chunk length of {chunk_length}")
    for wanted in head_lengths(training.heads, chunk_length, shortest or 0):
        if missing := [kind for kind in wanted.kinds if kind not in settings.models]:
            raise UsageError(f"--heads {training.heads}: no {' and '.join(missing)} encoder is named")


def fit_beside(train: Train, sums: Sums, main: Embedded, classifier: Classifier) -> Beside:
    """Fit what --heads names, and the summary; `main`: what the model's `classifier` was fitted on. On every rank; the
    summary and the figures are rank 0's. Raises UsageError, StorageError."""
    training, ending = train.training, train.control.raise_if_ending
    chunk_length = main.run.resolved.chunk_length
    shortest = shortest_chunk_of(training.shortest_chunk, training.heads)
    summary, kept_apart = None, []
    if main.known is not None:
        rows = main.known.fragments.row[main.known.usable(TRAINING)]
        drawn = main.rows.by_encoder(embedding_fit.draw(rows, training.seed))
        summary = embedding_fit.summarise(tuple(drawn), main.run.kinds, chunk_length)
    if summary is not None:
        kept_apart.append(_kept_apart(summary, main, ending))
    heads = []
    for wanted in head_lengths(training.heads, chunk_length, shortest or 0):
        embedded, head = _fit_head(train, sums, wanted, main, classifier)
        heads.append(head)
        if summary is not None and head.kinds == main.run.kinds:
            kept_apart.append(_kept_apart(summary, embedded, ending))
    if summary is not None:
        summary = embedding_fit.with_thresholds(summary, kept_apart)
        if np.isnan(summary.thresholds).all():
            train.session.progress.message(
                f"no summary of embeddings: fewer than {embedding_fit.LEAST} fragments of each length were kept apart"
            )
            summary = None
    return Beside(tuple(heads), summary, shortest)


def _kept_apart(summary: EmbeddingSummary, embedded: Embedded, ending: Any) -> tuple[np.ndarray, np.ndarray]:
    """Distances and bases of the rows of groups that were kept apart, on rank 0."""
    fragments = embedded.on_rank_0.fragments
    apart = embedded.on_rank_0.usable(*(side for side in range(len(SIDES)) if side != TRAINING))
    rows, first = np.unique(fragments.row[apart], return_index=True)
    bases = (fragments.end - fragments.start + 1)[apart[first]]
    found = embedding_fit.distances(summary, rows, lambda piece: tuple(embedded.rows.by_encoder(piece)), ending)
    return found, bases


def _fit_head(
    train: Train, sums: Sums, wanted: HeadLength, main: Embedded, classifier: Classifier
) -> tuple[Embedded, FittedHead]:
    """One further classifier, and what it was fitted on."""
    again = _train_of(train, wanted, main.run.resolved)
    pieces = _embed(again, wanted, main.known).pieces
    run = finished_run(again.session.folder)
    rows, known = again._rows(run), None
    if main.known is not None:
        assert pieces is not None
        ending = again.control.raise_if_ending
        fragments = pieces.of_sequences(read_fragments(again.session.folder, run.summary, run.plan, ending))
        if again.labelled.gbff:
            fragments, _ = annotation.inside_coding(fragments, main.known.records, again.labelled, ending)
        known = replace(main.known, fragments=fragments)
    embedded = Embedded(run, rows, known)
    fit_on, validation = (again._examples(known, side, sums) for side in (TRAINING, VALIDATION))
    if any(side.virus.all() or not side.virus.any() for side in (fit_on, validation)):  # of one label only
        raise _too_little(wanted)
    fit = again._fit(run, rows, sums, fit_on, validation, known)
    fitted = fit.network.classifier.eval()
    if run.kinds != CLASSIFIED:
        fitted.metadata[KINDS_KEY] = kinds_text(run.kinds)
    figures: dict[str, Any] = {}
    if known is not None:
        figures["head"] = _judged(again, embedded, fitted)
        if run.kinds == main.run.kinds:
            figures["main"] = _judged(again, embedded, classifier.eval())
    return embedded, FittedHead(wanted, run.kinds, fitted, figures)


def _embed(train: Train, wanted: HeadLength, known: LabelledSides | None) -> EmbeddedPieces:
    """Cut the sequences, and embed the pieces. Raises UsageError where no sequence is long enough."""

    def choose() -> Pieces:
        assert known is not None
        pieces = cut_chunks(known.records.lengths, wanted.length, wanted.begins, train.training.seed)
        train.session.progress.message(f"{len(pieces):,} pieces of {wanted.length} bases")
        return pieces

    numbers = (b"%d" % number for number in count())
    embedded = embed_pieces(train.session, train.settings, train.labelled, choose, numbers)
    if embedded is None:
        raise _too_little(wanted)
    return embedded


def _train_of(train: Train, wanted: HeadLength, resolved: ResolvedConfig) -> Train:
    """The same command for pieces of another length, in a folder of its own; what was `resolved` for the main run, as
    number formats, holds here, too."""
    labelled = train.labelled.of_head(wanted.length)
    left_out = {f"{kind}_model": None for kind in CLASSIFIED if wanted.kinds and kind not in wanted.kinds}
    changes = {"model": None, "chunk_length": wanted.length, **left_out}
    settings = piece_settings(train.settings, resolved, labelled.head_pieces, labelled.run, **changes)
    train.session.progress.message(f"a classifier for chunks of {wanted.length} bases, from {wanted.begins} on")
    session = train.session.inside(f"head-{wanted.length}", RunFolder(settings.output))
    training = replace(train.training, hidden=train.training.heads_hidden or train.training.hidden)
    return train.again(settings, training, labelled, session)


def _too_little(wanted: HeadLength) -> UsageError:
    return UsageError(
        f"--heads: too few sequences of at least {wanted.begins} bases with open frames for a classifier of "
        f"{wanted.length}: training and validation need viruses and others; give more sequences"
    )


def _judged(train: Train, embedded: Embedded, classifier: Classifier) -> dict[str, Any]:
    """Figures of a classifier's calls of the test side's pieces, on rank 0."""
    known, rows, ending, training = embedded.on_rank_0, embedded.rows, train.control.raise_if_ending, train.training
    scored: Scored = judge.score(
        known.fragments,
        known.sides,
        known.virus,
        lambda row: classifier.logits(*rows.by_encoder(row)),
        ending,
    )["chunks"]
    judged = Judged.of(scored.virus, scored.share, known.sides.group[scored.record])
    others = scored.share[~scored.virus]
    rate = float((others >= 0.5).mean()) if len(others) else None
    found = with_intervals(judged, training.bootstraps, training.seed, ending)
    return {"n": len(judged), "groups": judged.n_groups, **found, RATE: {"value": rate, "low": None, "high": None}}
