"""Composition: how often a fragment has each short word; encoders without layers and without weights.

Enters: a packed batch of tokens. Leaves: one row per sequence. Nucleotide strings begin in frame, so their tokens are
codons (sequences/composition_tokens.py): words are the 4-mers at every base and the codons in frame. Proteins have a
token per residue: words are residues and pairs of neighbours. Words with another letter than the 4 bases or the 20
amino acids are not counted. In each group of words (256 and 64, 20 and 400) a number is a word's frequency times the
number of words, so that it is about 1 whatever the group and the length. Counts are whole numbers, and a row depends on
its own sequence only: batches, number formats and devices give the same bits.

Shapes: T tokens of all sequences, P = 3 T bases, B sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vpdist.encoders.composition_words import AMINO_ACIDS, BASES, CODON_TOKENS, DIGITS, RESIDUE_TOKENS
from vpdist.encoders.family import EncoderFamily
from vpdist.encoders.packing import Packing, to_device
from vpdist.encoders.shape import EncoderShape

N_BASES, N_RESIDUES = len(BASES), len(AMINO_ACIDS)
OPERATIONS_PER_TOKEN = 60
"""About what counting costs, in operations; it is no product of matrices."""


def nucleotide_shape(path: Path, config: Mapping[str, Any], family: EncoderFamily) -> EncoderShape:
    """The shape of the nucleotide encoder; its config.json holds no sizes."""
    return _shape(family, N_BASES**4 + N_BASES**3, CODON_TOKENS)


def protein_shape(path: Path, config: Mapping[str, Any], family: EncoderFamily) -> EncoderShape:
    """The shape of the protein encoder; its config.json holds no sizes."""
    return _shape(family, N_RESIDUES + N_RESIDUES**2, RESIDUE_TOKENS)


def _shape(family: EncoderFamily, width: int, vocabulary: int) -> EncoderShape:
    return EncoderShape(family=family, width=width, vocabulary=vocabulary, other_flops_per_token=OPERATIONS_PER_TOKEN)


def load_nucleotide(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The nucleotide encoder, in float32 whatever `dtype`."""
    return NucleotideComposition().to(device)


def load_protein(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The protein encoder, in float32 whatever `dtype`."""
    return ProteinComposition()


class NucleotideComposition(nn.Module):
    """4-mers at every base, then codons in frame."""

    digits: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("digits", torch.tensor(DIGITS, dtype=torch.int64))

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        """(B, 320) float32."""
        digits_T3 = self.digits[tokens_T.long()]
        sequence_T = _sequences(packing)
        codons_B = _frequencies(_words(digits_T3.unbind(1), N_BASES), sequence_T, N_BASES**3, packing)
        digits_P, sequence_P = digits_T3.flatten(), sequence_T.repeat_interleave(3)
        neighbours = [digits_P[start : len(digits_P) - 3 + start] for start in range(4)]
        words_P = _words(neighbours, N_BASES).masked_fill(sequence_P[3:] != sequence_P[:-3], N_BASES**4)
        return torch.cat([_frequencies(words_P, sequence_P[:-3], N_BASES**4, packing), codons_B], dim=1)


class ProteinComposition(nn.Module):
    """Residues, then pairs of neighbours."""

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        """(B, 420) float32."""
        residues_T, sequence_T = tokens_T.long(), _sequences(packing)
        pairs_T = _words((residues_T[:-1], residues_T[1:]), N_RESIDUES)
        pairs_T = pairs_T.masked_fill(sequence_T[1:] != sequence_T[:-1], N_RESIDUES**2)
        return torch.cat(
            [
                _frequencies(residues_T, sequence_T, N_RESIDUES, packing),
                _frequencies(pairs_T, sequence_T[:-1], N_RESIDUES**2, packing),
            ],
            dim=1,
        )


def _sequences(packing: Packing) -> Tensor:
    """(T,) int64: the sequence that each token belongs to."""
    return to_device(np.repeat(np.arange(len(packing.lengths)), packing.lengths), packing.device)


def _words(letters: tuple[Tensor, ...] | list[Tensor], n: int) -> Tensor:
    """The number of each word of letters 0 to n - 1; n to the power of its length where a letter is another one."""
    word, known = letters[0], letters[0] < n
    for letter in letters[1:]:
        word, known = word * n + letter, known & (letter < n)
    return word.masked_fill(~known, n ** len(letters))


def _frequencies(words: Tensor, sequence: Tensor, n: int, packing: Packing) -> Tensor:
    """(B, n) float32: n times the frequency of words 0 to n - 1 in each sequence, 0 in one that has none."""
    counts_B = torch.zeros(len(packing.lengths) * (n + 1), device=words.device)
    counts_B.scatter_add_(0, sequence * (n + 1) + words, torch.ones(len(words), device=words.device))
    counts_Bn = counts_B.view(-1, n + 1)[:, :n]
    return counts_Bn * n / counts_Bn.sum(1, keepdim=True).clamp(min=1)
