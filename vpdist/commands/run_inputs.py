"""The inputs of a run: encoder folders, classifier, sequence files, and the resolved configuration.

Rank 0 resolves and records in run.json; every other rank compares its device, and the weights and the classifier that
it will load, with what is recorded there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vpdist.commands import input_identity, manifest_inputs, resolve_config, retry
from vpdist.commands.early_checks import check_kind
from vpdist.commands.input_list import read_list
from vpdist.commands.piped_input import piped_names, spooled
from vpdist.commands.platforms import platform_here
from vpdist.commands.recorded_by_rank_0 import publish_recorded, rank_named, recorded_by_rank_0
from vpdist.commands.run_calibration import choice_of, judging_of
from vpdist.commands.run_record import runs_with, this_run
from vpdist.config import InputIdentity, ResolvedConfig, Settings
from vpdist.distributed.device import gpus_left_out
from vpdist.encoders.encoder import DTYPES, load_encoder
from vpdist.encoders.hub import resolve_model
from vpdist.encoders.model_files import ModelFiles, fingerprinted
from vpdist.encoders.shape import encoder_shape
from vpdist.errors import UsageError, WeightsError
from vpdist.models import choose
from vpdist.models.load_heads import load_heads
from vpdist.results.classifier_kinds import refuse_missing
from vpdist.results.heads import Heads
from vpdist.sequences.input_files import call_while_waiting
from vpdist.sequences.read_objects import ReadObject
from vpdist.sequences.records import read_records
from vpdist.sequences.standard_input import require_piped_input
from vpdist.sequences.tokenizers import load_tokenizer
from vpdist.session.coordination import Control
from vpdist.session.session import Session
from vpdist.storage.atomic_files import read_json
from vpdist.storage.downloads import Listener
from vpdist.storage.run_folder import RunFolder
from vpdist.text import bytes_text, number_of
from vpdist.urls import InputPath, input_path

logger = logging.getLogger(__name__)


class Waiting(Listener):
    """A download inside a run: it ends when the run must, and tells its user what it does."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def begin(self, what: str, missing: int, n_files: int) -> None:
        self.tell(f"{what}: downloading {n_files} files, {bytes_text(missing)}")

    def advance(self, n_bytes: int) -> None:
        self._control.raise_if_ending()

    def tell(self, text: str) -> None:
        logger.info("%s", text)
        if self._control.is_first and self._control.progress is not None:
            self._control.progress.message(text)


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What the stages start from."""

    files: Mapping[str, ModelFiles]
    """Of each encoder by kind."""
    classifier: Heads | None
    paths: list[InputPath]
    """Of each input; standard input has been copied to a file."""
    resolved: ResolvedConfig
    found: InputIdentity = ()
    """On rank 0: the input as it is now, which may have other names and times than the recorded one."""
    identities: tuple[input_identity.InputState, ...] = ()
    """On rank 0: of each input, when its content was looked at; none of a manifest's."""
    by_object: bool = False
    """Whether the inputs are those of a manifest, each with blocks, plan and failures of its own."""
    objects: tuple[ReadObject, ...] = ()
    """On rank 0: those of a manifest."""

    @property
    def models(self) -> dict[str, Path]:
        """Folder of each encoder by kind."""
        return {kind: files.folder for kind, files in self.files.items()}


def resolve_inputs(settings: Settings, session: Session) -> RunInputs:
    """Resolve and check encoders, classifier and input, on every rank. Rank 0 records them in run.json.

    Raises InputError, WeightsError, StorageError; UsageError where the folder's run has another configuration.
    """
    settings = choose.applied(settings, Waiting(session.control))
    models = _models(settings, session)
    classifier = _classifier(settings, models)
    settings = _with_listed_inputs(settings, session)
    if "-" in settings.inputs:  # a launcher passes standard input to one rank only
        session.control.broadcast_from_rank_0("spool", lambda: str(spooled(session)))
    paths = [session.folder.spool if name == "-" else input_path(name) for name in settings.inputs]
    if session.control.is_first:
        input_identity.refuse_large_record(settings.inputs, input_identity.input_paths(settings.inputs, paths))
        inputs = _resolve(settings, session, models, classifier, paths)
        _record(settings, session, inputs)
    else:
        files = {kind: fingerprinted(folder) for kind, folder in models.items()}
        inputs = RunInputs(
            files, classifier, paths, recorded_by_rank_0(session), by_object=settings.manifest is not None
        )
        _refuse_other_weights(session, inputs)
    logger.info("resolved configuration: %s", inputs.resolved)
    return inputs


