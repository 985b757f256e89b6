"""The labelled sequences of `vpdist train` once they are embedded, on rank 0: their fragments, and the side of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vpdist.errors import UsageError
from vpdist.results.embedded_run import EmbeddedRun
from vpdist.session.session import Session
from vpdist.train_settings import TrainSettings
from vpdist.training import annotation
from vpdist.training.fragments import Fragments, read_fragments
from vpdist.training.labelled import Labelled, Records
from vpdist.training.sides import Sides, divide


@dataclass(frozen=True, slots=True)
class LabelledSides:
    """What rank 0 knows of the labelled sequences, and no other rank."""

    records: Records
    virus: np.ndarray
    """(r,) bool, the label of each record."""
    sides: Sides
    fragments: Fragments
    """Those of a run: on the sequences, or on pieces of them."""

    def usable(self, *sides: int) -> np.ndarray:
        """Usable fragments of these sides."""
        return np.flatnonzero(self.fragments.usable & np.isin(self.sides.side[self.fragments.record], sides))


def fragments_of(session: Session, run: EmbeddedRun, labelled: Labelled, records: Records) -> Fragments:
    """All fragments of the run; with annotations those outside of coding regions are not usable. Raises UsageError,
    InputError."""
    if len(records.names) != run.summary.n_records:
        raise UsageError("a labelled file has changed since it was embedded; use --restart to embed it again")
    ending = session.control.raise_if_ending
    fragments = read_fragments(session.folder, run.summary, run.plan, ending)
    if labelled.gbff:
        fragments, told = annotation.inside_coding(fragments, records, labelled, ending)
        session.progress.message(told)
    return fragments


def sides_of(
    training: TrainSettings, labelled: Labelled, records: Records, group: np.ndarray, fragments: Fragments
) -> Sides:
    """The side of each record, by source and group. Raises UsageError."""
    number = {source: index for index, source in enumerate(labelled.sources)}
    source_of_file = np.array([number[file.source] for file in labelled.files], np.int32)
    return divide(
        group,
        fragments.per_record(len(records.names)),
        source_of_file[records.file],
        labelled.sources,
        validation_share=training.validation_share,
        test_share=training.test_share,
        calibration_share=training.calibration_share,
        seed=training.seed,
    )


def joined_labels(labelled: Labelled, records: Records, group: np.ndarray) -> int:
    """How many groups hold both labels."""
    virus = labelled.virus(records)
    return len(np.intersect1d(group[virus], group[~virus]))
