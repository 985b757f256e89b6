"""The calibration by which a run's tables are judged: that of its model, or what the run folder keeps of it."""

from __future__ import annotations

import contextlib
import json

from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.calibration.judgement import Choice
from vpdist.calibration.judging import Judging
from vpdist.calibration.scores import CALIBRATED_CONSENSUS
from vpdist.config import Settings
from vpdist.errors import StorageError, UsageError, WeightsError
from vpdist.models.bundle import MODEL_FILE_LIMIT, Bundle
from vpdist.models.calibration_fields import judging_from_json
from vpdist.storage.atomic_files import read_limited, storage_error
from vpdist.storage.run_folder import RunFolder

JUDGED_ANEW = (
    "warning: the tables that were here had been judged by an earlier version, which took any estimated share of "
    "viruses and called sequences of any length; their calls may have changed"
)


def choice_of(settings: Settings) -> Choice:
    """What the user chose of a judgement."""
    return Choice(preset=settings.preset, max_fdr=settings.max_fdr, prevalence=settings.prevalence)


def judging_of(bundle: Bundle | None, choice: Choice, consensus: str) -> Judging | None:
    """How scores of the model that makes the calls are judged; None where nothing is known of them: without a model,
    of a model without a calibration, for another consensus than that of the calibration.

    Raises UsageError where the user has chosen something that would have no effect then.
    """
    reason = _unknown(bundle, consensus)
    if bundle is None or reason:
        if choice != Choice():
            given = [name for name in ("prevalence", "max_fdr") if getattr(choice, name) is not None]
            options = [f"--{name.replace('_', '-')}" for name in given] or [f"--{choice.preset}"]
            raise UsageError(f"{' and '.join(options)}: {reason}")
        return None
    return Judging(
        model=bundle.model.name,
        calibration=bundle.model.calibration or Calibration(()),
        null_scores=bundle.model.null_scores or NullScores(()),
        choice=choice,
    )


def _unknown(bundle: Bundle | None, consensus: str) -> str:
    """Why nothing is known of the scores, '' where something is."""
    if bundle is None:
        return "the calls are those of a classifier without a model, which has no calibration"
    if bundle.model.calibration is None:
        return f"model {bundle.model.name} has no calibration"
    if consensus != CALIBRATED_CONSENSUS:
        return f"--consensus {consensus} has no calibration, only {CALIBRATED_CONSENSUS} has"
    return ""


def kept_judging(folder: RunFolder) -> Judging:
    """How the tables in `folder` were judged. Raises StorageError where its file cannot be read or is none."""
    path = folder.calibration
    try:
        content = read_limited(path, MODEL_FILE_LIMIT)
    except OSError as error:
        raise storage_error(path, error, "read") from error
    try:
        return judging_from_json(path, json.loads(content))
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path}: cannot be read as JSON: {error}") from error
    except WeightsError as error:
        raise StorageError(str(error)) from error


def judged_anew(folder: RunFolder, judging: Judging | None) -> list[str]:
    """What people must be told where an earlier version has judged the tables in `folder` by other rules than those of
    the `judging` that is about to judge them."""
    if judging is None or not judging.cautious or not folder.calibration.exists():
        return []
    with contextlib.suppress(StorageError):  # it is damaged, and about to be written anew
        return [JUDGED_ANEW] * (not kept_judging(folder).cautious)
    return []
