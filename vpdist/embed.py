"""One unit of the plan: tokens in, embeddings through both encoders, calls, one part out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vpdist import parts
from vpdist.batches import batches, take
from vpdist.classifier import Classifier
from vpdist.encoders import Encoder
from vpdist.layout import Tokens, TokenShards
from vpdist.parts import PartHeader
from vpdist.plan import Plan

log = logging.getLogger(__name__)

Report = Callable[..., None]
"""Takes counters by name (see counters.COUNTERS) after every batch; may raise to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitWork:
    """All that computing a unit needs, the same for every unit of a run."""

    plan: Plan
    shards: TokenShards
    encoders: Mapping[str, Encoder]
    """By kind: nucleotide, protein."""
    in_float32: Callable[[str], Encoder]
    """The encoder of a kind in float32, loaded when first asked for: for rows that overflow a narrower format."""
    classifier: Classifier | None
    header: PartHeader
    token_budget: int
    stored: np.dtype
    """Number format of stored embeddings."""
    folder: Path
    """Where parts go."""

    def run(self, unit: int, report: Report) -> int:
        """Embed, classify and write one unit; returns how many of its rows failed.

        Raises DamagedFile when its tokens cannot be read, StorageError when its part cannot be written.
        """
        started = time.perf_counter()
        tokens = self.shards.unit(unit)
        report(load_us=_microseconds_since(started))
        embedded = {kind: self._embed(encoder, tokens[kind], report) for kind, encoder in self.encoders.items()}
        started = time.perf_counter()
        failed = np.zeros(len(next(iter(embedded.values()))), dtype=bool)
        for rows in embedded.values():
            failed |= ~np.isfinite(rows).all(axis=1)
        results: dict[str, np.ndarray] = {}
        if self.classifier is not None:
            results["logits"] = logits(self.classifier, embedded)
        if self.header.embeddings:
            results |= embedded
        classified = time.perf_counter()
        size = parts.write(self.folder, unit, self.plan, self.header, failed, results)
        if failed.any():
            log.warning("unit %d: %d of %d rows have no finite embedding", unit, failed.sum(), len(failed))
        fragment, _ = parts.fragment_rows(self.plan, unit)
        report(
            units=1,
            fragments=len(fragment),
            failures=int(failed.sum()),
            bytes_written=size,
            compute_us=round((classified - started) * 1e6),
            write_us=_microseconds_since(classified),
        )
        return int(failed.sum())

    def _embed(self, encoder: Encoder, tokens: Tokens, report: Report) -> np.ndarray:
        """(m, width) embeddings of a unit's sequences in the unit's order, as they are stored."""
        lengths = tokens.lengths
        rows_MD = np.empty((len(lengths), encoder.width), dtype=self.stored)
        counter = f"{encoder.kind}_tokens"
        for rows in batches(lengths, self.token_budget):
            started = time.perf_counter()
            rows_MD[rows] = _embedded(encoder, tokens, rows)
            n_tokens = int(lengths[rows].sum())
            padding = int(lengths[rows].max()) * len(rows) - n_tokens
            report(batches=1, padded_tokens=padding, compute_us=_microseconds_since(started), **{counter: n_tokens})
        self._retry_in_float32(encoder, tokens, rows_MD, report)
        return rows_MD

    def _retry_in_float32(self, encoder: Encoder, tokens: Tokens, rows_MD: np.ndarray, report: Report) -> None:
        """Compute rows with NaN or infinity again in float32, in place. What stays so has failed."""
        overflowed = np.flatnonzero(~np.isfinite(rows_MD).all(axis=1))
        if len(overflowed) == 0 or encoder.dtype == torch.float32:
            return
        log.warning("%d %s rows overflow %s, retried in float32", len(overflowed), encoder.kind, encoder.dtype)
        wide = self.in_float32(encoder.kind)
        for positions in batches(tokens.lengths[overflowed], self.token_budget):
            started = time.perf_counter()
            rows_MD[overflowed[positions]] = _embedded(wide, tokens, overflowed[positions])
            report(compute_us=_microseconds_since(started))


def _embedded(encoder: Encoder, tokens: Tokens, rows: np.ndarray) -> np.ndarray:
    """(B, width) embeddings of some rows. Where they don't fit the device's memory, of each half by itself; a single
    sequence that does not fit becomes NaN."""
    flat, offsets = take(tokens.flat, tokens.offsets, rows)
    try:
        return encoder.embed(flat, offsets).cpu().numpy()
    except torch.OutOfMemoryError:
        log.warning("out of memory: %d %s sequences, %d tokens", len(rows), encoder.kind, len(flat))
    if encoder.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(rows) == 1:
        return np.full((1, encoder.width), np.nan, dtype=np.float32)
    half = len(rows) // 2
    return np.concatenate([_embedded(encoder, tokens, part) for part in (rows[:half], rows[half:])])


def logits(classifier: Classifier, embedded: Mapping[str, np.ndarray]) -> np.ndarray:
    """(m, 2) logits of a whole unit from its embeddings as stored, so that `classify` repeats them to the bit."""
    return classifier.logits(embedded["nucleotide"].astype(np.float32), embedded["protein"].astype(np.float32))


def _microseconds_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1e6)
