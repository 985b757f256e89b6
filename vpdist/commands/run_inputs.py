"""What a run is made of: the folders of its encoders, its classifier, its input, and the resolved results depend on.

Rank 0 decides and records; every node compares its own copies of the weights, every rank its classifier.
"""

from __future__ import annotations

import filecmp
import logging
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import vpdist
from vpdist.commands import resolve_config
from vpdist.config import ResolvedConfig, Settings
from vpdist.encoder_kinds import CLASSIFIED, KINDS
from vpdist.encoders.hub import resolve_model
from vpdist.encoders.shape import encoder_shape
from vpdist.encoders.weights import model_fingerprint
from vpdist.errors import UsageError, WeightsError
from vpdist.results.classifier import Classifier, load_classifier
from vpdist.sequences.records import spool_stdin
from vpdist.session.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunInputs:
    """All that the stages start from."""

    models: dict[str, Path]
    """Folder of each encoder by kind."""
    classifier: Classifier | None
    paths: list[Path]
    """Where each input can be read."""
    resolved: ResolvedConfig


def resolve_inputs(settings: Settings, session: Session) -> RunInputs:
    """Resolve and check what the user named, on every rank.

    Raises InputError, WeightsError, StorageError; UsageError where the folder's run was made of other things.
    """
    models = _models(settings, session)
    classifier = load_classifier(settings.classifier) if settings.classifier else None
    if classifier is not None:
        widths = [encoder_shape(models[kind]).width for kind in CLASSIFIED]
        resolve_config.check_classifier(classifier, str(settings.classifier), widths, settings.chunk_length)
    paths = _inputs(settings, session)
    resolved = _resolved_config(settings, session, models, classifier, paths)
    _compare_with_rank_0(session, models, classifier, resolved)
    return RunInputs(models, classifier, paths, resolved)


def record_inputs(settings: Settings, session: Session, inputs: RunInputs) -> None:
    """Rank 0: write to run.json what the run is made of, and tell people. Raises StorageError."""
    runtime, resolved = session.control.runtime, inputs.resolved
    session.folder.update_run(
        command=sys.argv,
        versions={
            "vpdist": vpdist.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        host=platform.node(),
        world_size=runtime.world_size,
        launcher_restarts=runtime.attempt,
        settings=settings.to_dict(),
        decisions=resolved.to_dict(),
        models={kind: str(folder) for kind, folder in inputs.models.items()},
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    session.progress.message(
        f"{runtime.world_size} rank(s) on {resolved.device}, {resolved.dtype}, "
        f"{resolved.token_budget} tokens a batch, {resolved.threads} thread(s) per rank"
    )


def _models(settings: Settings, session: Session) -> dict[str, Path]:
    """Folder of each encoder; the first rank of a node downloads, the others wait."""
    control, context = session.control, session.control.runtime.context
    folders = {}
    for kind, model in settings.models.items():
        key = f"model/{context.node}/{kind}"
        if context.local_rank == 0:
            control.publish(key, str(resolve_model(model, offline=settings.offline)))
        folders[kind] = Path(control.wait_for(key))
        found = encoder_shape(folders[kind]).kind
        if found != kind:
            raise WeightsError(f"{KINDS[kind].option} {model}: is a {found} encoder")
    return folders


def _inputs(settings: Settings, session: Session) -> list[Path]:
    """Where each input can be read; rank 0 spools standard input, which only one worker is given."""
    if "-" in settings.inputs:
        session.control.broadcast_from_rank_0("spool", lambda: str(_spool(session)))
    return [session.folder.spool if name == "-" else Path(name) for name in settings.inputs]


def _spool(session: Session) -> Path:
    """Keep standard input in the run folder; when resumed, compare what comes now with what came before.

    Raises UsageError when it differs, or when an earlier attempt of this launch has used it up. Nothing at all is
    taken as "the same again".
    """
    folder, check = session.folder, session.control.raise_if_ending
    if not folder.spool.exists():
        if session.control.runtime.attempt:
            raise UsageError("standard input was used up by an attempt that was lost; pipe it in again")
        return spool_stdin(folder.spool, check)
    again = spool_stdin(folder.spool.with_suffix(".again"), check)
    try:
        if again.stat().st_size == 0:
            session.progress.message("standard input is empty: going on with what was read from it before")
        elif not filecmp.cmp(folder.spool, again, shallow=False):
            raise UsageError(
                f"{folder.path} belongs to another configuration: standard input differs from what was read before; "
                f"use another folder, or --restart to discard what it holds"
            )
    finally:
        again.unlink()
    return folder.spool


def _resolved_config(
    settings: Settings,
    session: Session,
    models: dict[str, Path],
    classifier: Classifier | None,
    paths: list[Path],
) -> ResolvedConfig:
    """Rank 0 decides, or finds what was decided."""

    def make() -> str:
        runtime = session.control.runtime
        resolved = resolve_config.resolve_config(
            settings,
            runtime.context,
            runtime.device,
            session.folder,
            inputs=resolve_config.input_identity(settings.inputs, paths),
            models={kind: model_fingerprint(folder) for kind, folder in models.items()},
            shapes={kind: encoder_shape(folder) for kind, folder in models.items()},
            classifier=classifier.fingerprint if classifier is not None else None,
        )
        return resolved.to_json()

    resolved = ResolvedConfig.from_json(session.control.broadcast_from_rank_0("decisions", make))
    logger.info("decisions: %s", resolved)
    return resolved


def _compare_with_rank_0(
    session: Session, models: dict[str, Path], classifier: Classifier | None, resolved: ResolvedConfig
) -> None:
    """Raises WeightsError when this node's weights or this rank's classifier are not those rank 0 decided on."""
    context = session.control.runtime.context
    for kind, folder in models.items():
        if context.local_rank == 0 and context.rank != 0 and model_fingerprint(folder) != resolved.models[kind]:
            raise WeightsError(f"{platform.node()}:{folder}: is another {kind} model than rank 0 reads")
    if classifier is not None and classifier.fingerprint != resolved.classifier:
        raise WeightsError(f"{platform.node()}: the classifier is another one than rank 0 reads")
