"""A model by its name: a folder, a model of this package, a preset, or the hub's; downloaded where needed.

Every process finds it by itself; of those that would download it one does, the others wait for its lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vpdist.encoders import hub
from vpdist.encoders.hub import HUB_ID, encoder_files, is_encoder, name_and_revision, resolve_model
from vpdist.encoders.weights import model_fingerprint
from vpdist.errors import WeightsError
from vpdist.models.bundle import CARD_FILE, MODEL_FILE, Bundle, is_model, read_description, read_model, write_model
from vpdist.models.catalogue import PRESETS, Preset, downloads, packaged
from vpdist.models.contained import contained
from vpdist.models.head_files import files_of
from vpdist.storage.atomic_files import write_file
from vpdist.storage.downloads import SILENT, Listener, fetch_all, one_at_a_time
from vpdist.text import bytes_text


def find_model(name: str, *, offline: bool = False, listener: Listener = SILENT) -> Bundle:
    """The model that `name` means. A short name is never a folder of the current one: that is ./NAME.

    Encoders that the hub keeps may still be missing, see `resolve_model`. Raises WeightsError where there is no such
    model, or it is damaged or cannot be downloaded; with `offline` nobody is asked. Raises StorageError.
    """
    built_in = packaged()
    if name in built_in:
        return read_model(built_in[name])
    if name in PRESETS:
        return _preset(PRESETS[name], offline, listener)
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return _in_folder(folder)
    except (OSError, RuntimeError) as error:  # a name too long; a home folder of nobody
        raise WeightsError(f"--model {name}: cannot be used: {getattr(error, 'strerror', None) or error}") from error
    if not HUB_ID.fullmatch(name):
        known = ", ".join([*built_in, *PRESETS])
        raise WeightsError(
            f"--model {name}: is neither a folder, nor a hub id of the form owner/name@commit, nor one of the known "
            f"names: {known}"
        )
    return _of_hub(name, offline, listener)


def is_here(name: str) -> bool:
    """Whether nothing must be downloaded to describe the model (its encoders may be missing)."""
    try:
        find_model(name, offline=True)
    except WeightsError:
        return False
    return True


def download(name: str, listener: Listener = SILENT) -> Path:
    """Fetch everything of a model, or of an encoder that is a repository of the hub; returns its folder.

    Raises WeightsError, StorageError.
    """
    preset = PRESETS.get(name)
    if preset is not None:
        listener.tell(f"{name}: about {bytes_text(preset.bytes)} in all, less what is here")
    elif name not in packaged():
        folder = hub.local_folder(name)
        if folder is None:
            where = name_and_revision(name)
            folder = hub.snapshot(*where, _model_or_encoder, _is_model_or_encoder, listener=listener)
        if not is_model(folder):
            return folder
    return _with_encoders(find_model(name, listener=listener), preset, listener).folder


def _with_encoders(bundle: Bundle, preset: Preset | None, listener: Listener) -> Bundle:
    """The model once the encoders that the hub keeps are here, and are those that it names; of a preset their
    fingerprints are written down."""
    entries = dict(bundle.model.encoders)
    for slot, entry in entries.items():
        fingerprint = model_fingerprint(resolve_model(bundle.encoder(slot), listener=listener))
        if entry.fingerprint not in (None, fingerprint):
            raise WeightsError(
                f"{bundle.folder}: the {slot} encoder has fingerprint {fingerprint}, but {MODEL_FILE} has "
                f"{entry.fingerprint}"
            )
        entries[slot] = replace(entry, fingerprint=fingerprint)
    if preset is None or entries == bundle.model.encoders:
        return bundle
    whole = replace(bundle.model, encoders=entries)
    with one_at_a_time(_lock(preset), preset.model.name, listener):
        write_file(bundle.folder / MODEL_FILE, whole.to_json().encode())  # at once: others may be reading it
        return read_model(bundle.folder)


def _in_folder(folder: Path) -> Bundle:
    if not is_model(folder):
        raise WeightsError(
            f"--model {folder}: has no {MODEL_FILE}, so it is no model; an encoder has options of its own"
        )
    return read_model(folder)


def _lock(preset: Preset) -> Path:
    return downloads() / f".{preset.folder_name}.lock"


def _preset(preset: Preset, offline: bool, listener: Listener) -> Bundle:
    """A preset: its classifier fetched and converted, unless that has been done."""
    folder, name = downloads() / preset.folder_name, preset.model.name
    if is_model(folder):
        return read_model(folder)
    if offline:
        raise WeightsError(f"--model {name}: is not here; run once without --offline, or `vpdist download {name}`")
    with one_at_a_time(_lock(preset), name, listener):
        if is_model(folder):
            return read_model(folder)
        original = preset.classifier(folder)
        fetch_all(f"{name}: classifier", [original], listener)
        from vpdist.results.classifier import load_classifier  # imports torch

        return write_model(folder, preset.model, load_classifier(original.target), overwrite=True)


def _of_hub(name: str, offline: bool, listener: Listener) -> Bundle:
    """A model in a repository of the hub: first its description, then what that names."""
    hub.local_folder(name)  # raises for an id without a commit
    where = name_and_revision(name)
    folder = hub.snapshot(*where, _description, is_model, offline, listener)
    if not is_model(folder):
        raise WeightsError(f"--model {name}: the repository has no {MODEL_FILE}, so it is no model")
    model = read_description(folder).model
    files = [entry.file for _, entry in files_of(model)]
    inside = [entry.folder for entry in model.encoders.values() if entry.folder is not None]

    def choose(names: Iterable[str]) -> list[str]:
        names = list(names)
        encoders = [file for each in inside for file in encoder_files(names, each)]
        return [*_description(names), *(each for each in names if each in files), *encoders]

    def is_complete(folder: Path) -> bool:
        return all((folder / file).exists() for file in files) and all(is_encoder(folder / each) for each in inside)

    return read_model(hub.snapshot(*where, choose, is_complete, offline, listener))


def _description(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in (MODEL_FILE, CARD_FILE)]


def _model_or_encoder(names: Iterable[str]) -> list[str]:
    names = list(names)
    return _description(names) if MODEL_FILE in names else encoder_files(names)


def _is_model_or_encoder(folder: Path) -> bool:
    return is_model(folder) or is_encoder(folder)


def encoder_here(bundle: Bundle, slot: str) -> Path | None:
    """The folder of a model's encoder if it is on this machine; asks nobody. Raises WeightsError where it leads out."""
    entry = bundle.model.encoders[slot]
    if entry.folder is not None:
        return contained(bundle.folder, entry.folder, f"the {slot} encoder")
    folder = hub.cached(str(entry.hub), str(entry.revision))
    return folder if folder is not None and is_encoder(folder) else None
