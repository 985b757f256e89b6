"""The letters of composition encoders, and how codons are numbered: what tokenizers and encoders agree on."""

from __future__ import annotations

from itertools import product

BASES, AMINO_ACIDS = "ACGT", "ACDEFGHIKLMNPQRSTVWY"
OTHER, NONE = len(BASES), len(BASES) + 1
"""Digits of another letter than these bases, and of none."""
DIGITS = tuple(product(range(NONE + 1), repeat=3))
"""The digits of each codon token, which is a number of three digits to base 6."""
CODON_TOKENS, RESIDUE_TOKENS = len(DIGITS), len(AMINO_ACIDS) + 1
