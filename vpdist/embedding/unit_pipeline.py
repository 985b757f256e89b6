"""One unit of the plan: tokens in, embeddings through both encoders, calls, one part out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vpdist.distributed.device import return_free_memory
from vpdist.embedding.device_buffers import EmbeddingRows, InFlight
from vpdist.embedding.wider_formats import WiderEncoders, dtype_name
from vpdist.encoders.encoder import Encoder
from vpdist.encoders.model_files import ModelFiles
from vpdist.monitoring.counters import SCORE_BINS
from vpdist.planning.plan import Plan, batches
from vpdist.planning.token_shards import TokenShards
from vpdist.ragged import Ragged
from vpdist.results import parts
from vpdist.results.earlier_embeddings import EarlierEmbeddings, KnownRows
from vpdist.results.heads import Heads
from vpdist.results.parts import PartHeader

logger = logging.getLogger(__name__)


Report = Callable[..., None]
"""Takes counters by name (see counters.COUNTERS) after every batch; may raise to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitWork:
    """Everything that computing a unit takes, the same for every unit of a run."""

    plan: Plan
    shards: TokenShards
    files: Mapping[str, ModelFiles]
    """Of each encoder by kind."""
    encoders: Mapping[str, Encoder]
    """By kind."""
    wider: WiderEncoders
    """For rows that overflow the encoders' number format."""
    classifier: Heads | None
    header: PartHeader
    token_budget: int
    stored: np.dtype
    """Number format of stored embeddings."""
    folder: Path
    """The folder of parts."""
    earlier: EarlierEmbeddings | None = None
    """What is taken over from another run."""
    row_bases: np.ndarray | None = None
    """(r,) bases of each row's nucleotide string, where the classifier goes by them."""
    written: Callable[[int], None] = lambda unit: None
    """Is told the number of each unit once its part is written."""

    def bases(self, unit: int) -> np.ndarray | None:
        """(m,) those of a unit's rows."""
        rows = self.plan.rows(unit)
        return None if self.row_bases is None else np.asarray(self.row_bases[rows.start : rows.stop])

    @property
    def unit_cost(self) -> np.ndarray:
        """(u,) cost of each unit here."""
        return self.plan.unit_cost if self.earlier is None else self.earlier.unit_cost

    @property
    def unit_tokens(self) -> np.ndarray:
        """(u,) tokens of each unit that are embedded here."""
        return self.plan.unit_tokens if self.earlier is None else self.earlier.unit_tokens


@dataclass(slots=True)
class _Embedded:
    """A unit whose batches have all been launched."""

    unit: int
    tokens: dict[str, Ragged]
    rows: dict[str, EmbeddingRows]
    known: KnownRows | None
    """Rows that are not among the batches."""


