"""What makes a row's numbers of its embeddings: one classifier, or several by the chunk's length, and a distance.

Enters: the embeddings of a unit as stored, and the bases of its rows. Leaves: logits, and where the model has a summary
the distance from it: the datasets of a part that depend on a model beside its encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xxhash

from vpdist.results.classifier import CLASSES, Classifier
from vpdist.results.embedding_summary import EmbeddingSummary
from vpdist.results.row_lengths import class_of_bases

LOGITS, DISTANCE = "logits", "distance"


@dataclass(frozen=True, slots=True)
class Heads:
    """The classifiers of a model, by the bases of the shortest chunk that each judges, ascending; the last one is the
    model's own, which takes the embeddings of all its encoders. Most have one, from 0 bases."""

    classifiers: tuple[tuple[int, Classifier], ...]
    summary: EmbeddingSummary | None = None

    @classmethod
    def of(cls, classifier: Classifier) -> Heads:
        """One classifier for every chunk."""
        return cls(((0, classifier),))

    @property
    def main(self) -> Classifier:
        """For the longest chunks."""
        return self.classifiers[-1][1]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of encoder that are needed."""
        return self.main.kinds

    @property
    def chunk_length(self) -> str | None:
        """As `Classifier.chunk_length`."""
        return self.main.chunk_length

    @property
    def fingerprint(self) -> str:
        """Of one classifier its own; of several xxh3_128 (hex) of where each begins and of its fingerprint."""
        if len(self.classifiers) == 1:
            return self.main.fingerprint
        text = " ".join(f"{begins}:{classifier.fingerprint}" for begins, classifier in self.classifiers)
        return xxhash.xxh3_128_hexdigest(text.encode())

    @property
    def needs_bases(self) -> bool:
        """Whether the numbers of a row depend on its length."""
        return len(self.classifiers) > 1 or self.summary is not None

    def results(self, embedded: Mapping[str, np.ndarray], bases: np.ndarray | None) -> dict[str, np.ndarray]:
        """The datasets `logits` (m, 2) and, with a summary, `distance` (m,) of a whole unit, from its embeddings as
        stored, so that `classify` repeats them to the bit. `bases`: (m,) of the rows' nucleotide strings, where they
        are needed. Raises WeightsError for other widths."""
        if bases is None:
            return {LOGITS: _logits(self.main, embedded)}
        results = {LOGITS: self._by_length(embedded, bases)}
        if self.summary is not None:
            results[DISTANCE] = self.summary.relative(embedded, bases)
        return results

    def _by_length(self, embedded: Mapping[str, np.ndarray], bases: np.ndarray) -> np.ndarray:
        begins = np.array([begin for begin, _ in self.classifiers])
        chosen = class_of_bases(begins, bases)
        logits_M2 = np.empty((len(bases), CLASSES), np.float32)
        for number, (_, classifier) in enumerate(self.classifiers):
            rows = np.flatnonzero(chosen == number)
            if len(rows):
                logits_M2[rows] = _logits(classifier, {kind: embedded[kind][rows] for kind in classifier.kinds})
        return logits_M2


def _logits(classifier: Classifier, embedded: Mapping[str, np.ndarray]) -> np.ndarray:
    return classifier.logits(*(embedded[kind] for kind in classifier.kinds))
