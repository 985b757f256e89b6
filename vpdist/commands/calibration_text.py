"""A calibration in the figures and on the card of the model that `vpdist train` has made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vpdist.calibration.scores import CLASS_BASES, class_name
from vpdist.commands.calibrate import Calibrated
from vpdist.models.card import RATES, of_length, with_interval
from vpdist.models.description import Metric
from vpdist.training.judge import side_name
from vpdist.training.metrics import TITLES

WHEN = {"before": "scores", "after": "probabilities"}


def interval(figure: dict[str, float | None]) -> str:
    """A figure with its interval, as far as they are known."""
    value = figure["value"]
    return "not known" if value is None else with_interval(value, figure["low"], figure["high"])


def calibration_metrics(calibrated: Calibrated) -> Iterator[Metric]:
    """ECE of the test side's sequences per length class, before and after."""
    for bases, found in calibrated.figures.items():
        length = class_name(CLASS_BASES.index(int(bases)))
        for when, what in WHEN.items():
            of = f"{what} of sequences of {length} scored bases"
            yield Metric(name="ECE", of=of, data=side_name(), n=found["n"], **found[when]["ece"])


def length_metrics(by_length: dict[str, Any]) -> Iterator[Metric]:
    """AUROC and errors of pieces of one length."""
    for length, found in by_length.items():
        for name, title in {"auroc": TITLES["auroc"], **RATES}.items():
            if found[name]["value"] is not None:
                yield Metric(name=title, of=of_length(int(length)), data=side_name(), n=found["n"], **found[name])


def calibration_lines(calibrated: Calibrated) -> Iterator[str]:
    """A table per length class for the card."""
    yield "\n## Calibration\n"
    most = calibrated.calibration.most_bases
    reach = "all that is longer" if most is None else f"what is longer, up to {most:,} scored bases"
    yield (
        f"Fitted on groups that nothing else was fitted on; ECE on the test side. The last length class also judges "
        f"{reach}. Other lengths have no probability.\n"
    )
    yield "| scored bases | viruses | groups | others | groups | temperature | bias | ECE before | after | n |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |"
    for each in calibrated.calibration.classes:
        counts = (each.virus_sequences, each.virus_groups, each.other_sequences, each.other_groups)
        temperature = f"{1 / each.slope:.3g}" if each.slope else "none: scores tell nothing"
        found = calibrated.figures.get(str(each.least_bases))
        errors = ["not known"] * 2 if found is None else [interval(found[when]["ece"]) for when in WHEN]
        cells = [
            class_name(CLASS_BASES.index(each.least_bases)),
            *(f"{count:,}" for count in counts),
            temperature,
            f"{each.bias:.3g}",
            *errors,
            "0" if found is None else f"{found['n']:,}",
        ]
        yield f"| {' | '.join(cells)} |"
