"""Ranks find each other: the built-in launch, the process group, the key store, who was lost.

Enters: what a launcher set. Leaves: a `Runtime` with rank, world size, device and keys.
"""
