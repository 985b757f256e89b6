"""All that makes a judgement of a run's scores, as it is kept beside its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.judgement import Choice, Evidence, Judgement, described, judge
from vpdist.calibration.prevalence import ASSUMED, GIVEN, LEAST_SEQUENCES, MOST_BELIEVED
from vpdist.text import number_of

FORMAT = "vpdist-calibration-1"
NEARLY_ALL = (
    "warning: nearly all sequences look like viruses to this model. If the sample is known to be viral, say so: "
    "--prevalence 0.95. If not, they are unlike what the model was calibrated on, and its probabilities, q-values and "
    "calls mean little"
)

TOO_LONG = (
    "warning: %s no call, as the model is calibrated for up to %s scored bases. Train it with "
    "longer sequences of both labels"
)
BY_SCORE = (
    "as no sequence has a call, virus.tsv, virus.fna.gz and summary.tsv go by the larger score (column `prediction`)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """A model's calibration, and what the user chose."""

    model: str
    """Name of the model."""
    calibration: Calibration
    null_scores: NullScores
    choice: Choice
    cautious: bool = True
    """See `judgement.judge`; false in runs of versions that were not."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `models.calibration_fields` reads it."""
        return {"format": FORMAT} | asdict(self)

    def judge(self, evidence: Evidence) -> Judgement:
        return judge(evidence, self.calibration, self.null_scores, self.choice, cautious=self.cautious)

    def described(self, judgement: Judgement, evidence: Evidence) -> dict[str, Any]:
        """What run.json keeps of a judgement."""
        too_long = ~np.isnan(evidence.virus) & ~self.calibration.reaches(evidence.bases)
        beyond = {"most_bases": self.calibration.most_bases, "longer": int(too_long.sum()) * self.cautious}
        return {"model": self.model} | described(judgement, evidence, self.null_scores, self.choice) | beyond


def lines(kept: dict[str, Any]) -> list[str]:
    """What the user reads of a judgement (`Judging.described`) at the end, but for its `warnings`."""
    calls = kept["calls"]
    most = kept["most_false"]
    at_most = "" if most is None else f", at most {most:,} with {kept['confidence']:.0%} confidence"
    told = (
        f"{calls['virus']:,} virus at q <= {kept['max_fdr']:g} ({kept['preset']}), expected false "
        f"{kept['expected_false']:.3g}{at_most}; {calls['uncertain']:,} uncertain, {calls['non-virus']:,} non-virus, "
        f"{calls['NA']:,} not calibrated"
    )
    share = share_text(kept)
    another = "; --prevalence gives another" if share and kept["prevalence"]["origin"] == ASSUMED else ""
    return [told, *by_score(kept), *[f"share of viruses {share}{another}"] * bool(share)]


def by_score(kept: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of the files of viruses where no sequence has a call."""
    return [BY_SCORE] * (kept["calls"]["NA"] > 0 and not kept["calibrated_sequences"])


def warnings(kept: Mapping[str, Any]) -> list[str]:
    """What a reader has to know before the calls of a judgement. `kept` may lack what earlier versions did not keep."""
    told = [TOO_LONG % (_have(kept["longer"]), f"{kept['most_bases']:,}")] if kept.get("longer") else []
    share = kept.get("prevalence")
    if not isinstance(share, Mapping) or share.get("origin") == GIVEN:
        return told
    estimate = share.get("estimate", share.get("value"))
    return told + [NEARLY_ALL] * (isinstance(estimate, float) and estimate > MOST_BELIEVED)


def _have(n: int) -> str:
    return f"{number_of(n, 'scored sequence')} {'has' if n == 1 else 'have'}"


def share_text(kept: Mapping[str, Any]) -> str:
    """The share of viruses that a judgement took, and why; '' where nothing is calibrated or it is not known."""
    share = kept.get("prevalence")
    if not isinstance(share, Mapping) or not kept.get("calibrated_sequences"):
        return ""
    value, estimate, low, high = (_short(share.get(name)) for name in ("value", "estimate", "low", "high"))
    interval = f" ({low} to {high})" if low and high else ""
    if share.get("origin") != ASSUMED:
        return f"{value}{interval}, {share.get('origin')}"
    if not estimate:
        return f"{value}, {ASSUMED}, as fewer than {LEAST_SEQUENCES} sequences are calibrated"
    return f"{value}, {ASSUMED}, as the estimate, {estimate}{interval}, is above {MOST_BELIEVED:g}"


def _short(share: object) -> str:
    return f"{share:.3g}" if isinstance(share, int | float) else ""
