"""Calibrations in JSON, read strictly: those of a model.json, and that of a run's calibration.json."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from vpdist.calibration.calibrated import Calibration, ClassCalibration, ClassNulls, NullScores
from vpdist.calibration.judgement import PRESETS, Choice
from vpdist.calibration.judging import FORMAT, Judging
from vpdist.calibration.scores import CLASS_BASES
from vpdist.models.json_fields import Fields, shown

MOST_SEQUENCES = 1 << 48
MOST_SCORES = 200_000
"""Null scores of a class."""
STEEPEST, WIDEST = 1e6, 50.0
"""Bounds of slope and bias, and of the logarithm of a likelihood ratio, whose exponential must be a number."""
LINE = 300
CAUTIOUS = "cautious"
"""Missing from runs of versions that were not."""


def calibration_from_json(path: Path, where: str, content: object) -> Calibration | None:
    """Raises WeightsError."""
    if content is None:
        return None
    entry = Fields.of(path, where, content, ["classes"], ["joined"])
    joined = entry.content.get("joined", False)
    if type(joined) is not bool:
        raise entry.wrong("joined", f"must be true or false, not {shown(joined)}")
    return Calibration(_classes(entry, _class), joined=joined)


def null_scores_from_json(path: Path, where: str, content: object) -> NullScores | None:
    """Raises WeightsError."""
    return None if content is None else NullScores(_classes(Fields.of(path, where, content, ["classes"]), _nulls))


def judging_from_json(path: Path, content: object) -> Judging:
    """What a run's calibration.json holds. Raises WeightsError."""
    names = [each.name for each in fields(Judging) if each.name != CAUTIOUS]
    entry = Fields.of(path, "", content, ["format", *names], [CAUTIOUS])
    if entry.content["format"] != FORMAT:
        raise entry.wrong("format", f"is {shown(entry.content['format'])}; this version reads {FORMAT}")
    calibration = calibration_from_json(path, "calibration", entry.content["calibration"])
    nulls = null_scores_from_json(path, "null_scores", entry.content["null_scores"])
    if calibration is None or nulls is None:
        raise entry.wrong("calibration", "and null_scores must be there")
    chosen = Fields.of(path, "choice", entry.content["choice"], [each.name for each in fields(Choice)])
    preset = chosen.text("preset", LINE)
    if preset not in PRESETS:
        raise chosen.wrong("preset", f"must be one of {', '.join(PRESETS)}, not {shown(preset)}")
    cautious = entry.content.get(CAUTIOUS, False)
    if type(cautious) is not bool:
        raise entry.wrong(CAUTIOUS, f"must be true or false, not {shown(cautious)}")
    return Judging(
        model=entry.text("model", LINE),
        calibration=calibration,
        null_scores=nulls,
        choice=Choice(preset=preset, max_fdr=_share(chosen, "max_fdr"), prevalence=_share(chosen, "prevalence")),
        cautious=cautious,
    )


Of = TypeVar("Of", ClassCalibration, ClassNulls)


def _classes(entry: Fields, read: Callable[[Path, str, object], Of]) -> tuple[Of, ...]:
    """The length classes of a list, ascending."""
    items = entry.items("classes", len(CLASS_BASES))
    classes = tuple(read(entry.path, f"{entry.where}.classes[{n}]", each) for n, each in enumerate(items))
    if any(after.least_bases <= before.least_bases for before, after in pairwise(classes)):
        raise entry.wrong("classes", "must ascend by least_bases, each once")
    return classes


def _class(path: Path, where: str, content: object) -> ClassCalibration:
    entry = Fields.of(path, where, content, [each.name for each in fields(ClassCalibration)])
    return ClassCalibration(
        least_bases=_least_bases(entry),
        slope=_within(entry, "slope", 0.0, STEEPEST),
        bias=_within(entry, "bias", -STEEPEST, STEEPEST),
        least=_within(entry, "least", -WIDEST, 0.0),
        most=_within(entry, "most", 0.0, WIDEST),
        virus_sequences=entry.whole("virus_sequences", 1, MOST_SEQUENCES),
        virus_groups=entry.whole("virus_groups", 1, MOST_SEQUENCES),
        other_sequences=entry.whole("other_sequences", 1, MOST_SEQUENCES),
        other_groups=entry.whole("other_groups", 1, MOST_SEQUENCES),
    )


def _nulls(path: Path, where: str, content: object) -> ClassNulls:
    entry = Fields.of(path, where, content, ["least_bases", "scores"])
    scores = entry.items("scores", MOST_SCORES)
    if not scores or not all(type(score) in (int, float) and abs(score) <= STEEPEST for score in scores):
        raise entry.wrong("scores", f"must be numbers of at most {STEEPEST:g}, at least one")
    if any(after < before for before, after in pairwise(scores)):
        raise entry.wrong("scores", "must ascend")
    return ClassNulls(least_bases=_least_bases(entry), scores=tuple(float(score) for score in scores))


def _least_bases(entry: Fields) -> int:
    value = entry.whole("least_bases", CLASS_BASES[0], CLASS_BASES[-1])
    if value not in CLASS_BASES:
        raise entry.wrong("least_bases", f"must be one of {', '.join(map(str, CLASS_BASES))}, not {value}")
    return value


def _within(entry: Fields, name: str, least: float, most: float) -> float:
    value = entry.real(name)
    if not least <= value <= most:
        raise entry.wrong(name, f"must be from {least:g} to {most:g}, not {shown(value)}")
    return value


def _share(entry: Fields, name: str) -> float | None:
    """A number between 0 and 1, neither of them, or None."""
    value = entry.real_or_none(name)
    if value is not None and not (math.isfinite(value) and 0 < value < 1):
        raise entry.wrong(name, f"must be between 0 and 1, not {shown(value)}")
    return value
