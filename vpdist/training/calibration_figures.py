"""How much a calibration improves probabilities, on the test side, per length class.

Before: virus score / (virus score + other score). After: the probability at the class's own share of viruses on the
test side, which is what a sample of that content would get.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vpdist.calibration.calibrated import Calibration
from vpdist.calibration.judgement import Evidence, probabilities
from vpdist.calibration.scores import CLASS_BASES, class_of, log_odds
from vpdist.training.metrics import Judged, with_intervals

FIGURES = ("ece", "brier")


def calibration_figures(
    evidence: Evidence,
    virus: np.ndarray,
    group: np.ndarray,
    calibration: Calibration,
    *,
    resamples: int,
    seed: int,
    raise_if_ending: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """By least bases of each length class that is calibrated: how many sequences of the test side were judged, and
    ECE and Brier score before and after, with 95 % intervals over groups. Classes without one of the labels are left
    out.

    Args: all (n,), of the test side's sequences.
    """
    score = log_odds(evidence.virus, evidence.nonvirus)
    log_ratio = calibration.log_likelihood_ratio(score, evidence.bases)
    share = evidence.virus / (evidence.virus + evidence.nonvirus)
    number = class_of(evidence.bases)
    table: dict[str, Any] = {}
    for each in calibration.classes:
        here = (number == CLASS_BASES.index(each.least_bases)) & ~np.isnan(log_ratio)
        viruses, n = int(virus[here].sum()), int(here.sum())
        if not 0 < viruses < n:
            continue
        after = probabilities(log_ratio[here], viruses / n)
        found: dict[str, Any] = {"n": n, "virus": viruses, "groups": len(np.unique(group[here]))}
        for name, values in (("before", share[here]), ("after", after)):
            figures = with_intervals(Judged.of(virus[here], values, group[here]), resamples, seed, raise_if_ending)
            found[name] = {figure: figures[figure] for figure in FIGURES}
        table[str(each.least_bases)] = found
    return table
