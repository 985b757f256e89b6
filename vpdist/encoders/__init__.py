"""Tokens to vectors: DNABERT-S, ESM-2 and others, their weights, and the packing of batches.

Enters: a model folder, then batches of tokens. Leaves: one float32 vector per sequence, a function of the batch alone.
"""
