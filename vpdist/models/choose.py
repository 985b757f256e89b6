"""A model's parts in place of the options that are not given, and whether everything that was chosen belongs together.

Enters: settings as typed. Leaves: settings in which every part is named. Applied twice they stay the same, so that
each process, and each stage that needs them, can do so for itself. Nothing here imports torch, but for a preset's
first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpdist.config import DEFAULT_CHUNK_LENGTH, Settings
from vpdist.encoder_kinds import KINDS, options
from vpdist.encoders.hub import local_folder
from vpdist.errors import UsageError, WeightsError
from vpdist.models.bundle import Bundle, described_encoder
from vpdist.models.catalogue import BUILT_IN, PRESETS, packaged
from vpdist.models.classifier_file import recorded_chunk_length
from vpdist.models.description import NA
from vpdist.models.find import find_model, is_here
from vpdist.storage.atomic_files import read_json
from vpdist.storage.downloads import SILENT, Listener
from vpdist.storage.run_folder import RunFolder


def applied(settings: Settings, listener: Listener = SILENT) -> Settings:
    """`settings` with the model's encoders, classifier and chunk length where no option of their own names them; of a
    preset or a repository of the hub the description and the classifier are downloaded.

    Raises UsageError where too little is named, WeightsError where what is named does not belong together or cannot be
    had, StorageError.
    """
    settings = _with_built_in(settings)
    if settings.model is None:
        return _with_chunk_length(settings)
    bundle = find_model(settings.model, offline=settings.offline, listener=listener)
    changes: dict[str, Any] = {
        f"{slot}_model": bundle.encoder(slot)
        for slot in bundle.model.encoders
        if getattr(settings, f"{slot}_model") is None
    }
    if settings.calls and settings.classifier is None:
        bundle.check_classifier()
        changes["classifier"] = bundle.classifier
    if settings.chunk_length is None:
        changes["chunk_length"] = bundle.model.chunk_length
    settings = replace(settings, **changes)
    if is_whole(settings, bundle):
        _refuse_other_chunks(settings, bundle)
        _refuse_other_shapes(settings, bundle)
    else:
        _refuse_recorded(settings)
    return settings


def needs_no_download(settings: Settings) -> bool:
    """Whether `applied` asks nobody."""
    return settings.offline or settings.model is None or is_here(settings.model)


def model_of(settings: Settings) -> Bundle | None:
    """The model of settings to which it was applied, None where there is none. Asks nobody. Raises WeightsError."""
    return None if settings.model is None else find_model(settings.model, offline=True)


def calling_model_of(settings: Settings) -> Bundle | None:
    """As `model_of`; None where another classifier, or none, makes the calls."""
    bundle = model_of(settings)
    return bundle if bundle is not None and settings.classifier == bundle.classifier else None


def shortest_judged(bundle: Bundle | None) -> int:
    """Bases of the shortest chunk that a model gives scores for; 0 where it judges every chunk, or there is none."""
    return bundle.model.shortest_chunk if bundle is not None and bundle.model.short_chunks == NA else 0


def is_whole(settings: Settings, bundle: Bundle) -> bool:
    """Whether the model's own classifier, or none, is used: then all of the model must be."""
    return settings.classifier in (None, bundle.classifier)


def refuse_other_encoders(settings: Settings, bundle: Bundle | None, fingerprints: Mapping[str, str]) -> None:
    """Raises WeightsError where an encoder, of which `fingerprints` has the fingerprint by kind, is not the model's."""
    if bundle is None or not is_whole(settings, bundle):
        return
    refuse_other_fingerprints(
        bundle, fingerprints, {kind: f"{KINDS[kind].option} {settings.models[kind]}" for kind in fingerprints}
    )


def refuse_other_fingerprints(bundle: Bundle, found: Mapping[str, str | None], named: Mapping[str, str]) -> None:
    """Raises WeightsError where an encoder (its fingerprint by kind in `found`, a name for it in `named`) is another
    one than the model's; one whose fingerprint nobody has written down passes."""
    for slot, entry in bundle.model.encoders.items():
        if entry.fingerprint is not None and found.get(slot) != entry.fingerprint:
            raise WeightsError(
                f"{named.get(slot, slot)}: is not the {slot} encoder of model {bundle.model.name}: its fingerprint is "
                f"{found.get(slot)}, the model's {entry.fingerprint}"
            )


