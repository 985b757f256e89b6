"""A model's folder: model.json, classifier, model card, and encoders where they are not the hub's.

`write_model` writes model.json last and `read_model` begins with it, so that a folder is a whole model or none. Nothing
here imports torch, unless a classifier is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vpdist.encoder_kinds import CLASSIFIED, KINDS
from vpdist.encoders.shape import encoder_shape
from vpdist.encoders.weights import files_read, model_fingerprint
from vpdist.errors import UsageError, WeightsError
from vpdist.models import card
from vpdist.models.contained import contained, refuse_links_out
from vpdist.models.description import ClassifierEntry, EncoderEntry, Model
from vpdist.models.head_files import check_digests, files_of, refuse_other_number, sha256_of, write_beside
from vpdist.storage.atomic_files import replacing, storage_error, write_file
from vpdist.storage.lfs_pointer import model_content

if TYPE_CHECKING:
    from vpdist.results.classifier import Classifier
    from vpdist.results.embedding_summary import EmbeddingSummary

MODEL_FILE, CARD_FILE = "model.json", "README.md"
MODEL_FILE_LIMIT = 1 << 24
"""Bytes of a model.json at most; null scores take some 100 KB."""
COPIED = ("tokenizer_config.json", "special_tokens_map.json", "LICENSE")
"""Files of an encoder's folder that vpdist does not read; other programs do."""
BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model and the folder that it was read from."""

    folder: Path
    model: Model
    digest: str
    """SHA-256 (hex) of its model.json, which has the digests of the other files."""

    @property
    def classifier(self) -> Path:
        """The classifier's file. Raises WeightsError where it is missing or leads out of the folder."""
        return contained(self.folder, self.model.classifier.file, "the classifier")

    def encoder(self, slot: str) -> str:
        """What an encoder option takes: the folder of a slot's encoder, or `owner/name@commit`. Raises WeightsError
        where the folder is missing or leads out of the model's."""
        entry = self.model.encoders[slot]
        if entry.folder is None:
            return entry.source
        folder = contained(self.folder, entry.folder, f"the {slot} encoder")
        refuse_links_out(self.folder, folder)
        return str(folder)

    def check_classifier(self) -> None:
        """Raises WeightsError where the classifier's file, or another that makes a row's numbers, is not the one that
        model.json describes."""
        check_digests(self.folder, self.model, self.folder / MODEL_FILE)


def read_model(folder: Path) -> Bundle:
    """The model in `folder`; its files are there, but not yet compared with their digests.

    Raises WeightsError naming file and field for anything but a whole model.json of this format, and for paths that
    lead out of the folder.
    """
    bundle = read_description(folder)
    for what, entry in files_of(bundle.model):
        contained(folder, entry.file, what)
    for slot in bundle.model.encoders:
        bundle.encoder(slot)
    return bundle


