"""Encoders that compute in a child process, for units during which processes have crashed repeatedly.

An `IsolatedEncoder` replaces an `Encoder`: the child computes the same batches, with the same bits. Where the child
dies, each sequence of that batch is computed alone; those that crash it alone become NaN, which makes their rows
failed. The others are computed again in a batch in which harmless tokens replace those of the bad sequences: the batch
keeps its shape, on which bits depend. Where that crashes the child too, they keep what was computed alone, which may
differ in the last digits.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch

from vpdist.embedding.encoder_process import ChildDied, ChildHung, EncoderProcess
from vpdist.embedding.unit_pipeline import UnitWork
from vpdist.embedding.wider_formats import WiderEncoders, dtype_name
from vpdist.encoders.encoder import Encoder
from vpdist.ragged import Ragged

logger = logging.getLogger(__name__)


TRIES_ALONE = 2
"""A sequence is bad when the child dies at it alone this often: a single kill may have come from outside."""


class IsolatedEncoder(Encoder):
    """An encoder of the child process. It has no model in this one; what it returns is on the CPU."""

    def __init__(self, process: EncoderProcess, encoder: Encoder, dtype: torch.dtype) -> None:
        """The same encoder as `encoder`, in `dtype`."""
        self.kind, self.shape, self.folder, self.dtype = encoder.kind, encoder.shape, encoder.folder, dtype
        self.length_bucket = encoder.length_bucket
        self.device = torch.device("cpu")
        self._process, self._dtype_name = process, dtype_name(dtype)

    def embed(self, tokens: Ragged) -> torch.Tensor:
        """(B, width) float32; NaN for a sequence that crashes any process. Raises as `EncoderProcess.embed`."""
        n = len(tokens)
        try:
            return torch.from_numpy(self._embed(tokens))
        except ChildDied as error:
            logger.warning("%s at %d %s sequences", error, n, self.kind)
        tries = TRIES_ALONE if n > 1 else TRIES_ALONE - 1
        alone = [self._embed_alone(tokens.between(row, row + 1), tries) for row in range(n)]
        bad = [row for row in range(n) if alone[row] is None]
        rows_BD = np.full((n, self.width), np.nan, dtype=np.float32)
        good = [row for row in range(n) if row not in bad]
        if good:
            try:
                not_pooled = self.shape.family.not_pooled
                rows_BD[good] = self._embed(with_tokens_replaced(tokens, bad, good[0], not_pooled))[good]
            except ChildDied as error:
                logger.warning("%s again: the %d good sequences keep what was computed alone", error, len(good))
                rows_BD[good] = [alone[row] for row in good]
        return torch.from_numpy(rows_BD)

    def load(self) -> None:
        """Raises torch.OutOfMemoryError, VpdistError where the child cannot load it."""
        self._process.load(self.kind, self._dtype_name, self.folder)

    def _embed(self, batch: Ragged) -> np.ndarray:
        return self._process.embed(self.kind, self._dtype_name, self.folder, batch)

    def _embed_alone(self, sequence: Ragged, tries: int) -> np.ndarray | None:
        """(width,) of one sequence, None where it is bad or does not fit the memory."""
        for _ in range(tries):
            try:
                return np.asarray(self._embed(sequence)[0])
            except ChildDied as error:
                logger.warning("%s at one %s sequence of %d tokens", error, self.kind, len(sequence.flat))
                if isinstance(error, ChildHung):
                    break  # not caused from outside
            except torch.OutOfMemoryError:
                break
        logger.error("a %s sequence of %d tokens cannot be computed: its row fails", self.kind, len(sequence.flat))
        return None


def isolated_work(work: UnitWork, process: EncoderProcess) -> UnitWork:
    """The same work, computed by encoders of the child process."""

    def load(kind: str, dtype: torch.dtype) -> Encoder:
        encoder = IsolatedEncoder(process, work.encoders[kind], dtype)
        encoder.load()
        return encoder

    def release(kind: str, dtype: torch.dtype) -> None:
        process.release(kind, dtype_name(dtype))

    encoders = {kind: IsolatedEncoder(process, each, each.dtype) for kind, each in work.encoders.items()}
    return replace(work, encoders=encoders, wider=WiderEncoders(work.wider.formats, load, release))


def with_tokens_replaced(batch: Ragged, bad: list[int], good: int, kept: int) -> Ragged:
    """The batch with the tokens of bad rows, except `kept` at both ends, replaced by one token of a good row."""
    replaced = Ragged(batch.flat.copy(), batch.offsets)
    filler = batch[good][kept]
    for row in bad:
        replaced[row][kept : len(replaced[row]) - kept] = filler
    return replaced
