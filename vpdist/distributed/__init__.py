"""Ranks find each other: the built-in launch, the process group, the key store, lost ranks.

Enters: the launcher's variables. Leaves: a `Runtime` with rank, world size, device and keys.
"""
