"""What a classifier's file says of itself, read without torch before anything slow begins."""

from __future__ import annotations

from pathlib import Path

from vpdist.errors import WeightsError
from vpdist.models.description import LONGEST_CHUNK
from vpdist.models.json_fields import shown
from vpdist.results.classifier_kinds import NO_TEXTS, beginning, recorded_texts
from vpdist.storage.lfs_pointer import IS_LFS_POINTER, LFS_POINTER


def recorded_chunk_length(path: Path) -> int | None:
    """The bases per chunk that a classifier was trained on; None for an original .pth and other files that do not say.

    Raises WeightsError for what cannot be read or is no classifier.
    """
    content = beginning(path)
    if content[:4] == b"PK\x03\x04":
        return None
    if content.startswith(LFS_POINTER):
        raise WeightsError(f"{path}: {IS_LFS_POINTER}")
    if content[8:9] != b"{":
        raise WeightsError(
            f"{path}: is neither safetensors nor a PyTorch zip file; a .pth of PyTorch before 1.6 must be saved again"
        )
    try:
        told = recorded_texts(content).get("chunk_length")
    except NO_TEXTS as error:
        raise WeightsError(f"{path}: cannot be read as a classifier: {error}") from error
    if told is None:
        return None
    length = int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0
    if not 3 <= length <= LONGEST_CHUNK:
        raise WeightsError(f"{path}: was trained on chunks of {shown(told)} bases, which is no length of a chunk")
    return length
