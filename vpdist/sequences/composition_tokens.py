"""Tokens of the composition encoders: codons of a nucleotide string, residues of a protein. No special ones.

Enter: strings as ASCII bytes. Leave: a token for every three bases, the last one for what is left, so that every base
can be told from the tokens; or a token per residue. Neither needs a file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vpdist.encoder_kinds import EncoderKind
from vpdist.encoders.composition_words import AMINO_ACIDS, BASES, NONE, OTHER
from vpdist.ragged import Ragged, offsets_of

_DIGIT_OF_LETTER = np.full(256, OTHER, np.uint8)
_DIGIT_OF_LETTER[list(BASES.encode())] = range(len(BASES))
_TOKEN_OF_RESIDUE = np.full(256, len(AMINO_ACIDS), np.uint8)
_TOKEN_OF_RESIDUE[list(AMINO_ACIDS.encode())] = range(len(AMINO_ACIDS))


class CodonTokenizer:
    """One token for every three bases."""

    fingerprint = "codons-1"

    def __init__(self, folder: Path, kind: EncoderKind) -> None:
        self._token_type = np.dtype(kind.token_type)

    def encode(self, texts: Ragged) -> Ragged:
        """Token ids of each nucleotide string (ASCII, uint8)."""
        lengths = texts.lengths
        offsets = offsets_of(-(-lengths // 3))
        digits = np.full(3 * offsets[-1], NONE, np.uint8)
        shift = np.repeat(3 * offsets[:-1] - texts.offsets[:-1], lengths)
        digits[np.arange(len(texts.flat)) + shift] = _DIGIT_OF_LETTER[texts.flat]
        first, second, third = digits.reshape(-1, 3).T.astype(self._token_type)
        return Ragged((first * (NONE + 1) + second) * (NONE + 1) + third, offsets)


class ResidueTokenizer:
    """One token per residue."""

    fingerprint = "residues-1"

    def __init__(self, folder: Path, kind: EncoderKind) -> None:
        self._token_type = np.dtype(kind.token_type)

    def encode(self, texts: Ragged) -> Ragged:
        """Token ids of each protein (ASCII, uint8)."""
        return Ragged(_TOKEN_OF_RESIDUE[texts.flat].astype(self._token_type), texts.offsets)
