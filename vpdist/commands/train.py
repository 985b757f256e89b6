"""`vpdist train`, stage by stage: groups, embeddings, sides, fit, figures, model.

Everything before the fit is `vpdist embed` into MODEL/run, on all ranks and resumable as that is. Groups come first:
files that cannot be used are refused before anything is embedded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xxhash

from vpdist.commands import calibrate, run_inputs, told_to_displays, train_heads
from vpdist.commands.beside import Beside
from vpdist.commands.embedded_pieces import EmbeddedPieces
from vpdist.commands.labelled_sides import LabelledSides, fragments_of, joined_labels, sides_of
from vpdist.commands.predict import Predict
from vpdist.commands.trained_model import Trained, write_trained
from vpdist.config import Settings
from vpdist.distributed.sums import Sums
from vpdist.encoder_kinds import CLASSIFIED
from vpdist.errors import UsageError
from vpdist.models import choose
from vpdist.results.classifier_kinds import KINDS_KEY, kinds_text
from vpdist.results.embedded_run import EmbeddedRun, finished_run
from vpdist.session.coordination import Control
from vpdist.session.run_session import run_session
from vpdist.session.session import Outcome, Session
from vpdist.storage.run_folder import RunFolder
from vpdist.train_settings import TrainSettings
from vpdist.training import annotation, judge, plots
from vpdist.training.fit import Examples, Fit
from vpdist.training.groups import find_groups
from vpdist.training.labelled import Labelled, Records, read_labelled
from vpdist.training.rows import Rows, map_rows, rows_path, write_rows
from vpdist.training.sides import TRAINING, VALIDATION

FIT_VERSION = 1
"""Changes when the same data and settings give another classifier."""


def train(settings: Settings, training: TrainSettings, labelled: Labelled) -> int:
    """Run `vpdist train` on this rank; returns the exit code. `settings`: of `vpdist embed` into the model's run."""

    def check(control: Control) -> None:
        run_inputs.check_inputs(settings, control)
        labelled.forget()

    return run_session(
        RunFolder(settings.output),
        lambda session: _Train(
            choose.applied(settings, run_inputs.Waiting(session.control)), training, labelled, session
        ).stages(),
        device=settings.device,
        progress=settings.progress,
        stall_timeout=settings.stall_timeout,
        log_interval=settings.log_interval,
        restart=check if settings.restart else None,
    )


