"""An original classifier as a model: the encoders that it was trained with, and its chunk length, as the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from vpdist.encoders.hub import local_folder, name_and_revision, resolve_model
from vpdist.errors import UsageError
from vpdist.models.bundle import Bundle, encoder_entry, write_model
from vpdist.models.catalogue import VIRNUCPRO_ENCODERS
from vpdist.models.classifier_file import recorded_chunk_length
from vpdist.models.description import SLOTS, EncoderEntry, Model
from vpdist.results.classifier_kinds import KINDS_KEY, kinds_text
from vpdist.storage.downloads import SILENT, Listener


def import_model(
    source: Path,
    folder: Path,
    chunk_length: int | None,
    encoders: Mapping[str, str],
    *,
    offline: bool = False,
    listener: Listener = SILENT,
) -> Bundle:
    """Write a model of the classifier in `source` to `folder`; nothing of the file is run.

    Args:
        chunk_length: bases per chunk that it was trained on; None where its file says so.
        encoders: folder or hub id by slot; where none is named and the width fits, the original method's, which are
            not downloaded. A folder is copied into the model.

    Raises UsageError where too little is said, WeightsError as loading does, StorageError.
    """
    from vpdist.results.classifier import load_classifier  # imports torch

    classifier = load_classifier(source)
    length = chunk_length or recorded_chunk_length(source)
    if length is None:
        raise UsageError(f"{source}: does not say on which chunks it was trained; give --chunk-length")
    entries, copied = dict(VIRNUCPRO_ENCODERS), {}
    if encoders:
        found = {slot: resolve_model(encoders[slot], offline, listener) for slot in SLOTS if slot in encoders}
        entries = {slot: _entry(slot, encoders[slot], path) for slot, path in found.items()}
        copied = {slot: found[slot] for slot, entry in entries.items() if entry.folder is not None}
        if set(entries) != set(classifier.kinds):
            classifier.metadata[KINDS_KEY] = kinds_text(entries)  # an original file does not say
    elif classifier.input_width != sum(entry.width for entry in entries.values()):
        raise UsageError(
            f"{source}: takes {classifier.input_width} numbers, so its encoders are not the original method's; name "
            f"them: --nucleotide-model, --protein-model"
        )
    model = Model(
        name=_name(folder),
        method="VirNucPro (Li et al. 2025)",
        description=f"Imported from {_file_name(source)}",
        accuracy="not known",
        licence="unknown",
        encoders=entries,
        chunk_length=length,
        shortest_chunk=3,
    )
    return write_model(folder, model, classifier, encoders=copied)


def _entry(slot: str, given: str, folder: Path) -> EncoderEntry:
    if local_folder(given) is not None:
        return encoder_entry(folder, slot)
    return encoder_entry(
        folder, slot, hub=name_and_revision(given)[0], revision=folder.name
    )  # a snapshot's name is its commit


def _name(folder: Path) -> str:
    """A model's name from its folder's."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.absolute().name).strip("-_.")
    return name[:64] or "imported"


def _file_name(source: Path) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in source.name)[:100]