def _resolve(
    settings: Settings,
    session: Session,
    models: Mapping[str, Path],
    classifier: Heads | None,
    paths: Sequence[InputPath],
) -> RunInputs:
    """On rank 0. The input is looked at first: that takes a moment, reading all weights does not."""
    objects: tuple[ReadObject, ...] = ()
    identities: tuple[input_identity.InputState, ...] = ()
    retries, by_object = session.control.retries, settings.manifest is not None
    if by_object:
        found, objects, paths = retry.listed_objects(settings, session.folder, retries)
    else:
        found = input_identity.input_identity(settings.inputs, paths, retries)
        identities = input_identity.file_identities(settings.inputs, paths, retries)
    files = {kind: fingerprinted(folder) for kind, folder in models.items()}
    fingerprints = {kind: each.fingerprint for kind, each in files.items()}
    choose.refuse_other_encoders(settings, choose.model_of(settings), fingerprints)
    judging_of(choose.calling_model_of(settings), choice_of(settings), settings.consensus)
    runtime = session.control.runtime
    resolved = resolve_config.resolve_config(
        settings,
        runtime.context,
        runtime.device,
        session.folder,
        files,
        classifier,
        found,
        choose.shortest_judged(choose.calling_model_of(settings)),
    )
    input_identity.refuse_other_content(session, resolved, found, paths, objects if by_object else None)
    return RunInputs(files, classifier, list(paths), resolved, found, identities, by_object, objects)


def check_inputs(settings: Settings, control: Control) -> None:
    """On rank 0, before an earlier run is discarded: what would end the new one is told now.

    Models are loaded, and every input is read to its end, but for standard input, which can be read once only. Raises
    UsageError, InputError, WeightsError.
    """
    settings = choose.applied(settings, Waiting(control))
    models = {kind: resolve_model(model, settings.offline, Waiting(control)) for kind, model in settings.models.items()}
    for kind, folder in models.items():
        check_kind(kind, settings.models[kind], folder)
    _classifier(settings, models)
    if "-" in settings.inputs:
        require_piped_input()
    names = [name for name in settings.inputs if name != "-"]
    paths = [input_path(name) for name in names]
    for path in (*paths, *manifest_inputs.paths(settings)):
        if isinstance(path, Path) and RunFolder(settings.output).would_discard(path):
            raise UsageError(f"{path}: --restart would discard it; copy it to another folder first")
    input_identity.input_identity(names, paths, control.retries)
    device = control.runtime.device
    for kind, folder in models.items():
        load_tokenizer(kind, folder)
        load_encoder(folder, kind, DTYPES[resolve_config.encoders_dtype(settings, device)], device)
        control.raise_if_ending()
    opened = partial(call_while_waiting, waiting=control.raise_if_ending)
    for _ in read_records(paths, replace_unknown=settings.replace_unknown, opened=opened):
        control.raise_if_ending()


