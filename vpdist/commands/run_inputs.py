"""The inputs of a run: encoder folders, classifier, sequence files, and the resolved configuration.

Rank 0 resolves and records; every node compares its copies of the weights with rank 0's, every rank its classifier.
"""

from __future__ import annotations

import filecmp
import json
import logging
import platform
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import vpdist
from vpdist.commands import resolve_config
from vpdist.commands.input_list import read_list
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
    """What the stages start from."""

    models: dict[str, Path]
    """Folder of each encoder by kind."""
    classifier: Classifier | None
    paths: list[Path]
    """Of each input; standard input has been copied to a file."""
    resolved: ResolvedConfig


def resolve_inputs(settings: Settings, session: Session) -> RunInputs:
    """Resolve and check encoders, classifier and input, on every rank.

    Raises InputError, WeightsError, StorageError; UsageError where the folder's run has another configuration.
    """
    models = _models(settings, session)
    classifier = load_classifier(settings.classifier) if settings.classifier else None
    if classifier is not None:
        widths = [encoder_shape(models[kind]).width for kind in CLASSIFIED]
        resolve_config.check_classifier(classifier, str(settings.classifier), widths, settings.chunk_length)
    settings = _with_listed_inputs(settings, session)
    if "-" in settings.inputs:  # a launcher passes standard input to one rank only
        session.control.broadcast_from_rank_0("spool", lambda: str(_spool(session, session.folder.spool)))
    paths = [session.folder.spool if name == "-" else Path(name) for name in settings.inputs]

    def make() -> str:
        runtime = session.control.runtime
        return resolve_config.resolve_config(
            settings, runtime.context, runtime.device, session.folder, models, classifier, paths
        ).to_json()

    resolved = ResolvedConfig.from_json(session.control.broadcast_from_rank_0("decisions", make))
    logger.info("resolved configuration: %s", resolved)
    _compare_with_rank_0(session, models, classifier, resolved)
    return RunInputs(models, classifier, paths, resolved)


def record_inputs(settings: Settings, session: Session, inputs: RunInputs) -> None:
    """On rank 0: write the run's inputs to run.json and report them. Raises StorageError."""
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


def _with_listed_inputs(settings: Settings, session: Session) -> Settings:
    """The settings with the inputs that --files-from names after the others; rank 0 reads the list.

    Raises InputError, UsageError.
    """
    if settings.files_from is None:
        return settings
    given = settings.files_from

    def read() -> str:
        path = _spool(session, session.folder.input_list) if given == "-" else Path(given)
        return json.dumps(read_list(path, given))

    listed = json.loads(session.control.broadcast_from_rank_0("files-from", read))
    return replace(settings, inputs=(*settings.inputs, *listed))


def _models(settings: Settings, session: Session) -> dict[str, Path]:
    """Folder of each encoder; the first rank of a node downloads, the others wait."""
    control, context = session.control, session.control.runtime.context
    folders = {}
    for kind, model in settings.models.items():
        key = f"model/{context.node}/{kind}"
        if context.local_rank == 0:
            control.publish(key, str(resolve_model(model, offline=settings.offline)))
        folders[kind] = Path(control.wait_for(key))
        if (actual := encoder_shape(folders[kind]).kind) != kind:
            raise WeightsError(f"{KINDS[kind].option} {model}: is a {actual} encoder")
    return folders


def _spool(session: Session, target: Path) -> Path:
    """Copy standard input to `target` in the run folder; when resumed, compare it with that copy, unless it is empty.

    Raises UsageError when it differs, or when an earlier attempt of this launch has consumed it.
    """
    folder, raise_if_ending = session.folder, session.control.raise_if_ending
    if not target.exists():
        if session.control.runtime.attempt:
            raise UsageError("standard input was consumed by an attempt that was lost; pipe it in again")
        return spool_stdin(target, raise_if_ending)
    again = spool_stdin(target.with_suffix(".again"), raise_if_ending)
    try:
        if again.stat().st_size == 0:
            session.progress.message("standard input is empty: continuing with what was read from it before")
        elif not filecmp.cmp(target, again, shallow=False):
            raise UsageError(
                f"{folder.path} belongs to another configuration: standard input differs from what was read before; "
                f"use another folder, or --restart to discard its content"
            )
    finally:
        again.unlink()
    return target


def _compare_with_rank_0(
    session: Session, models: dict[str, Path], classifier: Classifier | None, resolved: ResolvedConfig
) -> None:
    """Raises WeightsError when this node's weights or this rank's classifier differ from rank 0's."""
    context = session.control.runtime.context
    for kind, folder in models.items():
        if context.local_rank == 0 and context.rank != 0 and model_fingerprint(folder) != resolved.models[kind]:
            raise WeightsError(f"{platform.node()}:{folder}: is another {kind} model than on rank 0")
    if classifier is not None and classifier.fingerprint != resolved.classifier:
        raise WeightsError(f"{platform.node()}: the classifier is another one than on rank 0")
