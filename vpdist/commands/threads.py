"""The threads of a rank: torch's and those of the tokenizer library."""

from __future__ import annotations

import torch

from vpdist.cpu_quota import require_threads
from vpdist.environment import limit_library_threads


def use_threads(threads: int) -> None:
    """Compute with so many from now on; call before a tokenizer's first use. Raises RuntimeError where they cannot be
    started."""
    limit_library_threads(threads)
    require_threads(threads)
    torch.set_num_threads(threads)
