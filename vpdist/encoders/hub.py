"""Encoder folders by name: a local folder, or a hub id at a pinned revision, downloaded where needed."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vpdist.encoders.family import FAMILIES
from vpdist.encoders.weights import DESCRIPTION_FILES, PICKLES, SAFETENSORS, files_read
from vpdist.errors import WeightsError
from vpdist.storage.atomic_files import read_limited, storage_error, temporary_beside, write_file
from vpdist.storage.downloads import SILENT, Digest, Listener, RemoteFile, fetch_all, first_line, one_at_a_time

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

PINNED_REVISIONS = {name: commit for family in FAMILIES.values() for name, commit in family.pinned.items()}
"""Commit of each public checkpoint, used unless `owner/name@revision` names another."""

COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_REFERENCE = 100
"""Bytes of the cache's file that says which commit a branch or tag is."""
DIGITS = {"sha256": r"[0-9a-f]{64}", "git": r"[0-9a-f]{40}"}
"""Of the digests that the hub lists: of a large file's content, and of a small one as git has it."""
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
    if not name_and_revision(model)[1]:
        known = ", ".join(PINNED_REVISIONS)
        raise WeightsError(
            f"{model}: there is no such folder, and as a hub id it has no pinned revision; name {model}@<commit>, so "
            f"that every run uses the same weights (pinned: {known})"
        )
    return None


def name_and_revision(model: str) -> tuple[str, str]:
    name, _, revision = model.partition("@")
    return name, revision or PINNED_REVISIONS.get(name, "")


def resolve_model(model: str, offline: bool = False, listener: Listener = SILENT) -> Path:
    """The local folder of `model`: the folder itself, or a download of the hub id `owner/name[@revision]`.

    A known id without a revision means its pinned one. With `offline` only the local cache is read. Raises
    WeightsError when the folder or the id is missing, unknown, or cannot be downloaded; StorageError.
    """
    folder = local_folder(model)
    if folder is not None:
        return folder
    return snapshot(*name_and_revision(model), encoder_files, is_encoder, offline, listener)


def encoder_files(names: Iterable[str], folder: str = "") -> list[str]:
    """Those of a repository's files that make the encoder in `folder`: description, and weights of one format."""
    prefix, there = f"{folder}/" if folder else "", set(names)
    inside = {name.removeprefix(prefix) for name in there if name.startswith(prefix)}
    described = [name for name in (*DESCRIPTION_FILES, "tokenizer_config.json") if name in inside]
    weights = _weights(inside, SAFETENSORS, "model-*.safetensors") or _weights(inside, PICKLES, "pytorch_model-*.bin")
    return [f"{prefix}{name}" for name in (*described, *weights)]


def _weights(names: set[str], whole: tuple[str, str], shard: str) -> list[str]:
    """Files of weights as `weights.weight_files` chooses them: one, or an index and its shards."""
    single, index = whole
    if single in names:
        return [single]
    return [index, *sorted(fnmatch.filter(names, shard))] if index in names else []


Choice = Callable[[Iterable[str]], list[str]]
"""Of the names of a repository's files, those that are needed."""


def snapshot(
    name: str,
    revision: str,
    choose: Choice,
    is_complete: Callable[[Path], bool],
    offline: bool = False,
    listener: Listener = SILENT,
) -> Path:
    """The folder of the repository `name` at `revision` in the hub's cache, with the files that `choose` names; those
    are here already where `is_complete` says so.

    Every file that is fetched is compared with the digest in the hub's listing before it gets its name. Raises
    WeightsError, StorageError.
    """
    folder = cached(name, revision)
    if offline and folder is None:
        raise WeightsError(
            f"{name}@{revision}: is not in the local cache: run once without --offline, or `vpdist download`"
        )
    if folder is not None and (offline or (COMMIT.fullmatch(revision) and is_complete(folder))):
        return folder  # a commit never changes: a local copy needs no request to the hub
    with one_at_a_time(_cache() / ".locks" / f"vpdist-{_repository(name)}.lock", f"{name}@{revision}", listener):
        if COMMIT.fullmatch(revision) and (folder := cached(name, revision)) and is_complete(folder):
            return folder  # by the process that had the lock before
        commit, listed = _listing(name, revision)
        folder = _cache() / _repository(name) / "snapshots" / commit
        names = choose(listed)
        links = {folder / file: _remote(name, commit, listed[file]) for file in names if not (folder / file).exists()}
        fetch_all(f"{name}@{commit}", list(links.values()), listener)
        try:
            for path, remote in links.items():
                _link(path, remote.target)
            if commit != revision:
                _remember(name, revision, commit)
        except OSError as error:
            raise storage_error(folder, error) from error
    return folder


