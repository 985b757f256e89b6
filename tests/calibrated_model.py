"""The built-in model with a calibration, for tests of what follows from one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from vpdist.calibration.calibrated import Calibration, ClassCalibration, ClassNulls, NullScores
from vpdist.models.bundle import Bundle, write_model
from vpdist.models.find import find_model
from vpdist.results.classifier import load_classifier


def of_class(least_bases: int, slope: float) -> ClassCalibration:
    return ClassCalibration(
        least_bases=least_bases,
        slope=slope,
        bias=-1.0,
        least=-4.0,
        most=5.0,
        virus_sequences=120,
        virus_groups=100,
        other_sequences=320,
        other_groups=300,
    )


CALIBRATION = Calibration((of_class(300, 2.0), of_class(500, 2.5)))
NULL_SCORES = NullScores(
    tuple(ClassNulls(least_bases=bases, scores=tuple(np.linspace(-4, 3, 200).tolist())) for bases in (300, 500))
)


def write_calibrated(
    folder: Path, calibration: Calibration | None = CALIBRATION, null_scores: NullScores | None = NULL_SCORES
) -> Bundle:
    """`mini` with its main classifier, calibrated from 300 scored bases on, or as is said."""
    mini = find_model("mini", offline=True)
    alone = {"heads": (), "classifier_from": None, "summary": None, "short_chunks": "judged", "shortest_chunk": 3}
    model = replace(mini.model, name="calibrated", calibration=calibration, null_scores=null_scores, **alone)
    encoders = {slot: Path(mini.encoder(slot)) for slot in model.encoders}
    return write_model(folder, model, load_classifier(mini.classifier), encoders=encoders)
