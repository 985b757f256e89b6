"""What `vpdist train` puts into a model beside its classifier: as description, card and people are told of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from vpdist.models.description import NA, HeadEntry, Metric, Model, SummaryEntry
from vpdist.results.classifier import Classifier
from vpdist.results.embedding_summary import EmbeddingSummary
from vpdist.results.heads import Heads
from vpdist.training import judge
from vpdist.training.head_lengths import HeadLength, meets
from vpdist.training.metrics import NAMES, TITLES

RATE = "share of others called virus"


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A classifier for shorter chunks, judged on rank 0."""

    wanted: HeadLength
    kinds: tuple[str, ...]
    classifier: Classifier
    figures: dict[str, Any]
    """By who judged the pieces, "head" or "main": figures of NAMES with intervals, RATE, n, groups."""

    @property
    def entry(self) -> HeadEntry:
        length = self.wanted.length
        return HeadEntry(
            from_bases=self.wanted.begins, chunk_length=length, kinds=self.kinds, file=f"heads/{length}.safetensors"
        )


@dataclass(frozen=True, slots=True)
class Beside:
    """What a model has beside its classifier."""

    heads: tuple[FittedHead, ...] = ()
    summary: EmbeddingSummary | None = None
    shortest_chunk: int | None = None
    """None where it judges every chunk."""

    def described(self, model: Model) -> Model:
        """`model` with it."""
        changes: dict[str, Any] = {}
        if self.shortest_chunk is not None:
            changes |= {"shortest_chunk": min(self.shortest_chunk, model.chunk_length), "short_chunks": NA}
        if self.heads:
            begins = meets([head.wanted.length for head in self.heads], model.chunk_length)
            changes |= {"heads": tuple(head.entry for head in self.heads), "classifier_from": begins[-1]}
        if self.summary is not None:
            changes["summary"] = SummaryEntry()
        if model.training is not None:
            metrics = (*model.training.metrics, *self._metrics(model.chunk_length))
            changes["training"] = replace(model.training, metrics=metrics)
        return replace(model, **changes)

    def with_main(self, classifier: Classifier, chunk_length: int) -> Heads:
        """What scores rows: the further classifiers and the main one, without the summary."""
        begins = meets([head.wanted.length for head in self.heads], chunk_length)
        shorter = [(head.wanted.begins, head.classifier) for head in self.heads]
        return Heads((*shorter, (begins[-1] if begins else 0, classifier)))

    @property
    def figures(self) -> dict[str, Any]:
        """By length."""
        return {str(head.wanted.length): head.figures for head in self.heads}

    def _metrics(self, chunk_length: int) -> Iterator[Metric]:
        for head in self.heads:
            for by, found in head.figures.items():
                of = f"pieces of {head.wanted.length} bases"
                of += "" if by == "head" else f", by the classifier for {chunk_length}"
                for name, title in [*TITLES.items(), (RATE, RATE)]:
                    if name in (NAMES[0], RATE) and found[name]["value"] is not None:
                        yield Metric(name=title, of=of, data=judge.side_name(), n=found["n"], **found[name])

    def lines(self) -> Iterator[str]:
        """For the user, at the end."""
        for head in self.heads:
            for by, found in head.figures.items():
                who = "its own classifier" if by == "head" else "the main classifier"
                told = [
                    f"{title} {found[name]['value']:.3f}"
                    for name, title in ((NAMES[0], TITLES[NAMES[0]]), (RATE, RATE))
                    if found[name]["value"] is not None
                ]
                yield f"test side, {found['n']:,} pieces of {head.wanted.length} bases, {who}: {', '.join(told)}"