@dataclass(slots=True)
class _Train:
    """One run of `train` on one rank."""

    settings: Settings
    training: TrainSettings
    labelled: Labelled
    session: Session
    warnings: list[str] = field(default_factory=list)

    @property
    def control(self) -> Control:
        return self.session.control

    def again(self, settings: Settings, training: TrainSettings, labelled: Labelled, session: Session) -> _Train:
        """The same command for other pieces of the sequences, in a folder of its own."""
        return replace(self, settings=settings, training=training, labelled=labelled, session=session)

    def stages(self) -> Outcome:
        """All stages, in order."""
        started = time.monotonic()
        self.session.begin()
        train_heads.check(self.settings, self.training)
        told_to_displays.describe_training(self.session.progress, self.settings, self.training, self.labelled)
        records, group = self._groups()
        embedded = Predict(self.settings, self.session).stages()
        run = finished_run(self.session.folder)
        if not run.plan.n_units:
            raise UsageError("no labelled sequence has an open reading frame: there is nothing to fit on")
        rows = self._rows(run)
        sums = Sums(self.control.runtime, self.settings.stall_timeout + 60, self.control.raise_if_ending)
        known = self._sides(run, records, group)
        fit_on, validation = (self._examples(known, side, sums) for side in (TRAINING, VALIDATION))
        fit = self._fit(run, rows, sums, fit_on, validation, known)
        main = train_heads.Embedded(run, rows, known)
        beside = train_heads.fit_beside(self, sums, main, fit.network.classifier)
        given = (self.session, self.settings, run, self.labelled, known, self.training.seed)
        pieces = calibrate.embed_for_calibration(*given)
        text = self._model(main, fit, beside, pieces, started)
        return Outcome("\n".join([embedded.message, *self.warnings, text]), embedded.failures)

    def _groups(self) -> tuple[Records | None, np.ndarray]:
        """On rank 0 the records and the group of each; the others wait, and have none."""
        self.session.progress.stage("groups")
        found: tuple[Records | None, np.ndarray] = (None, np.zeros(0, np.int64))

        def make() -> str:
            nonlocal found
            if not plots.can_draw():
                self._warn(plots.NOT_INSTALLED)
            annotation.check_installed(self.labelled.gbff)
            unknown, ending = self.settings.replace_unknown, self.control.raise_if_ending
            records = read_labelled(self.labelled, ending, replace_unknown=unknown)
            found = records, find_groups(self.labelled, records, ending, replace_unknown=unknown)
            n_groups = len(np.unique(found[1]))
            self.session.progress.message(f"{len(records.names):,} labelled sequences in {n_groups:,} groups")
            return "1"

        self.control.broadcast_from_rank_0("train/groups", make)
        return found

    def _warn(self, text: str) -> None:
        self.warnings.append(f"warning: {text}")
        self.session.progress.message(self.warnings[-1])

    def _rows(self, run: EmbeddedRun) -> Rows:
        """The embeddings in one file, which rank 0 writes."""
        progress, folder = self.session.progress, self.session.folder
        path = rows_path(self.labelled.fit, run.plan, run.header)
        progress.stage("rows", planned_units=run.plan.n_units if self.control.is_first else 0)

        def count(fragments: int) -> None:
            progress.add(units=1, fragments=fragments)
            self.control.raise_if_ending()

        def make() -> str:
            write_rows(path, folder.parts, run.plan, run.kinds, run.widths, run.dtype, count)
            return "1"

        self.control.broadcast_from_rank_0("train/rows", make)
        self.control.wait_for_file(path)
        return map_rows(path, run.plan, run.widths, run.dtype)

    def _sides(self, run: EmbeddedRun, records: Records | None, group: np.ndarray) -> LabelledSides | None:
        """On rank 0: all fragments, and the side of each record. Raises UsageError, InputError."""
        if records is None:
            return None
        fragments = fragments_of(self.session, run, self.labelled, records)
        sides = sides_of(self.training, self.labelled, records, group, fragments)
        if joined := joined_labels(self.labelled, records, group):
            self._warn(
                f"{joined:,} groups hold viruses and others, which share an accession or a 25-mer (prophages?); "
                f"each is on one side"
            )
        return LabelledSides(records, self.labelled.virus(records), sides, fragments)

    def _examples(self, known: LabelledSides | None, side: int, sums: Sums) -> Examples:
        """The examples of a side, which rank 0 tells the others."""
        packed = np.zeros(0, np.int64)
        if known is not None:
            mine = known.usable(side)
            virus_of = {file.source: file.virus for file in self.labelled.files}
            virus = np.array([virus_of[source] for source in self.labelled.sources])
            source = known.sides.source[known.fragments.record[mine]]
            packed = 2 * known.fragments.row[mine] + virus[source]
            if side == TRAINING:
                packed = packed.repeat(
                    np.array([self.training.times.get(name, 1) for name in self.labelled.sources])[source]
                )
        size = int(self.control.broadcast_from_rank_0(f"train/side/{side}", lambda: str(len(packed))))
        shared = torch.from_numpy(packed) if self.control.is_first else torch.zeros(size, dtype=torch.int64)
        numbers = sums.add(shared).numpy()
        return Examples(numbers // 2, numbers % 2 == 1)

    def _fit(
        self,
        run: EmbeddedRun,
        rows: Rows,
        sums: Sums,
        training: Examples,
        validation: Examples,
        known: LabelledSides | None,
    ) -> Fit:
        def make() -> str:
            assert known is not None
            made_from = (
                *(FIT_VERSION, run.plan.digest(), run.header.attributes(0), known.sides.digest(), self.training.fit),
                *(each.digest() for each in (training, validation)),
            )
            self.session.progress.message(
                f"fitting {sum(run.widths)} x {self.training.hidden} x 2 on {len(training):,} fragments, "
                f"{len(validation):,} for validation"
            )
            return xxhash.xxh3_128_hexdigest(repr(made_from).encode())

        key = self.control.broadcast_from_rank_0("train/key", make)
        fit = Fit(self.control, sums, rows, training, validation, self.training, self.labelled.state, key)
        fit.run()
        return fit

    def _model(
        self,
        main: train_heads.Embedded,
        fit: Fit,
        beside: Beside,
        pieces: EmbeddedPieces | None,
        started: float,
    ) -> str:
        """Rank 0 judges the classifier and writes the model; the others wait. Returns the summary."""
        self.session.progress.stage("judge")
        text = ""

        def make() -> str:
            nonlocal text
            trained = self._judged(main, fit, beside, pieces)
            text = write_trained(trained, self.control.runtime, time.monotonic() - started)
            return "1"

        self.control.broadcast_from_rank_0("train/model", make)
        return text

    def _judged(
        self,
        main: train_heads.Embedded,
        fit: Fit,
        beside: Beside,
        pieces: EmbeddedPieces | None,
    ) -> Trained:
        """On rank 0: the classifier with its figures and its calibration."""
        run, known = main.run, train_heads.with_judged_fragments(main, beside.shortest_chunk or 0)
        training, sides, ending = self.training, known.sides, self.control.raise_if_ending
        classifier = fit.network.classifier.eval()
        if run.kinds != CLASSIFIED:
            classifier.metadata[KINDS_KEY] = kinds_text(run.kinds)
        heads = beside.with_main(classifier, run.resolved.chunk_length)
        logits = train_heads.logits_of_rows(main, heads)
        scored = judge.score(known.fragments, sides, known.virus, logits, ending)
        calibrated, shortest = None, beside.shortest_chunk or 0
        of_pieces = None if pieces is None else calibrate.score_pieces(pieces, heads, shortest)
        if training.calibration_share:
            given = (training, run, known, of_pieces)
            calibrated, told = calibrate.calibrated(self.session, *given, logits, shortest)
            for warning in told:
                self._warn(warning)
        lengths, resamples = known.records.lengths, training.bootstraps
        drawn = judge.figures(scored, sides, lengths, resamples=resamples, seed=training.seed, raise_if_ending=ending)
        name = training.name or self.labelled.model.name
        return Trained(
            self.settings,
            training,
            self.labelled,
            run.resolved,
            run.kinds,
            known.records,
            sides,
            fit.reached,
            classifier,
            drawn,
            judge.confusion(scored, sides, self.labelled.sources),
            calibrated,
            calibrate.by_length(training, known, of_pieces, calibrated, ending),
            plots.draw(self.labelled.model / "plots", scored, name) if plots.can_draw() else [],
            beside,
        )
