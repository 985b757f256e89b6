"""The files of a model beside its classifier that make a row's numbers: further classifiers, and the summary.

Enters: a model's folder and description. Leaves: files written, or read once their digests are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vpdist.encoder_kinds import CLASSIFIED
from vpdist.errors import WeightsError
from vpdist.models.contained import contained
from vpdist.models.description import ClassifierEntry, HeadEntry, Model, SummaryEntry
from vpdist.storage.atomic_files import storage_error
from vpdist.storage.lfs_pointer import model_content

if TYPE_CHECKING:
    from vpdist.results.classifier import Classifier
    from vpdist.results.embedding_summary import EmbeddingSummary

FILE_LIMIT = 1 << 28
"""Bytes of a file at most."""


def files_of(model: Model) -> Iterator[tuple[str, ClassifierEntry | HeadEntry | SummaryEntry]]:
    """What each of these files is, for messages, and its entry; the classifier's first."""
    yield "the classifier", model.classifier
    for head in model.heads:
        yield f"the classifier from {head.from_bases} bases", head
    if model.summary is not None:
        yield "the summary of embeddings", model.summary


def check_digests(folder: Path, model: Model, described: Path) -> None:
    """Raises WeightsError where a file is not the one that model.json (`described`) describes, or leads out of the
    folder."""
    for what, entry in files_of(model):
        path = contained(folder, entry.file, what)
        if (found := sha256_of(path)) != entry.sha256:
            raise WeightsError(
                f"{path}: is not {what} of model {model.name}: its SHA-256 is {found}, but {described} has "
                f"{entry.sha256}"
            )


def sha256_of(path: Path) -> str:
    """Raises WeightsError."""
    return hashlib.sha256(model_content(path, FILE_LIMIT)).hexdigest()


def write_beside(folder: Path, model: Model, heads: Sequence[Classifier], summary: EmbeddingSummary | None) -> Model:
    """Write the further classifiers (in the order of `model.heads`) and the summary; returns the model with their
    digests. Raises WeightsError where they do not fit, StorageError."""
    from vpdist.results.classifier import CHUNK_LENGTH, save_classifier
    from vpdist.results.classifier_kinds import KINDS_KEY, kinds_text
    from vpdist.results.embedding_summary import save_summary

    refuse_other_number(model, heads, summary)
    entries = []
    for entry, head in zip(model.heads, heads, strict=True):
        if entry.kinds != CLASSIFIED:
            head.metadata[KINDS_KEY] = kinds_text(entry.kinds)
        refuse_other_head(model, entry, head, f"model {model.name}")
        path = folder / entry.file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
        save_classifier(head, path, {CHUNK_LENGTH: str(entry.chunk_length)})
        entries.append(replace(entry, sha256=sha256_of(path), fingerprint=head.fingerprint))
    described = model.summary
    if summary is not None and described is not None:
        path = folder / described.file
        save_summary(summary, path)
        described = replace(described, sha256=sha256_of(path), fingerprint=summary.fingerprint)
    return replace(model, heads=tuple(entries), summary=described)


def refuse_other_number(model: Model, heads: Sequence[Classifier], summary: EmbeddingSummary | None) -> None:
    """Raises WeightsError unless there is a classifier for each head, and a summary where the model has one."""
    if len(heads) != len(model.heads) or (summary is None) != (model.summary is None):
        raise WeightsError(
            f"model {model.name}: describes {len(model.heads)} classifiers for shorter chunks and "
            f"{'no' if model.summary is None else 'a'} summary; {len(heads)} and "
            f"{'none' if summary is None else 'one'} are given"
        )


def refuse_other_head(model: Model, entry: HeadEntry, head: Classifier, name: str) -> None:
    """Raises WeightsError, which begins with `name`, where a classifier is not of the kind that its entry says."""
    width = sum(model.encoders[kind].width for kind in entry.kinds)
    if head.kinds != entry.kinds or head.input_width != width:
        raise WeightsError(
            f"{name}: the classifier from {entry.from_bases} bases takes {head.input_width} numbers of "
            f"{' and '.join(head.kinds)} embeddings, but must take {width} of {' and '.join(entry.kinds)}"
        )
