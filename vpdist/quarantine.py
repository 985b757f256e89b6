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

from vpdist.batches import take
from vpdist.encoder_process import Batch, ChildDied, ChildHung, Quarantine
from vpdist.encoders import DTYPES, Encoder

log = logging.getLogger(__name__)

TRIES_ALONE = 2
"""A sequence is bad when the child dies of it alone this often: one kill from outside condemns nothing."""


class QuarantinedEncoder(Encoder):
    """An encoder of a quarantine's child. It has no model here; what it returns lies on the CPU."""

    def __init__(self, quarantine: Quarantine, encoder: Encoder, dtype: torch.dtype) -> None:
        """Like `encoder`, in `dtype`."""
        self.kind, self.width, self.folder, self.dtype = encoder.kind, encoder.width, encoder.folder, dtype
        self.vocabulary, self.special, self.granule = encoder.vocabulary, encoder.special, encoder.granule
        self.device = torch.device("cpu")
        self._quarantine = quarantine
        self._dtype_name = next(name for name, each in DTYPES.items() if each == dtype)

    def embed(self, tokens: np.ndarray, offsets: np.ndarray) -> torch.Tensor:
        """(B, width) float32; NaN where a sequence ends any process that computes it. Raises as `Quarantine.embed`."""
        batch = (tokens, offsets)
        try:
            return torch.from_numpy(self._ask(batch))
        except ChildDied as death:
            log.warning("%s at %d %s sequences", death, len(offsets) - 1, self.kind)
        n = len(offsets) - 1
        alone = [
            self._alone(take(*batch, np.array([row])), TRIES_ALONE if n > 1 else TRIES_ALONE - 1) for row in range(n)
        ]
        bad = [row for row in range(n) if alone[row] is None]
        rows_BD = np.full((n, self.width), np.nan, dtype=np.float32)
        good = [row for row in range(n) if row not in bad]
        if good:
            try:
                rows_BD[good] = self._ask(with_stand_ins(batch, bad, good[0], self.special))[good]
            except ChildDied as death:
                log.warning("%s again: the %d good sequences keep what they got alone", death, len(good))
                rows_BD[good] = [alone[row] for row in good]
        return torch.from_numpy(rows_BD)

    def load(self) -> None:
        """Raises torch.OutOfMemoryError, VpdistError where the child cannot load it."""
        self._quarantine.load(self.kind, self._dtype_name, self.folder)

    def _ask(self, batch: Batch) -> np.ndarray:
        return self._quarantine.embed(self.kind, self._dtype_name, self.folder, batch)

    def _alone(self, sequence: Batch, tries: int) -> np.ndarray | None:
        """(width,) of one sequence, None where it is bad or fits nowhere."""
        for _ in range(tries):
            try:
                return np.asarray(self._ask(sequence)[0])
            except ChildDied as death:
                log.warning("%s at one %s sequence of %d tokens", death, self.kind, len(sequence[0]))
                if isinstance(death, ChildHung):
                    break  # nobody from outside did that
            except torch.OutOfMemoryError:
                break
        log.error("set aside: a %s sequence of %d tokens", self.kind, len(sequence[0]))
        return None


def with_stand_ins(batch: Batch, bad: list[int], good: int, special: int) -> Batch:
    """The batch with the tokens of bad rows, but `special` ones at both ends, replaced by one token of a good row."""
    tokens, offsets = batch[0].copy(), batch[1]
    filler = tokens[offsets[good] + special]
    for row in bad:
        tokens[offsets[row] + special : offsets[row + 1] - special] = filler
    return tokens, offsets
