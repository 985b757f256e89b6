"""The inputs of a run: encoder folders, classifier, sequence files, and the resolved configuration.

Rank 0 resolves and records; every node compares its copies of the weights with rank 0's, every rank its classifier.
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
from vpdist.commands import input_identity, resolve_config
from vpdist.config import ResolvedConfig, Settings
from vpdist.encoder_kinds import CLASSIFIED, KINDS
from vpdist.encoders.encoder import DTYPES, choose_dtype, load_encoder
from vpdist.encoders.hub import resolve_model
from vpdist.encoders.shape import encoder_shape
from vpdist.encoders.weights import model_fingerprint
from vpdist.errors import UsageError, WeightsError
from vpdist.results.classifier import Classifier, load_classifier
from vpdist.sequences.records import read_records, require_piped_input, spool_stdin
from vpdist.sequences.tokenizers import load_tokenizer
from vpdist.session.coordination import Control
from vpdist.session.session import Session
from vpdist.storage.run_folder import RunFolder

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
    classifier = _classifier(settings, models)
    if "-" in settings.inputs:  # a launcher passes standard input to one rank only
        session.control.broadcast_from_rank_0("spool", lambda: str(_spool(session)))
    paths = [session.folder.spool if name == "-" else Path(name) for name in settings.inputs]

    def make() -> str:
        runtime, folder = session.control.runtime, session.folder
        found = input_identity.input_identity(settings.inputs, paths)
        options = (settings, runtime.context, runtime.device, folder, models, classifier)
        resolved = resolve_config.resolve_config(*options, found)
        input_identity.refuse_other_content(session, resolved, found, paths)
        return resolved.to_json()

    resolved = ResolvedConfig.from_json(session.control.broadcast_from_rank_0("decisions", make))
    logger.info("resolved configuration: %s", resolved)
    _compare_with_rank_0(session, models, classifier, resolved)
    return RunInputs(models, classifier, paths, resolved)


def check_inputs(settings: Settings, control: Control) -> None:
    """On rank 0, before an earlier run is discarded: what would end the new one is told now.

    Models are loaded, and every input is read to its end, but for standard input, which can be read once only. Raises
    UsageError, InputError, WeightsError.
    """
    models = {kind: resolve_model(model, offline=settings.offline) for kind, model in settings.models.items()}
    for kind, folder in models.items():
        _check_kind(kind, folder, settings.models[kind])
    _classifier(settings, models)
    if "-" in settings.inputs:
        require_piped_input()
    names = [name for name in settings.inputs if name != "-"]
    paths = [Path(name) for name in names]
    for path in paths:
        if RunFolder(settings.output).would_discard(path):
            raise UsageError(f"{path}: --restart would discard it; copy it to another folder first")
    input_identity.input_identity(names, paths)
    device = control.runtime.device
    for kind, folder in models.items():
        load_tokenizer(kind, folder)
        load_encoder(folder, kind, DTYPES[choose_dtype(settings.dtype, device)], device)
        control.raise_if_ending()
    for _ in read_records(paths):
        control.raise_if_ending()


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


def _models(settings: Settings, session: Session) -> dict[str, Path]:
    """Folder of each encoder; the first rank of a node downloads, the others wait."""
    control, context = session.control, session.control.runtime.context
    folders = {}
    for kind, model in settings.models.items():
        key = f"model/{context.node}/{kind}"
        if context.local_rank == 0:
            control.publish(key, str(resolve_model(model, offline=settings.offline)))
        folders[kind] = Path(control.wait_for(key))
        _check_kind(kind, folders[kind], model)
    return folders


def _check_kind(kind: str, folder: Path, model: str) -> None:
    if (actual := encoder_shape(folder).kind) != kind:
        raise WeightsError(f"{KINDS[kind].option} {model}: is a {actual} encoder")


def _classifier(settings: Settings, models: dict[str, Path]) -> Classifier | None:
    """The classifier, if any, checked against the encoders. Raises WeightsError."""
    if settings.classifier is None:
        return None
    classifier = load_classifier(settings.classifier)
    widths = [encoder_shape(models[kind]).width for kind in CLASSIFIED]
    resolve_config.check_classifier(classifier, str(settings.classifier), widths, settings.chunk_length)
    return classifier


def _spool(session: Session) -> Path:
    """Copy standard input to the run folder; when resumed, compare it with that copy, unless it is empty.

    Raises UsageError when it differs, or when an earlier attempt of this launch has consumed it.
    """
    folder, raise_if_ending = session.folder, session.control.raise_if_ending
    if not folder.spool.exists():
        if session.control.runtime.attempt:
            raise UsageError("standard input was consumed by an attempt that was lost; pipe it in again")
        return spool_stdin(folder.spool, raise_if_ending)
    again = spool_stdin(folder.spool.with_suffix(".again"), raise_if_ending)
    try:
        if again.stat().st_size == 0:
            session.progress.message("standard input is empty: continuing with what was read from it before")
        elif not filecmp.cmp(folder.spool, again, shallow=False):
            raise UsageError(
                f"{folder.path} belongs to another configuration: standard input differs from what was read before; "
                f"use another folder, or --restart to discard its content"
            )
    finally:
        again.unlink()
    return folder.spool


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
