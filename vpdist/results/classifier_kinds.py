"""Which kinds of encoder a classifier takes: recorded in its file, or both where nothing is recorded.

Enters: a classifier's file, or the texts kept with it. Leaves: names of kinds, in the order of concatenation. Nothing
here needs torch, so that a missing encoder is told before anything slow is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from vpdist.encoder_kinds import CLASSIFIED, KINDS, options
from vpdist.errors import UsageError, WeightsError
from vpdist.storage.atomic_files import read_limited

KINDS_KEY = "kinds"
"""Key of the metadata: names of kinds, with commas between. Absent: CLASSIFIED, as in all files of the original."""
HEADER_LIMIT = 1 << 20
"""Most bytes of a safetensors header that is read for it; a classifier's has some 1,000."""
NO_TEXTS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def kinds_text(kinds: Iterable[str]) -> str:
    """The kinds as metadata have them."""
    return ",".join(kinds)


def recorded_kinds(metadata: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The kinds that metadata record, CLASSIFIED where they record none. Raises WeightsError, which begins with `name`,
    for names that are none, twice the same, or in another order than that of the table."""
    text = metadata.get(KINDS_KEY)
    if text is None:
        return CLASSIFIED
    kinds = tuple(text.split(","))
    if kinds != tuple(kind for kind in KINDS if kind in kinds):
        raise WeightsError(f"{name}: takes the encoders {text!r}; known are {', '.join(KINDS)}, in this order")
    return kinds


def kinds_of_file(path: Path) -> tuple[str, ...]:
    """The kinds that the classifier in `path` takes; CLASSIFIED for what is no safetensors file of this project, which
    `classifier.load_classifier` reads or refuses. Raises WeightsError."""
    try:
        texts = recorded_texts(beginning(path))
    except NO_TEXTS:
        return CLASSIFIED
    return recorded_kinds(texts, str(path))


def beginning(path: Path) -> bytes:
    """The beginning of a classifier's file, with the whole header of a safetensors one. Raises WeightsError."""
    try:
        return read_limited(path, 8 + HEADER_LIMIT, follow=True, cut=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error


def recorded_texts(content: bytes) -> dict[str, str]:
    """The texts kept with a classifier, by key, from the beginning of its file. Raises one of NO_TEXTS for what is no
    safetensors file of this project."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")].decode())
    return {str(key): str(value) for key, value in json.loads(header["__metadata__"]["metadata"]).items()}


def refuse_missing(taken: Iterable[str], given: Iterable[str], name: str) -> None:
    """Raises UsageError naming the options of encoders that the classifier `name` takes and that are not given."""
    taken, given = tuple(taken), set(given)
    if missing := [kind for kind in taken if kind not in given]:
        needs = f"both {options(taken)}" if len(taken) > 1 else f"{options(taken)} only"
        raise UsageError(f"{name}: a classifier needs {needs}; {options(missing)} is missing")
