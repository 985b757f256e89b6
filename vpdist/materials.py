"""What a run is made of: the folders of its encoders, its classifier, its input, and the decisions results depend on.

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
from vpdist import decide
from vpdist.classifier import Classifier, load_classifier
from vpdist.config import Decisions, Settings
from vpdist.encoder_kinds import CLASSIFIED, KINDS
from vpdist.errors import UsageError, WeightsError
from vpdist.records import spool_stdin
from vpdist.session import Session
from vpdist.weights import encoder_shape, model_fingerprint, resolve_model

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Materials:
    """All that the stages start from."""

    models: dict[str, Path]
    """Folder of each encoder by kind."""
    classifier: Classifier | None
    paths: list[Path]
    """Where each input can be read."""
    decisions: Decisions


def gather(settings: Settings, session: Session) -> Materials:
    """Resolve and check what the user named, on every rank.

    Raises InputError, WeightsError, StorageError; UsageError where the folder's run was made of other things.
    """
    models = _models(settings, session)
    classifier = load_classifier(settings.classifier) if settings.classifier else None
    if classifier is not None:
        widths = [encoder_shape(models[kind]).width for kind in CLASSIFIED]
        decide.check_classifier(classifier, str(settings.classifier), widths, settings.chunk_length)
    paths = _inputs(settings, session)
    decisions = _decisions(settings, session, models, classifier, paths)
    _compare(session, models, classifier, decisions)
    return Materials(models, classifier, paths, decisions)


def record(settings: Settings, session: Session, made_of: Materials) -> None:
    """Rank 0: write to run.json what the run is made of, and tell people. Raises StorageError."""
    runtime, decisions = session.control.runtime, made_of.decisions
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
        decisions=decisions.to_dict(),
        models={kind: str(folder) for kind, folder in made_of.models.items()},
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    session.progress.message(
        f"{runtime.world_size} rank(s) on {decisions.device}, {decisions.dtype}, "
        f"{decisions.token_budget} tokens a batch, {decisions.threads} thread(s) per rank"
    )


def _models(settings: Settings, session: Session) -> dict[str, Path]:
    """Folder of each encoder; the first rank of a node downloads, the others wait."""
    control, place = session.control, session.control.runtime.place
    folders = {}
    for kind, model in settings.models.items():
        key = f"model/{place.node}/{kind}"
        if place.local_rank == 0:
            control.publish(key, str(resolve_model(model, offline=settings.offline)))
        folders[kind] = Path(control.wait_for(key))
        found = encoder_shape(folders[kind]).kind
        if found != kind:
            raise WeightsError(f"{KINDS[kind].option} {model}: is a {found} encoder")
    return folders


def _inputs(settings: Settings, session: Session) -> list[Path]:
    """Where each input can be read; rank 0 spools standard input, which only one worker is given."""
    if "-" in settings.inputs:
        session.control.from_first("spool", lambda: str(_spool(session)))
    return [session.folder.spool if name == "-" else Path(name) for name in settings.inputs]


def _spool(session: Session) -> Path:
    """Keep standard input in the run folder; when resumed, compare what comes now with what came before.

    Raises UsageError when it differs, or when an earlier attempt of this launch has used it up. Nothing at all is
    taken as "the same again".
    """
    folder, check = session.folder, session.control.check
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


def _decisions(
    settings: Settings,
    session: Session,
    models: dict[str, Path],
    classifier: Classifier | None,
    paths: list[Path],
) -> Decisions:
    """Rank 0 decides, or finds what was decided."""

    def make() -> str:
        runtime = session.control.runtime
        decisions = decide.decide(
            settings,
            runtime.place,
            runtime.device,
            session.folder,
            inputs=decide.input_identity(settings.inputs, paths),
            models={kind: model_fingerprint(folder) for kind, folder in models.items()},
            shapes={kind: encoder_shape(folder) for kind, folder in models.items()},
            classifier=classifier.fingerprint if classifier is not None else None,
        )
        return decisions.to_json()

    decisions = Decisions.from_json(session.control.from_first("decisions", make))
    log.info("decisions: %s", decisions)
    return decisions


def _compare(session: Session, models: dict[str, Path], classifier: Classifier | None, decisions: Decisions) -> None:
    """Raises WeightsError when this node's weights or this rank's classifier are not those rank 0 decided on."""
    place = session.control.runtime.place
    for kind, folder in models.items():
        if place.local_rank == 0 and place.rank != 0 and model_fingerprint(folder) != decisions.models[kind]:
            raise WeightsError(f"{platform.node()}:{folder}: is another {kind} model than rank 0 reads")
    if classifier is not None and classifier.fingerprint != decisions.classifier:
        raise WeightsError(f"{platform.node()}: the classifier is another one than rank 0 reads")
