"""Paths inside a model's folder: a model from elsewhere names no file outside of it, and no link leads out."""

from __future__ import annotations

from pathlib import Path

from vpdist.errors import WeightsError


def contained(folder: Path, relative: str, what: str) -> Path:
    """The path `relative` below `folder`, which is `what` there. Raises WeightsError where it leads out of the folder,
    also by a symbolic link, or where nothing is there.

    In a snapshot of the hub's cache files are links into the folder `blobs` beside it.
    """
    path = folder / relative
    if not _is_below(path, folder):
        raise WeightsError(f"{path}: {what} leads out of the model's folder {folder}")
    if not path.exists():
        raise WeightsError(f"{path}: {what} is missing")
    return path


def refuse_links_out(folder: Path, inner: Path) -> None:
    """Raises WeightsError where a file of the folder `inner`, which lies in the model's `folder`, is a link that leads
    out of that."""
    try:
        entries = list(inner.iterdir())
    except OSError as error:
        raise WeightsError(f"{inner}: cannot be read: {error.strerror or error}") from error
    for entry in entries:
        if entry.is_symlink() and not _is_below(entry, folder):
            raise WeightsError(f"{entry}: is a link that leads out of the model's folder {folder}")


def _is_below(path: Path, folder: Path) -> bool:
    roots = [folder]
    if folder.parent.name == "snapshots":
        roots.append(folder.parents[1] / "blobs")
    try:
        target = path.resolve()
        return any(target.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError) as error:  # links in a circle
        raise WeightsError(f"{path}: cannot be followed: {error}") from error
