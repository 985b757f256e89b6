"""Encoders whose work a child process does, for units during which processes keep dying.

`QuarantinedEncoder` stands in for an `Encoder`: the same batches go to the child, which computes them as the rank
itself would, to the bit. Where the child dies, each sequence of that batch is tried alone; the ones that kill it alone
become NaN, which makes their rows failed. The others are computed again with harmless sequences of the same lengths in
the bad ones' places: the batch has its undisturbed shape, on which bits depend. Where that kills the child too, they
keep what they got alone, which may differ in the last digits.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from vpdist.embedding.encoder_process import ChildDied, ChildHung, EncoderProcess
from vpdist.encoder_kinds import KINDS
from vpdist.encoders.encoder import DTYPES, Encoder
from vpdist.ragged import Ragged

logger = logging.getLogger(__name__)


TRIES_ALONE = 2
"""A sequence is bad when the child dies of it alone this often: one kill from outside condemns nothing."""


class IsolatedEncoder(Encoder):
    """An encoder of a quarantine's child. It has no model here; what it returns lies on the CPU."""

    def __init__(self, quarantine: EncoderProcess, encoder: Encoder, dtype: torch.dtype) -> None:
        """Like `encoder`, in `dtype`."""
        self.kind, self.width, self.folder, self.dtype = encoder.kind, encoder.width, encoder.folder, dtype
        self.vocabulary, self.length_bucket = encoder.vocabulary, encoder.length_bucket
        self.device = torch.device("cpu")
        self._quarantine = quarantine
        self._dtype_name = next(name for name, each in DTYPES.items() if each == dtype)

    def embed(self, tokens: Ragged) -> torch.Tensor:
        """(B, width) float32; NaN where a sequence ends any process that computes it. Raises as `Quarantine.embed`."""
        n = len(tokens)
        try:
            return torch.from_numpy(self._ask(tokens))
        except ChildDied as death:
            logger.warning("%s at %d %s sequences", death, n, self.kind)
        alone = [
            self._alone(tokens.between(row, row + 1), TRIES_ALONE if n > 1 else TRIES_ALONE - 1) for row in range(n)
        ]
        bad = [row for row in range(n) if alone[row] is None]
        rows_BD = np.full((n, self.width), np.nan, dtype=np.float32)
        good = [row for row in range(n) if row not in bad]
        if good:
            try:
                rows_BD[good] = self._ask(with_stand_ins(tokens, bad, good[0], KINDS[self.kind].not_pooled))[good]
            except ChildDied as death:
                logger.warning("%s again: the %d good sequences keep what they got alone", death, len(good))
                rows_BD[good] = [alone[row] for row in good]
        return torch.from_numpy(rows_BD)

    def load(self) -> None:
        """Raises torch.OutOfMemoryError, VpdistError where the child cannot load it."""
        self._quarantine.load(self.kind, self._dtype_name, self.folder)

    def _ask(self, batch: Ragged) -> np.ndarray:
        return self._quarantine.embed(self.kind, self._dtype_name, self.folder, batch)

    def _alone(self, sequence: Ragged, tries: int) -> np.ndarray | None:
        """(width,) of one sequence, None where it is bad or fits nowhere."""
        for _ in range(tries):
            try:
                return np.asarray(self._ask(sequence)[0])
            except ChildDied as death:
                logger.warning("%s at one %s sequence of %d tokens", death, self.kind, len(sequence.flat))
                if isinstance(death, ChildHung):
                    break  # nobody from outside did that
            except torch.OutOfMemoryError:
                break
        logger.error("set aside: a %s sequence of %d tokens", self.kind, len(sequence.flat))
        return None


def with_stand_ins(batch: Ragged, bad: list[int], good: int, kept: int) -> Ragged:
    """The batch with the tokens of bad rows, but `kept` ones at both ends, replaced by one token of a good row."""
    replaced = Ragged(batch.flat.copy(), batch.offsets)
    filler = batch[good][kept]
    for row in bad:
        replaced[row][kept : len(replaced[row]) - kept] = filler
    return replaced