def read_description(folder: Path) -> Bundle:
    """As `read_model`, whether or not the files that the description names are there."""
    path = folder / MODEL_FILE
    content = model_content(contained(folder, MODEL_FILE, "the description of a model"), MODEL_FILE_LIMIT)
    try:
        described = json.loads(content.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON: {error}") from error
    return Bundle(folder, Model.from_json(path, described), hashlib.sha256(content).hexdigest())


def is_model(folder: Path) -> bool:
    """Whether `folder` has the description of a model, of whatever content."""
    return (folder / MODEL_FILE).is_file()


def encoder_entry(folder: Path, slot: str, *, hub: str | None = None, revision: str | None = None) -> EncoderEntry:
    """The entry of an encoder whose files are in `folder`: named by the hub's id and commit where it is from there,
    else to be copied into the model. Reads all its weights for the fingerprint. Raises WeightsError."""
    entry = described_encoder(folder, slot, hub=hub, revision=revision)
    return replace(entry, fingerprint=model_fingerprint(folder))


def described_encoder(folder: Path, slot: str, *, hub: str | None = None, revision: str | None = None) -> EncoderEntry:
    """As `encoder_entry`, from config.json alone: without the fingerprint."""
    shape = encoder_shape(folder)
    if slot not in shape.family.kinds:
        raise WeightsError(f"{folder}: is a {' or '.join(shape.family.kinds)} encoder, not a {slot} one")
    return EncoderEntry(
        folder=f"encoders/{slot}" if hub is None else None,
        hub=hub,
        revision=revision,
        fingerprint=None,
        family=shape.family.name,
        width=shape.width,
        pooling=shape.family.pooling,
    )


def write_model(
    folder: Path,
    model: Model,
    classifier: Classifier,
    more_on_card: str = "",
    *,
    encoders: Mapping[str, Path] | None = None,
    heads: Sequence[Classifier] = (),
    summary: EmbeddingSummary | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write `model` with its classifier to `folder`, which may hold other files.

    An interrupted write leaves no model.json, hence no model; the same call again completes it.

    Args:
        model: its entry of the classifier is replaced by what is written.
        classifier: its width must be the sum of the encoders', its `kinds` the model's slots.
        more_on_card: text below what the card says of every model.
        encoders: by slot, the folder of each encoder that the model has as a folder, to be copied.
        heads: classifiers for shorter chunks, in the order of the model's.
        summary: of the training side's embeddings, where the model has one.
        overwrite: whether a model that is there may be replaced; it is gone as soon as the writing begins.

    Raises UsageError where there is a model already; WeightsError where classifier, encoders and model do not fit;
    StorageError.
    """
    from vpdist.results.classifier import CHUNK_LENGTH, save_classifier
    from vpdist.results.classifier_kinds import KINDS_KEY, kinds_text

    _refuse_misfit(model, classifier, encoders or {})
    refuse_other_number(model, heads, summary)
    described = folder / MODEL_FILE
    described_as = ClassifierEntry(file=model.classifier.file, sha256="0" * 64, fingerprint=classifier.fingerprint)
    Model.from_json(described, json.loads(_filled_in(replace(model, classifier=described_as)).to_json()))  # else later
    if not overwrite and (described.exists() or described.is_symlink()):
        raise UsageError(f"{folder}: holds a model already; name another folder, or remove that one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        described.unlink(missing_ok=True)
        for slot, source in (encoders or {}).items():
            _copy_encoder(source, folder / str(model.encoders[slot].folder))
    except OSError as error:
        raise storage_error(folder, error) from error
    path = folder / model.classifier.file
    if (kinds := tuple(kind for kind in KINDS if kind in model.encoders)) != CLASSIFIED:
        classifier.metadata[KINDS_KEY] = kinds_text(kinds)
    save_classifier(classifier, path, {CHUNK_LENGTH: str(model.chunk_length)})
    entry = ClassifierEntry(file=model.classifier.file, sha256=sha256_of(path), fingerprint=classifier.fingerprint)
    whole = replace(write_beside(folder, model, heads, summary), classifier=entry)
    write_file(folder / CARD_FILE, (card.front_matter(whole) + card.body(whole) + more_on_card).encode())
    write_file(described, whole.to_json().encode())
    return read_model(folder)


def _filled_in(model: Model) -> Model:
    """The model with any digests of the files beside the classifier, to be checked before they are written."""
    sha256, fingerprint = "0" * 64, "0" * 32
    heads = tuple(replace(head, sha256=sha256, fingerprint=fingerprint) for head in model.heads)
    summary = model.summary and replace(model.summary, sha256=sha256, fingerprint=fingerprint)
    return replace(model, heads=heads, summary=summary)


def _refuse_misfit(model: Model, classifier: Classifier, encoders: Mapping[str, Path]) -> None:
    """Raises WeightsError where parts of a model that is to be written do not belong together."""
    wanted = {slot for slot, entry in model.encoders.items() if entry.folder is not None}
    if encoders.keys() != wanted:
        raise WeightsError(f"model {model.name}: has folders for {sorted(wanted)}, not for {sorted(encoders)}")
    if set(classifier.kinds) != model.encoders.keys():
        raise WeightsError(
            f"model {model.name}: the classifier takes {' and '.join(classifier.kinds)} embeddings, but the model has "
            f"{' and '.join(model.encoders)} encoders"
        )
    if classifier.input_width != model.width:
        widths = " + ".join(str(entry.width) for entry in model.encoders.values())
        raise WeightsError(
            f"model {model.name}: the classifier takes {classifier.input_width} numbers, but the encoders give {widths}"
        )
    if classifier.chunk_length not in (None, str(model.chunk_length)):
        raise WeightsError(
            f"model {model.name}: the classifier was trained on chunks of {classifier.chunk_length} bases, but the "
            f"model has {model.chunk_length}"
        )


def _copy_encoder(source: Path, target: Path) -> None:
    """Copy what makes an encoder, and what other programs want beside it; raises OSError, WeightsError."""
    target.mkdir(parents=True, exist_ok=True)
    beside = [source / name for name in COPIED if (source / name).is_file()]
    for path in [*files_read(source), *beside]:
        with path.open("rb") as file, replacing(target / path.name) as copy:
            while block := file.read(BLOCK_BYTES):
                copy.write(block)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
