"""What a classifier's file says of itself, read without torch before anything slow begins."""

from __future__ import annotations

import json
from pathlib import Path

from vpdist.errors import WeightsError
from vpdist.models.description import LONGEST_CHUNK
from vpdist.models.json_fields import shown
from vpdist.storage.atomic_files import read_limited
from vpdist.storage.lfs_pointer import IS_LFS_POINTER, LFS_POINTER

HEADER_LIMIT = 1 << 20
"""Bytes of a safetensors header at most; a classifier's has some 1,000."""


def recorded_chunk_length(path: Path) -> int | None:
    """The bases per chunk that a classifier was trained on; None for an original .pth and other files that do not say.

    Raises WeightsError for what cannot be read or is no classifier.
    """
    try:
        content = read_limited(path, 8 + HEADER_LIMIT, follow=True, cut=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    if content[:4] == b"PK\x03\x04":
        return None
    if content.startswith(LFS_POINTER):
        raise WeightsError(f"{path}: {IS_LFS_POINTER}")
    if content[8:9] != b"{":
        raise WeightsError(
            f"{path}: is neither safetensors nor a PyTorch zip file; a .pth of PyTorch before 1.6 must be saved again"
        )
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        told = json.loads(header["__metadata__"]["metadata"]).get("chunk_length")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as a classifier: {error}") from error
    if told is None:
        return None
    length = int(told) if isinstance(told, str) and told.isascii() and told.isdigit() and len(told) < 10 else 0
    if not 3 <= length <= LONGEST_CHUNK:
        raise WeightsError(f"{path}: was trained on chunks of {shown(told)} bases, which is no length of a chunk")
    return length