def recorded(settings: Settings, bundle: Bundle | None) -> dict[str, Any] | None:
    """What run.json keeps of the model: its name, the digest of its model.json, and where it was found."""
    if bundle is None:
        return None
    own = "its own" if is_whole(settings, bundle) else str(settings.classifier)
    return named(bundle) | {"from": settings.model, "classifier": own}


def told(bundle: Bundle | None) -> list[str]:
    """What people must know of the model that made the calls: its name, what it is, and how well it does."""
    return (
        []
        if bundle is None
        else [f"model {bundle.model.name}: {bundle.model.description.rstrip('.')}; {bundle.model.accuracy}"]
    )


def named(bundle: Bundle) -> dict[str, Any]:
    """A model's name, the digest of its model.json, and its folder."""
    return {"name": bundle.model.name, "digest": f"sha256:{bundle.digest}", "folder": str(bundle.folder)}


def _with_built_in(settings: Settings) -> Settings:
    """The built-in model, where calls are wanted and nothing is named. Raises UsageError where there is none."""
    if not settings.calls or settings.dry_run or settings.model or settings.models or settings.classifier:
        return settings
    if BUILT_IN in packaged():
        return replace(settings, model=BUILT_IN)
    raise UsageError(
        f"name a model: --model {next(iter(PRESETS))} (`vpdist models` lists them); or name {options(KINDS)} and "
        f"--classifier"
    )


def _with_chunk_length(settings: Settings) -> Settings:
    """The chunk length that the classifier says, else that of the run that the command goes on with, else the default.

    A classifier that does not say it is used with a warning (commands.resolve_config). Raises WeightsError where it
    cannot be read.
    """
    if settings.chunk_length is not None:
        return settings
    length = None if settings.classifier is None else recorded_chunk_length(settings.classifier)
    if length is None and settings.classifier is not None:
        length = _length_of_run(settings)
    return replace(settings, chunk_length=length or DEFAULT_CHUNK_LENGTH)


def _length_of_run(settings: Settings) -> int | None:
    """The chunk length of the run that the command goes on with, None where there is none."""
    content = None if settings.restart else read_json(RunFolder(settings.output).run)
    decisions = content.get("decisions") if isinstance(content, dict) else None
    length = decisions.get("chunk_length") if isinstance(decisions, dict) else None
    return length if type(length) is int else None


def _refuse_other_chunks(settings: Settings, bundle: Bundle) -> None:
    if settings.chunk_length != bundle.model.chunk_length:
        raise WeightsError(
            f"model {bundle.model.name}: was trained on chunks of {bundle.model.chunk_length} bases, but "
            f"--chunk-length is {settings.chunk_length}"
        )


def _refuse_other_shapes(settings: Settings, bundle: Bundle) -> None:
    """Raises WeightsError where config.json of an encoder's folder shows that it is not the model's: told at once,
    where the fingerprint takes reading all weights."""
    for slot, entry in bundle.model.encoders.items():
        folder = local_folder(settings.models[slot])
        if folder is None:
            continue
        found = described_encoder(folder, slot)
        for what, theirs, ours in (
            ("family", entry.family, found.family),
            ("width", entry.width, found.width),
            ("pooling", entry.pooling, found.pooling),
        ):
            if theirs != ours:
                raise WeightsError(
                    f"{KINDS[slot].option} {settings.models[slot]}: is not the {slot} encoder of model "
                    f"{bundle.model.name}: its {what} is {ours}, the model's {theirs}"
                )


def _refuse_recorded(settings: Settings) -> None:
    """Raises WeightsError where a classifier of the user's own says another chunk length."""
    length = recorded_chunk_length(Path(str(settings.classifier)))
    if length not in (None, settings.chunk_length):
        raise WeightsError(
            f"{settings.classifier}: was trained on chunks of {length} bases, but --chunk-length or the model's is "
            f"{settings.chunk_length}"
        )
