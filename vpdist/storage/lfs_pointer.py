"""Git LFS: what is in place of a large file where only its pointer was checked out."""

from __future__ import annotations

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The first bytes of a pointer."""
IS_LFS_POINTER = "is a Git LFS pointer, not the file itself; fetch that with `git lfs pull`"
