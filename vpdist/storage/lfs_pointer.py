"""Files of models, and what is in place of a large one where only its pointer in Git LFS was checked out."""

from __future__ import annotations

from pathlib import Path

from vpdist.errors import WeightsError
from vpdist.storage.atomic_files import read_limited

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The first bytes of a pointer."""
IS_LFS_POINTER = "is a Git LFS pointer, not the file itself; fetch that with `git lfs pull`"


def model_content(path: Path, limit: int) -> bytes:
    """The bytes of a model's file, `limit` at most. Raises WeightsError, also for a pointer."""
    try:
        content = read_limited(path, limit, follow=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    if content.startswith(LFS_POINTER):
        raise WeightsError(f"{path}: {IS_LFS_POINTER}")
    return content