class Pipeline:
    """Computes units one after the other. On CUDA the embeddings of one are copied to the host, classified and written
    while the next is computed; on a CPU, where that gains nothing, each is written before the next begins.

    Leaving the context waits for all units; with an exception only for a part that is being written.
    """

    def __init__(self, work: UnitWork, report: Report, *, overlap: bool | None = None) -> None:
        """`overlap`: whether a unit is written while the next is computed; None: on CUDA."""
        self.failures = self._operations = 0
        self._work, self._report = work, report
        self._device = next(iter(work.encoders.values())).device
        on_cuda = self._device.type == "cuda"
        self._overlaps = on_cuda if overlap is None else overlap
        self._stream = torch.cuda.Stream(self._device) if on_cuda else None
        self._in_flight = InFlight(self._device)
        self._embedded: _Embedded | None = None
        self._writer = ThreadPoolExecutor(1, "vpdist-writer") if self._overlaps else None
        self._writing: Future[dict[str, int]] | None = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._in_flight.wait()
                self._start_writing()
                self._finish_writing()
        finally:
            if self._writer is not None:
                self._writer.shutdown()

    def run(self, unit: int) -> None:
        """Embed, classify and write one unit.

        Raises DamagedFile for tokens that cannot be read, StorageError where this part or the last cannot be written.
        """
        started = time.perf_counter()
        tokens = self._work.shards.unit(unit)
        known = None if self._work.earlier is None else self._work.earlier.known(unit)
        self._report(load_us=_microseconds_since(started))
        rows = {kind: self._launch(encoder, tokens[kind], known) for kind, encoder in self._work.encoders.items()}
        self._start_writing()  # the unit before, unless that has happened during a batch
        self._embedded = _Embedded(unit, tokens, rows, known)
        if not self._overlaps:
            self._start_writing()
            self._finish_writing()

    def _launch(self, encoder: Encoder, tokens: Ragged, known: KnownRows | None) -> EmbeddingRows:
        """Launch batches of a unit's rows that are not known; returns all its rows, their copy to the host started."""
        lengths = tokens.lengths
        unknown = np.arange(len(lengths))
        if known is not None:
            unknown = np.delete(unknown, known.positions)
        rows_MD = EmbeddingRows(len(lengths), encoder.width, self._work.stored, self._device, self._stream)
        started = time.perf_counter()
        for positions in batches(lengths[unknown], self._work.token_budget):
            rows = unknown[positions]
            rows_MD.put(rows, self._embed(encoder, tokens, rows))
            n_tokens, padding = int(lengths[rows].sum()), encoder.padding(lengths[rows])
            work_before = self._operations // 10**6
            self._operations += encoder.operations(lengths[rows])
            work = self._operations // 10**6 - work_before
            spent_us, started = _microseconds_since(started), time.perf_counter()

            def done(
                n_tokens: int = n_tokens, padding: int = padding, spent_us: int = spent_us, work: int = work
            ) -> None:
                counted = {f"{encoder.kind}_tokens": n_tokens, "work_mflop": work}
                self._report(batches=1, padded_tokens=padding, compute_us=spent_us, **counted)

            self._in_flight.launched(done)
            if self._embedded is not None and all(each.copy_done for each in self._embedded.rows.values()):
                self._start_writing()
        rows_MD.start_copy()
        return rows_MD

    def _embed(self, encoder: Encoder, tokens: Ragged, rows: np.ndarray) -> Tensor:
        """(B, width) float32 embeddings of some rows; of each half by itself where they do not fit the device's memory.
        A single sequence that does not fit becomes NaN."""
        batch = tokens.take(rows)
        try:
            return encoder.embed(batch)
        except torch.OutOfMemoryError:
            logger.warning("out of memory: %d %s sequences, %d tokens", len(rows), encoder.kind, len(batch.flat))
        self._in_flight.wait()
        self._work.wider.release()
        return_free_memory(encoder.device)
        if len(rows) == 1:
            return torch.full((1, encoder.width), torch.nan, device=encoder.device)
        half = len(rows) // 2
        return torch.cat([self._embed(encoder, tokens, part) for part in (rows[:half], rows[half:])])

    def _start_writing(self) -> None:
        """Start to classify and write the embedded unit, after rows that overflow are computed again."""
        if self._embedded is None:
            return
        embedded, self._embedded = self._embedded, None
        on_host = {kind: rows.on_host() for kind, rows in embedded.rows.items()}
        for kind, rows_MD in on_host.items():
            if embedded.known is not None and len(embedded.known.positions):
                rows_MD[embedded.known.positions] = embedded.known.embeddings[kind]
            self._retry_wider(self._work.encoders[kind], embedded.tokens[kind], rows_MD)
        self._work.wider.end_of_unit()
        self._finish_writing()
        if self._writer is None:
            self._writing = Future()
            self._writing.set_result(_written(self._work, embedded.unit, on_host))
        else:
            self._writing = self._writer.submit(_written, self._work, embedded.unit, on_host)

    def _finish_writing(self) -> None:
        """Wait for the part that is being written, and count it. Raises what writing it raised."""
        if self._writing is not None:
            counted, self._writing = self._writing.result(), None
            self.failures += counted["failures"]
            self._report(**counted)

    def _retry_wider(self, encoder: Encoder, tokens: Ragged, rows_MD: np.ndarray) -> None:
        """Compute rows with NaN or infinity again in wider formats, in place. Rows that keep them have failed."""
        overflowed, tried = np.flatnonzero(~np.isfinite(rows_MD).all(axis=1)), dtype_name(encoder.dtype)
        for dtype in self._work.wider.formats:
            if len(overflowed) == 0:
                return
            name = dtype_name(dtype)
            logger.warning("%d %s rows overflow %s, retried in %s", len(overflowed), encoder.kind, tried, name)
            try:
                wider = self._work.wider.encoder(encoder.kind, dtype)
                overflowed = self._computed_again(wider, tokens, overflowed, rows_MD)
            except torch.OutOfMemoryError:
                logger.warning("no memory for the %s encoder in %s: these rows fail", encoder.kind, name)
                return
            tried = name

    def _computed_again(self, wider: Encoder, tokens: Ragged, rows: np.ndarray, rows_MD: np.ndarray) -> np.ndarray:
        """Compute some rows in a wider format, in place; returns those that overflow it, too. One that only the format
        of stored embeddings cannot hold is not among them: no wider encoder helps it."""
        left = []
        for positions in batches(tokens.lengths[rows], self._work.token_budget):
            started = time.perf_counter()
            found_BD = self._embed(wider, tokens, rows[positions]).cpu().numpy()
            rows_MD[rows[positions]] = found_BD
            left.append(rows[positions][~np.isfinite(found_BD).all(axis=1)])
            self._report(compute_us=_microseconds_since(started))
        return np.sort(np.concatenate(left))


def _written(work: UnitWork, unit: int, embedded: dict[str, np.ndarray]) -> dict[str, int]:
    """Classify and write one unit; returns its counters. Raises StorageError."""
    started = time.perf_counter()
    failed = np.zeros(len(next(iter(embedded.values()))), dtype=bool)
    for rows in embedded.values():
        failed |= ~np.isfinite(rows).all(axis=1)
    results: dict[str, np.ndarray] = {}
    if work.classifier is not None:
        results |= work.classifier.results(embedded, work.bases(unit))
    if work.header.embeddings:
        results |= embedded
    classified = time.perf_counter()
    size = parts.write(work.folder, unit, work.plan, work.header, failed, results)
    work.written(unit)
    if failed.any():
        logger.warning("unit %d: %d of %d rows have no finite embedding", unit, failed.sum(), len(failed))
    return {
        "units": 1,
        "fragments": len(work.plan.fragments(unit).flat),
        "failures": int(failed.sum()),
        "bytes_written": size,
        "compute_us": round((classified - started) * 1e6),
        "write_us": _microseconds_since(classified),
        **_scores(results.get("logits")),
    }


def _scores(logits: np.ndarray | None) -> dict[str, int]:
    """Rows by virus score, the softmax of (m, 2) logits, in eighths of 0 to 1."""
    if logits is None:
        return {}
    difference = (logits[:, 1] - logits[:, 0]).astype(np.float64)
    difference = difference[np.isfinite(difference)]
    eighths = np.minimum(7, 8 / (1 + np.exp(-difference.clip(-500, 500)))).astype(np.int64)
    return dict(zip(SCORE_BINS, np.bincount(eighths, minlength=8).tolist(), strict=True))


def _microseconds_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1e6)
