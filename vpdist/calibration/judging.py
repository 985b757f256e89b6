"""All that makes a judgement of a run's scores, as it is kept beside its tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.judgement import Choice, Evidence, Judgement, described, judge
from vpdist.calibration.prevalence import ASSUMED, ESTIMATED, LEAST_SEQUENCES, MOST_BELIEVED

FORMAT = "vpdist-calibration-1"
NEARLY_ALL = (
    "warning: nearly all sequences look like viruses to this model. If the sample is known to be viral, say so: "
    "--prevalence 0.95. If not, they are unlike what the model was calibrated on, and its probabilities, q-values and "
    "calls mean little"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """A model's calibration, and what the user chose."""

    model: str
    """Name of the model."""
    calibration: Calibration
    null_scores: NullScores
    choice: Choice
    most_believed: float = MOST_BELIEVED
    """An estimate of the share of viruses above this is not taken; 1 in runs made before there was a limit."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `models.calibration_fields` reads it."""
        return {"format": FORMAT} | asdict(self)

    def judge(self, evidence: Evidence) -> Judgement:
        return judge(evidence, self.calibration, self.null_scores, self.choice, self.most_believed)

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
    interval = "" if share["low"] is None else f" ({share['low']:.3g} to {share['high']:.3g})"
    if share["origin"] == ESTIMATED:
        return [f"share of viruses {share['value']:.3g}{interval}, estimated"]
    told, another = f"share of viruses {share['value']:.3g}, {share['origin']}", "; --prevalence gives another"
    if interval:
        estimate = f"the estimate, {share['estimate']:.3g}{interval}, is above {MOST_BELIEVED:g}"
        return [f"{told}, as {estimate}{another}", NEARLY_ALL]
    return [
        told + f", as fewer than {LEAST_SEQUENCES} sequences are calibrated" * (share["origin"] == ASSUMED) + another
    ]
