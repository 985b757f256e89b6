"""A model's files and the fingerprint of their bytes: what is loaded is what the fingerprint was made from.

Enters: a model folder. Leaves: its fingerprint, and whatever is read from its files while they keep it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vpdist.encoders.family import EncoderFamily
from vpdist.encoders.shape import encoder_shape
from vpdist.encoders.weights import files_read, model_fingerprint
from vpdist.errors import WeightsError
from vpdist.storage.file_identity import FileIdentity

T = TypeVar("T")

TRIES = 3
"""Files may be touched while they are read; they are not touched every time."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model as they were when their fingerprint was made."""

    folder: Path
    family: EncoderFamily
    fingerprint: str
    identities: tuple[tuple[str, FileIdentity], ...]
    """Of each file that enters the fingerprint, by its name."""

    def read(self, load: Callable[[], T]) -> T:
        """What `load` makes of files that have had this fingerprint from before it began until it ended.

        Files that were only touched are loaded again. Raises WeightsError where their bytes have changed.
        """
        known = self
        for _ in range(TRIES):
            loaded = load()
            if _identities(self.folder, self.family) == known.identities:
                return loaded
            del loaded  # before there are two
            known = fingerprinted(self.folder, self.family)
            if known.fingerprint != self.fingerprint:
                raise WeightsError(f"{platform.node()}:{self.folder}: the model's files have changed during the run")
        raise _changing(self.folder)


def fingerprinted(folder: Path, family: EncoderFamily | None = None) -> ModelFiles:
    """The fingerprint of the model in `folder`, and the files it was made from. Raises WeightsError.

    `family`: what it is; by default told from its config.json.
    """
    family = family or encoder_shape(folder).family
    for _ in range(TRIES):
        before = _identities(folder, family)
        fingerprint = model_fingerprint(folder, family)
        if _identities(folder, family) == before:
            return ModelFiles(folder, family, fingerprint, before)
    raise _changing(folder)


def _identities(folder: Path, family: EncoderFamily) -> tuple[tuple[str, FileIdentity], ...]:
    identities = []
    for path in files_read(folder, family):
        try:
            identities.append((path.name, FileIdentity.of(path)))
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    return tuple(identities)


def _changing(folder: Path) -> WeightsError:
    return WeightsError(f"{platform.node()}:{folder}: the model's files are changed while they are read")
