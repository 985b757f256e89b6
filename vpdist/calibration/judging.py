"""All that makes a judgement of a run's scores, as it is kept beside its tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.judgement import Choice, Evidence, Judgement, described, judge
from vpdist.calibration.prevalence import ASSUMED, ESTIMATED, LEAST_SEQUENCES

FORMAT = "vpdist-calibration-1"
MOST_BELIEVED = 0.95
"""Estimates of the share of viruses above this are told with a warning."""
NEARLY_ALL = (
    "warning: nearly all sequences look like viruses to this model: if the sample is not known to be viral, they are "
    "unlike what the model was calibrated on, and its probabilities, q-values and calls mean nothing; see --prevalence"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """A model's calibration, and what the user chose."""

    model: str
    """Name of the model."""
    calibration: Calibration
    null_scores: NullScores
    choice: Choice

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `models.calibration_fields` reads it."""
        return {"format": FORMAT} | asdict(self)

    def judge(self, evidence: Evidence) -> Judgement:
        return judge(evidence, self.calibration, self.null_scores, self.choice)

    def described(self, judgement: Judgement, evidence: Evidence) -> dict[str, Any]:
        """What run.json keeps of a judgement."""
        return {"model": self.model} | described(judgement, evidence, self.null_scores, self.choice)


def lines(kept: dict[str, Any]) -> list[str]:
    """What the user reads of a judgement (`Judging.described`) at the end."""
    calls = kept["calls"]
    most = kept["most_false"]
    at_most = "" if most is None else f", at most {most:,} with {kept['confidence']:.0%} confidence"
    told = (
        f"{calls['virus']:,} virus at q <= {kept['max_fdr']:g} ({kept['preset']}), expected false "
        f"{kept['expected_false']:.3g}{at_most}; {calls['uncertain']:,} uncertain, {calls['non-virus']:,} non-virus, "
        f"{calls['NA']:,} not calibrated"
    )
    return [told, *_share_lines(kept)]


def _share_lines(kept: dict[str, Any]) -> list[str]:
    share, n = kept["prevalence"], kept["calibrated_sequences"]
    if not n:
        return []
    if share["origin"] == ESTIMATED:
        told = f"share of viruses {share['value']:.3g} ({share['low']:.3g} to {share['high']:.3g}), estimated"
        return [told, *[NEARLY_ALL] * (share["value"] > MOST_BELIEVED)]
    reason = f", as fewer than {LEAST_SEQUENCES} sequences are calibrated" if share["origin"] == ASSUMED else ""
    return [f"share of viruses {share['value']:.3g}, {share['origin']}{reason}; --prevalence gives another"]