def cached(name: str, revision: str) -> Path | None:
    """The snapshot of a repository in the local cache, complete or not; None where there is none. Asks nobody."""
    root, commit = _cache() / _repository(name), revision
    try:
        if not COMMIT.fullmatch(revision):
            if not _is_plain(revision):
                return None
            commit = read_limited(root / "refs" / revision, LONGEST_REFERENCE, follow=True).decode().strip()
        folder = root / "snapshots" / commit
        return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name}@{revision}: cannot be looked up in {root}: {first_line(error)}") from error


def _listing(name: str, revision: str) -> tuple[str, dict[str, RepoFile]]:
    """The commit of a revision, and its files by name, as the hub tells them. Raises WeightsError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

    transport_error = HfHubHTTPError.__bases__[0]  # of the HTTP library that huggingface_hub uses
    try:
        api = HfApi()
        commit = revision if COMMIT.fullmatch(revision) else str(api.model_info(name, revision=revision).sha)
        if not COMMIT.fullmatch(commit):
            raise WeightsError(f"{name}@{revision}: the hub names no commit for it")
        tree = api.list_repo_tree(name, revision=commit, recursive=True)
        return commit, {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and _is_plain(entry.path)}
    except (HfHubHTTPError, transport_error, OSError, ValueError, KeyError, TypeError) as error:
        told = f"{first_line(error)}; check the network, or copy its folder"
        raise WeightsError(f"{name}@{revision}: cannot be downloaded: {told}") from error


def _is_plain(path: str) -> bool:
    """Whether a name in a listing leads down the snapshot's folder."""
    return all(step and step not in (".", "..") and "\\" not in step for step in path.split("/"))


def _remote(name: str, commit: str, entry: RepoFile) -> RemoteFile:
    """How to fetch a file of the listing into the cache, whose blobs are named by the digests. Raises WeightsError."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    kind, value = ("git", entry.blob_id) if entry.lfs is None else ("sha256", entry.lfs.sha256)
    if not re.fullmatch(DIGITS[kind], str(value)) or type(entry.size) is not int or entry.size < 0:
        raise WeightsError(f"{name}@{commit}: the hub lists {entry.path} without a digest or a size")
    return RemoteFile(
        url=hf_hub_url(name, entry.path, revision=commit),
        target=_cache() / _repository(name) / "blobs" / value,
        digest=Digest(kind=kind, value=value),
        size=entry.size,
        headers=build_hf_headers(),
    )


def _link(path: Path, blob: Path) -> None:
    """Make `path` in a snapshot a link to its blob, or a copy where there are no links. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        temporary.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        shutil.copyfile(blob, temporary)
    os.replace(temporary, path)


def _remember(name: str, revision: str, commit: str) -> None:
    """Keep which commit a branch or tag was, as other programs do, for --offline."""
    path = _cache() / _repository(name) / "refs" / revision
    if _is_plain(revision):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, commit.encode())


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repository(name: str) -> str:
    from huggingface_hub.file_download import repo_folder_name

    return str(repo_folder_name(repo_id=name, repo_type="model"))


def is_encoder(folder: Path) -> bool:
    """Whether a snapshot has all files of an encoder that vpdist reads; an interrupted download lacks some."""
    try:
        files_read(folder)
    except WeightsError:
        return False
    present = [(folder / name).is_file() for name in DESCRIPTION_FILES]
    return present[0] and any(present[1:])
