"""A model's classifiers and its summary of embeddings, loaded. Imports torch."""

from __future__ import annotations

from pathlib import Path

from vpdist.errors import WeightsError
from vpdist.models.bundle import Bundle
from vpdist.models.contained import contained
from vpdist.models.head_files import refuse_other_head
from vpdist.results.classifier import load_classifier
from vpdist.results.embedding_summary import load_summary
from vpdist.results.heads import Heads


def load_heads(path: Path, bundle: Bundle | None) -> Heads:
    """The classifier in `path`, with what else the model `bundle`, whose classifier it is, has for other lengths.

    Digests have been compared (`check_digests`). Raises WeightsError.
    """
    if bundle is None:
        return Heads.of(load_classifier(path))
    model = bundle.model
    classifiers = []
    for entry in model.heads:
        file = contained(bundle.folder, entry.file, "a classifier")
        head = load_classifier(file)
        refuse_other_head(model, entry, head, str(file))
        classifiers.append((entry.from_bases, head))
    classifiers.append((model.classifier_from or 0, load_classifier(path)))
    summary = None
    if model.summary is not None:
        file = contained(bundle.folder, model.summary.file, "the summary of embeddings")
        summary = load_summary(file)
        if summary.kinds != tuple(model.encoders) or len(summary.mean) != model.width:
            raise WeightsError(f"{file}: is not of the embeddings of model {model.name}")
    return Heads(tuple(classifiers), summary)
