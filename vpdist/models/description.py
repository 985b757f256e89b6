"""model.json as frozen dataclasses: what a model consists of, and what is known about it.

`to_json` and `from_json` are each other's inverse. Reading is strict: the file may come from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vpdist.calibration.calibrated import Calibration, NullScores
from vpdist.encoder_kinds import CLASSIFIED, WIDEST
from vpdist.errors import WeightsError
from vpdist.models.calibration_fields import calibration_from_json, null_scores_from_json
from vpdist.models.classifier_entries import (
    LINE,
    LONGEST_CHUNK,
    MOST_HEADS,
    XXH3,
    HeadEntry,
    SummaryEntry,
    is_relative,
    refuse_unfit_heads,
)
from vpdist.models.classifier_entries import ClassifierEntry as ClassifierEntry
from vpdist.models.json_fields import Fields, json_text, shown

FORMAT = "vpdist-model-1"
SLOTS = CLASSIFIED
"""What an encoder of a model may be for; the classifier takes their embeddings in this order."""
JUDGED, NA = "judged", "NA"
"""What becomes of chunks shorter than `Model.shortest_chunk`."""
MOST_FILES, MOST_METRICS, MOST_RECORDS = 10_000, 10_000, 1 << 48
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_WORDS = "at most 64 letters, digits, -, _ and ., the first a letter or a digit"
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|xxh3:[0-9a-f]{32})")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderEntry:
    """The encoder of one slot: a folder inside the model, or a repository of the hub at a commit."""

    folder: str | None = None
    """Relative path of a folder in the Hugging Face layout."""
    hub: str | None = None
    """`owner/name`, when it is not in the folder."""
    revision: str | None = None
    """The commit of `hub`, 40 hexadecimal digits."""
    fingerprint: str | None
    """xxh3_128 (hex) of its files (`encoders.weights.model_fingerprint`); None where nobody has had them yet."""
    family: str
    """Which kind of model it is, such as DNABERT-S (`encoder_kinds`)."""
    width: int
    """Numbers of an embedding."""
    pooling: str
    """How an embedding is made of the vectors of tokens, in the words of `encoder_kinds`."""

    @property
    def source(self) -> str:
        """Where it comes from, as a user may give it: `owner/name@commit`, or the folder."""
        return self.folder if self.folder is not None else f"{self.hub}@{self.revision}"

    @classmethod
    def from_json(cls, path: Path, where: str, content: object) -> EncoderEntry:
        """Raises WeightsError."""
        known = [each.name for each in fields(cls)]
        entry = Fields.of(path, where, content, known[3:], known[:3])
        folder = entry.text_or_none("folder", LINE)
        hub = entry.text_or_none("hub", LINE, HUB_NAME, "of the form owner/name")
        revision = entry.text_or_none("revision", LINE, COMMIT, "a commit of 40 hexadecimal digits")
        if folder is not None and not is_relative(folder):
            raise entry.wrong("folder", f"must be a path down the model's folder, not {shown(folder)}")
        if (folder is None) == (hub is None) or (hub is None) != (revision is None):
            raise entry.wrong("folder", "or hub with revision must be given, one of both")
        return cls(
            folder=folder,
            hub=hub,
            revision=revision,
            fingerprint=entry.text_or_none("fingerprint", LINE, XXH3, "32 hexadecimal digits"),
            family=entry.text("family", LINE),
            width=entry.whole("width", 1, WIDEST),
            pooling=entry.text("pooling", LINE),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One file of labelled sequences that a model was fitted on."""

    file: str
    """Its name, without folders."""
    label: str
    """`virus`, or the name of a source of others."""
    digest: str
    """`sha256:` or `xxh3:` and hexadecimal digits, of its bytes."""
    records: int

    @classmethod
    def from_json(cls, path: Path, where: str, content: object) -> DataFile:
        """Raises WeightsError."""
        entry = Fields.of(path, where, content, [each.name for each in fields(cls)])
        return cls(
            file=entry.text("file", LINE),
            label=entry.text("label", LINE),
            digest=entry.text("digest", LINE, DIGEST, "sha256: or xxh3: and hexadecimal digits"),
            records=entry.whole("records", 0, MOST_RECORDS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure about a model's calls, as the hub's model-index has them."""

    name: str
    """AUROC, AUPRC, F1, MCC, Brier score, ECE, ..."""
    of: str
    """What was judged: fragments, chunks or sequences, and of which length where that is one class."""
    data: str
    """What it was measured on, such as `held-out groups`."""
    value: float
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    n: int | None = None
    """How many were judged."""

    @classmethod
    def from_json(cls, path: Path, where: str, content: object) -> Metric:
        """Raises WeightsError."""
        known = [each.name for each in fields(cls)]
        entry = Fields.of(path, where, content, known[:4], known[4:])
        return cls(
            name=entry.text("name", LINE),
            of=entry.text("of", LINE),
            data=entry.text("data", LINE),
            value=entry.real("value"),
            low=entry.real_or_none("low"),
            high=entry.real_or_none("high"),
            n=entry.whole_or_none("n", 0, MOST_RECORDS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a model was fitted and how well it does."""

    data: tuple[DataFile, ...] = ()
    seed: int | None = None
    splits: Mapping[str, Any] = field(default_factory=dict)
    """The rule and the sizes of the sides; any JSON."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The optimiser's and others; any JSON."""
    metrics: tuple[Metric, ...] = ()

    @classmethod
    def from_json(cls, path: Path, where: str, content: object) -> Training:
        """Raises WeightsError."""
        entry = Fields.of(path, where, content, [each.name for each in fields(cls)])
        data, metrics = entry.items("data", MOST_FILES), entry.items("metrics", MOST_METRICS)
        return cls(
            data=tuple(DataFile.from_json(path, f"{where}.data[{n}]", each) for n, each in enumerate(data)),
            seed=entry.whole_or_none("seed", -(1 << 63), (1 << 63) - 1),
            splits=entry.mapping("splits"),
            settings=entry.mapping("settings"),
            metrics=tuple(Metric.from_json(path, f"{where}.metrics[{n}]", each) for n, each in enumerate(metrics)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model: everything that must fit together for its scores to mean what they meant when it was made."""

    name: str
    method: str
    """Whose method it is, in a few words."""
    description: str
    """One line: for what it is, and for what not."""
    accuracy: str
    """One line: its main figure and on what it was measured, or that none is known."""
    licence: str
    """An identifier of the hub's, such as mit."""
    encoders: Mapping[str, EncoderEntry]
    """By slot: nucleotide, protein, or both."""
    chunk_length: int
    """Bases of the chunks that the classifier was trained on."""
    shortest_chunk: int
    """Bases of the shortest chunk that it may judge."""
    classifier: ClassifierEntry = field(default_factory=ClassifierEntry)
    calibration: Calibration | None = None
    """Of sequences' scores, per length class."""
    null_scores: NullScores | None = None
    """Of sequences that are no viruses and that nothing was fitted on, per length class."""
    training: Training | None = None
    short_chunks: str = JUDGED
    """What becomes of chunks shorter than `shortest_chunk`: NA, or JUDGED, as in the original and in every model.json
    that does not say."""
    heads: tuple[HeadEntry, ...] = ()
    """Classifiers for shorter chunks, ascending."""
    classifier_from: int | None = None
    """Bases of the shortest chunk that `classifier` judges where there are heads."""
    summary: SummaryEntry | None = None
    """Of the training side's embeddings, by which unlike ones are told."""

    def __post_init__(self) -> None:
        """Raises WeightsError for encoders of no slot and for heads that do not fit: callers make models, too."""
        if not self.encoders or not self.encoders.keys() <= set(SLOTS):
            raise WeightsError(
                f"model {self.name}: its encoders are for {sorted(self.encoders)}, of {', '.join(SLOTS)}"
            )
        refuse_unfit_heads(self.name, self.heads, self.classifier_from, tuple(self.encoders), self.chunk_length)

    @property
    def width(self) -> int:
        """Numbers that the classifier takes."""
        return sum(entry.width for entry in self.encoders.values())

    def to_json(self) -> str:
        """The text of its model.json. Raises ValueError for numbers that JSON has not, as NaN."""
        content = {"format": FORMAT} | asdict(self)
        for entry in content["encoders"].values():
            for name in ("folder", "hub", "revision"):
                if entry[name] is None:
                    del entry[name]
        for name, absent in OPTIONAL.items():
            if getattr(self, name) == absent:
                del content[name]
        return json_text(content)

    @classmethod
    def from_json(cls, path: Path, content: object) -> Model:
        """The model that the object in `path` describes. Raises WeightsError naming the file and the field."""
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise WeightsError(f"{path}: format is {shown(content.get('format'))}; this version reads {FORMAT}")
        known = [each.name for each in fields(cls) if each.name not in OPTIONAL]
        entry = Fields.of(path, "", content, ["format", *known], OPTIONAL)
        encoders = Fields.of(path, "encoders", entry.mapping("encoders"), (), SLOTS).content
        if not encoders:
            raise entry.wrong("encoders", f"must name an encoder for {' or '.join(SLOTS)}")
        chunk_length = entry.whole("chunk_length", 3, LONGEST_CHUNK)
        training = entry.content["training"]
        return cls(
            name=entry.text("name", LINE, NAME, NAME_WORDS),
            method=entry.text("method", LINE),
            description=entry.text("description", LINE),
            accuracy=entry.text("accuracy", LINE),
            licence=entry.text("licence", LINE, NAME, NAME_WORDS),
            encoders={
                slot: EncoderEntry.from_json(path, f"encoders.{slot}", encoders[slot])
                for slot in SLOTS
                if slot in encoders
            },
            chunk_length=chunk_length,
            shortest_chunk=entry.whole("shortest_chunk", 1, chunk_length),
            classifier=ClassifierEntry.from_json(path, "classifier", entry.content["classifier"]),
            calibration=calibration_from_json(path, "calibration", entry.content["calibration"]),
            null_scores=null_scores_from_json(path, "null_scores", entry.content["null_scores"]),
            training=None if training is None else Training.from_json(path, "training", training),
            **_optional(path, entry),
        )


OPTIONAL: Mapping[str, Any] = {"short_chunks": JUDGED, "heads": (), "classifier_from": None, "summary": None}
"""Fields that a model.json has only where they are not these, so that others stay as they are."""


def _optional(path: Path, entry: Fields) -> dict[str, Any]:
    """The fields of OPTIONAL that a model.json has. Raises WeightsError."""
    found = entry.content
    read: dict[str, Any] = {}
    if "short_chunks" in found:
        read["short_chunks"] = entry.text("short_chunks", LINE, re.compile(f"{JUDGED}|{NA}"), f"{JUDGED} or {NA}")
    if "heads" in found:
        heads = entry.items("heads", MOST_HEADS)
        read["heads"] = tuple(HeadEntry.from_json(path, f"heads[{n}]", each) for n, each in enumerate(heads))
    if "classifier_from" in found:
        read["classifier_from"] = entry.whole("classifier_from", 1, LONGEST_CHUNK)
    if "summary" in found:
        read["summary"] = SummaryEntry.from_json(path, "summary", found["summary"])
    return read
