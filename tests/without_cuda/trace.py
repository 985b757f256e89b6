"""One batch on a GPU that is pretended, traced."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from tests.without_cuda.full_size import SIZES, Size, batch_of, encoder_of, lengths_of
from tests.without_cuda.pretended import pretended
from vpdist.commands.resolve_config import CUDA_TOKEN_BUDGET, TEMPORARIES_PER_TOKEN, bias_bytes

BUDGET = CUDA_TOKEN_BUDGET


@dataclass(frozen=True, slots=True)
class Trace:
    """What a batch takes."""

    layer: Counter[str]
    """Launches of one layer, by kernel."""
    around: Counter[str]
    """Launches around the layers."""
    bytes_per_number: float
    """What a layer's kernels but matrix products read and write, per token and number of its vector."""
    peak: int
    """Bytes beside the weights."""
    num_splits: set[int | None]
    """As the variable-length kernel was told."""

    @property
    def launches(self) -> int:
        """Of one layer."""
        return self.layer.total()


def trace(
    size: Size,
    dtype: torch.dtype,
    case: str | np.ndarray,
    *,
    capability: tuple[int, int] = (9, 0),
    fused: bool = True,
) -> Trace:
    """Of a batch `case` (see `lengths_of`, or its lengths). Layers are alike: two are compared with one."""
    lengths = lengths_of(case, size.kind, BUDGET) if isinstance(case, str) else case
    launches, moved, peak, num_splits = [], [], 0, set[int | None]()
    for layers in (1, 2):
        with pretended(capability, fused=fused) as watch:
            encoder = encoder_of(size, dtype, layers)
            held = watch.restart()
            pooled_BD = encoder.embed(batch_of(lengths))
            assert pooled_BD.shape == (len(lengths), size.width)
            assert (pooled_BD.dtype, pooled_BD.device.type) == (torch.float32, "cuda")
            launches.append(Counter(watch.launches))
            moved.append(watch.moved)
            num_splits |= set(watch.num_splits)
            peak = watch.memory.peak - held
    layer = launches[1] - launches[0]
    numbers = int(lengths.sum()) * size.width
    return Trace(layer, launches[0] - layer, (moved[1] - moved[0]) / numbers, peak, num_splits)


def allowed(size: Size, dtype: torch.dtype, lengths: np.ndarray) -> int:
    """Bytes beside the weights that the default token budget is made for."""
    per_token = TEMPORARIES_PER_TOKEN * size.width * dtype.itemsize
    return per_token * int(lengths.sum()) + bias_bytes(size.shape, dtype.itemsize, int(lengths.max()))


def check_layer(size: Size, case: str, traced: Trace) -> None:
    """At most 12 launches a layer of ESM-2 and 14 of DNABERT-S, at 500 bp; attention unsplit, by a fused kernel."""
    if case in ("single", "shortest", "500 bp"):
        most = 14 if size.kind == "nucleotide" else 12
        assert traced.launches <= most, f"{traced.launches} launches: {dict(traced.layer)}"
    assert traced.num_splits <= {1}, f"num_splits {traced.num_splits}: bits depend on the batch"
    assert "sdpa::math" not in traced.layer, "attention in plain matrix products"


def check_memory(size: Size, dtype: torch.dtype, lengths: np.ndarray, traced: Trace) -> None:
    """No more than the token budget's rule allows."""
    limit = allowed(size, dtype, lengths)
    assert traced.peak <= limit, f"{traced.peak / limit:.2f} of the memory that the token budget allows"


def table() -> str:
    """What design.md tells of a layer: launches, bytes, and vectors held at the peak, in float16."""
    lines = []
    for name, size in SIZES.items():
        for case in ("500 bp", "mixed"):
            lengths = lengths_of(case, size.kind, BUDGET)
            traced = trace(size, torch.float16, case)
            vectors = traced.peak / (int(lengths.sum()) * size.width * 2)
            lines.append(f"{name}, {case}: {traced.launches} launches, {traced.bytes_per_number:.0f} B, {vectors:.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
