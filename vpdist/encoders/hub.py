"""Encoder folders by name: a local folder, or a hub id at a pinned revision, downloaded where needed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from vpdist.encoders.family import FAMILIES
from vpdist.encoders.weights import DESCRIPTION_FILES, PICKLES, SAFETENSORS, weight_files
from vpdist.errors import WeightsError

PINNED_REVISIONS = {name: commit for family in FAMILIES.values() for name, commit in family.pinned.items()}
"""Commit of each public checkpoint, used unless `owner/name@revision` names another."""

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def local_folder(model: str) -> Path | None:
    """The folder that `model` names, None where it is a hub id that can be looked up. Raises WeightsError."""
    try:
        folder = Path(model).expanduser()
        if folder.is_dir():
            return folder
        exists = folder.exists()
    except (OSError, RuntimeError) as error:  # a name too long; a home folder of nobody
        raise WeightsError(f"{model}: cannot be used: {getattr(error, 'strerror', None) or error}") from error
    if exists:
        raise WeightsError(f"{model}: is a file; a model is a folder with config.json and weights, or a hub id")
    if not HUB_ID.fullmatch(model):
        raise WeightsError(f"{model}: is neither a folder nor a hub id of the form owner/name or owner/name@revision")
    if not _name_and_revision(model)[1]:
        known = ", ".join(PINNED_REVISIONS)
        raise WeightsError(
            f"{model}: there is no such folder, and as a hub id it has no pinned revision; name {model}@<commit>, so "
            f"that every run uses the same weights (pinned: {known})"
        )
    return None


def _name_and_revision(model: str) -> tuple[str, str]:
    name, _, revision = model.partition("@")
    return name, revision or PINNED_REVISIONS.get(name, "")


def resolve_model(model: str, offline: bool = False) -> Path:
    """The local folder of `model`: the folder itself, or a download of the hub id `owner/name[@revision]`.

    A known id without a revision means its pinned one. With `offline` only the local cache is read. Raises
    WeightsError when the folder or the id is missing, unknown, or cannot be downloaded.
    """
    folder = local_folder(model)
    return _snapshot(*_name_and_revision(model), offline) if folder is None else folder


def _snapshot(name: str, revision: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    transport_error = HfHubHTTPError.__bases__[0]  # of the HTTP library that huggingface_hub uses

    def fetch(patterns: Iterable[str], *, local: bool) -> Path:
        return Path(snapshot_download(name, revision=revision, local_files_only=local, allow_patterns=list(patterns)))

    try:
        if offline or COMMIT.fullmatch(revision):  # a commit never changes: a local copy needs no request to the hub
            try:
                folder = fetch(["*"], local=True)
                if offline or _is_complete(folder):
                    return folder
            except LocalEntryNotFoundError:
                if offline:
                    raise
        folder = fetch([*DESCRIPTION_FILES, "tokenizer_config.json", *SAFETENSORS, "model-*.safetensors"], local=False)
        if not any((folder / file).is_file() for file in SAFETENSORS):
            folder = fetch([*PICKLES, "pytorch_model-*.bin"], local=False)
    except LocalEntryNotFoundError as error:
        advice = (
            "run once without --offline, or `vpdist download`" if offline else "check the network, or copy its folder"
        )
        raise WeightsError(f"{name}@{revision}: is not in the local cache and was not downloaded: {advice}") from error
    except (HfHubHTTPError, HFValidationError, transport_error, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{name}@{revision}: cannot be downloaded: {reason}") from error
    return folder


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot has all files that vpdist reads; an interrupted download lacks some."""
    try:
        weight_files(folder)
    except WeightsError:
        return False
    present = [(folder / name).is_file() for name in DESCRIPTION_FILES]
    return present[0] and any(present[1:])
