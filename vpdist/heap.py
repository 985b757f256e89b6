"""glibc's heap, told to keep what an encoder's next layer asks for again.

By itself glibc gives freed memory at the heap's end back to the system, and whether a layer's largest temporary lies
there is luck: in every other process it was returned and faulted in again for every layer, 4 % of ESM-2's time.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt(3): free bytes at the heap's end from which they are returned; size from which a block is mapped alone."""
KEPT_BYTES = 128 << 20
"""More than a layer's temporaries take at a CPU's token budget (52 MB for ESM-2 33x1280 in float32)."""
MAPPED_BYTES = 32 << 20
"""The most that glibc allows on 64-bit systems."""


def keep_freed_pages() -> bool:
    """Keep freed memory in this process from now on; whether its C library has that setting (musl's and macOS's have
    none, and are left as they are)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(M_TRIM_THRESHOLD, KEPT_BYTES), mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)])
