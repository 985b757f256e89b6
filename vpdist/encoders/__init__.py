"""Tokens to vectors: DNABERT-S and ESM-2, their weights, and the packing of batches.

Enters: a model folder, then batches of tokens. Leaves: one float32 vector per sequence, a function of the batch alone.
"""