def _record(settings: Settings, session: Session, inputs: RunInputs) -> None:
    """On rank 0: write the run's inputs to run.json, and tell the other ranks. Raises StorageError."""
    run, mine = this_run(session.control.runtime), platform_here(session.control.runtime.device)
    families = {kind: encoder_shape(folder).family for kind, folder in inputs.models.items()}
    plugins = {kind: family.plugin for kind, family in families.items() if family.plugin}
    session.folder.update_run(
        **run,
        settings=settings.to_dict(),
        model=choose.recorded(settings, choose.model_of(settings)),
        decisions=inputs.resolved.to_dict(),
        platform=mine.to_dict(),
        models={kind: str(folder) for kind, folder in inputs.models.items()},
        input_paths=input_identity.input_paths(settings.inputs or inputs.resolved.input_names, inputs.paths),
        **manifest_inputs.record(settings),
        **({"plugins": plugins} if plugins else {}),
        runs=runs_with(read_json(session.folder.run) or {}, run),
    )
    publish_recorded(session.control, inputs.resolved, mine)


def report_inputs(settings: Settings, session: Session, resolved: ResolvedConfig) -> list[str]:
    """On rank 0: one line for the user, one about the model, which is returned for the end of the run, and one about
    GPUs that are left out."""
    told = choose.told(choose.calling_model_of(settings))
    for line in told:
        session.progress.message(line)
    session.progress.message(
        f"{number_of(session.control.runtime.world_size, 'rank')} on {resolved.device}, {resolved.dtype}, "
        f"{resolved.token_budget} tokens a batch, {number_of(resolved.threads, 'thread')} per rank"
    )
    if settings.device == "auto" and (note := gpus_left_out()):
        session.progress.message(note)
    return told


def _with_listed_inputs(settings: Settings, session: Session) -> Settings:
    """The settings with the inputs that --files-from names after the others; rank 0 reads the list.

    Raises InputError, UsageError.
    """
    if settings.files_from is None:
        return settings
    given = settings.files_from

    def read() -> str:
        return json.dumps(piped_names(session) if given == "-" else read_list(Path(given), given))

    listed = json.loads(session.control.broadcast_from_rank_0("files-from", read))
    return replace(settings, inputs=(*settings.inputs, *listed))


def _models(settings: Settings, session: Session) -> dict[str, Path]:
    """Folder of each encoder; the first rank of a node downloads, the others wait and find the download by themselves:
    the key store tells them when, not where."""
    control, context = session.control, session.control.runtime.context
    folders = {}
    for kind, model in settings.models.items():
        key = f"model/{context.node}/{kind}"
        if context.local_rank == 0:
            folders[kind] = resolve_model(model, settings.offline, Waiting(control))
            control.publish(key, "1")
        else:
            control.wait_for(key)
            folders[kind] = resolve_model(model, offline=True)
        check_kind(kind, model, folders[kind])
    return folders


def _classifier(settings: Settings, models: dict[str, Path]) -> Heads | None:
    """The classifier, if any, checked against the encoders. Raises UsageError where one is missing, WeightsError."""
    if settings.classifier is None:
        return None
    classifier = load_heads(settings.classifier, choose.calling_model_of(settings))
    refuse_missing(classifier.kinds, models, str(settings.classifier))
    widths = [encoder_shape(models[kind]).width for kind in classifier.kinds]
    resolve_config.check_classifier(classifier, str(settings.classifier), widths, settings.bases_per_chunk)
    return classifier


def _refuse_other_weights(session: Session, inputs: RunInputs) -> None:
    """Raises WeightsError when this rank's encoders or its classifier differ from those that run.json names."""
    here, resolved = rank_named(session.control), inputs.resolved
    for kind, files in inputs.files.items():
        if files.fingerprint != resolved.models.get(kind):
            raise WeightsError(f"{here}: {files.folder} is another {kind} model than the one in {session.folder.run}")
    if other := resolved.models.keys() - inputs.files.keys():
        raise WeightsError(f"{here}: has no {', '.join(sorted(other))} model, which {session.folder.run} names")
    classifier = None if inputs.classifier is None else inputs.classifier.fingerprint
    if classifier != resolved.classifier:
        raise WeightsError(f"{here}: the classifier is another one than the one in {session.folder.run}")
    summary = inputs.classifier and inputs.classifier.summary
    if (summary and summary.fingerprint) != resolved.summary:
        raise WeightsError(f"{here}: the summary of embeddings is another one than the one in {session.folder.run}")
