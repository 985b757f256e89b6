"""What model.json says of the files that make a row's numbers: the classifier, those for shorter chunks, the summary.

A model may have several classifiers ("heads"), each for chunks of a range of lengths: composition and meaning of a
short piece differ from those of a long one. The embeddings are the same for all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from vpdist.encoder_kinds import KINDS
from vpdist.errors import WeightsError
from vpdist.models.json_fields import Fields, shown

LINE = 300
"""Most letters of a text that is printed as a line."""
LONGEST_CHUNK = 1_000_000
MOST_HEADS = 16
SHA256 = re.compile(r"[0-9a-f]{64}")
XXH3 = re.compile(r"[0-9a-f]{32}")
STEP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""One step of a relative path; none begins with a dot."""


def is_relative(path: str) -> bool:
    """Whether a path of a model.json leads down its folder, as text."""
    return len(path) <= LINE and all(STEP.fullmatch(step) for step in path.split("/"))


def relative_file(entry: Fields) -> str:
    """The field `file`. Raises WeightsError unless it is a path down the model's folder."""
    file = entry.text("file", LINE)
    if not is_relative(file):
        raise entry.wrong("file", f"must be a path down the model's folder, not {shown(file)}")
    return file


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierEntry:
    """The classifier's file. `write_model` fills in the digests."""

    file: str = "classifier.safetensors"
    """Relative path."""
    sha256: str = ""
    """Of the file's bytes (hex)."""
    fingerprint: str = ""
    """xxh3_128 (hex) of its parameters (`Classifier.fingerprint`), the same in whichever file they are."""

    @classmethod
    def from_json(cls, path: Path, where: str, content: object) -> ClassifierEntry:
        """Raises WeightsError."""
        entry = Fields.of(path, where, content, [each.name for each in fields(cls)])
        return cls(
            file=relative_file(entry),
            sha256=entry.text("sha256", LINE, SHA256, "64 hexadecimal digits"),
            fingerprint=entry.text("fingerprint", LINE, XXH3, "32 hexadecimal digits"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadEntry:
    """A further classifier, for chunks from `from_bases` on, up to where the next longer one begins."""

    from_bases: int
    """Bases of the shortest chunk that it judges where the model may judge such; the first one takes shorter ones too,
    if the model has no limit."""
    chunk_length: int
    """Bases of the pieces that it was trained on."""
    kinds: tuple[str, ...]
    """The encoders whose embeddings it takes: all of the model's, or fewer."""
    file: str
    sha256: str = ""
    fingerprint: str = ""

    @classmethod
    def from_json(cls, path: Path, where: str, content: object) -> HeadEntry:
        """Raises WeightsError."""
        entry = Fields.of(path, where, content, [each.name for each in fields(cls)])
        kinds = entry.items("kinds", len(KINDS))
        if not kinds or kinds != [kind for kind in KINDS if kind in kinds]:
            raise entry.wrong("kinds", f"must be of {', '.join(KINDS)}, in this order, not {shown(kinds)}")
        return cls(
            from_bases=entry.whole("from_bases", 1, LONGEST_CHUNK),
            chunk_length=entry.whole("chunk_length", 3, LONGEST_CHUNK),
            kinds=tuple(kinds),
            file=relative_file(entry),
            sha256=entry.text("sha256", LINE, SHA256, "64 hexadecimal digits"),
            fingerprint=entry.text("fingerprint", LINE, XXH3, "32 hexadecimal digits"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryEntry:
    """The file that describes the embeddings of the training side (results.embedding_summary)."""

    file: str = "summary.safetensors"
    sha256: str = ""
    fingerprint: str = ""
    """xxh3_128 (hex) of its arrays."""

    @classmethod
    def from_json(cls, path: Path, where: str, content: object) -> SummaryEntry:
        """Raises WeightsError."""
        entry = ClassifierEntry.from_json(path, where, content)
        return cls(file=entry.file, sha256=entry.sha256, fingerprint=entry.fingerprint)


def refuse_unfit_heads(
    name: str, heads: Sequence[HeadEntry], classifier_from: int | None, slots: Sequence[str], chunk_length: int
) -> None:
    """Raises WeightsError unless the heads of the model `name` ascend, end where its classifier begins, and take
    embeddings of its encoders (`slots`)."""
    if (classifier_from is None) != (not heads):
        raise WeightsError(f"model {name}: heads and classifier_from must be given, both or neither")
    begins = [head.from_bases for head in heads] + ([] if classifier_from is None else [classifier_from])
    if begins != sorted(set(begins)) or (begins and begins[-1] > chunk_length):
        raise WeightsError(
            f"model {name}: its classifiers begin at {', '.join(map(str, begins))} bases; they must ascend, to at most "
            f"the chunk length of {chunk_length}"
        )
    for head in heads:
        if not set(head.kinds) <= set(slots):
            raise WeightsError(
                f"model {name}: the classifier from {head.from_bases} bases takes {' and '.join(head.kinds)} "
                f"embeddings, but the model has {' and '.join(slots)} encoders"
            )
