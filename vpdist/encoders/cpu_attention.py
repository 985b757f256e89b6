"""Attention on a CPU as batched products through oneDNN, a block of scores at a time.

torch's kernel takes about six times what its two products alone would need at the lengths of fragments: it multiplies
through MKL, which is slow on other processors than Intel's, and converts every tile. Here scores and softmax are
float32, weights of the mean have the encoder's number format, and a block's scores stay in the cache until they are
used. docs/design.md says how to measure it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SCORE_BYTES = 2 << 20
"""Bytes of a block's scores: what fits into a core's second-level cache."""


def attention(query_NHLE: Tensor, key_NHLE: Tensor, value_NHLE: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """(N, H, L, E): softmax(scale * query key + mask) value, where `serves` says that it is computed here.

    Sequences and heads are computed on their own, so that a result does not depend on what else is in the batch.
    """
    n, h, length, width = query_NHLE.shape
    query = _copied(query_NHLE, torch.float32)
    key = _copied(key_NHLE, torch.float32).transpose(1, 2)
    value = _copied(value_NHLE, query_NHLE.dtype)
    output = torch.empty_like(value)
    blocks = list(_blocks(n, h, 4 * length * length))
    largest = max((stop - start for start, stop in blocks), default=0)
    scores_BLL = torch.empty(largest, length, length)  # for all blocks: new ones would be faulted in each time
    weights_BLL = torch.empty_like(scores_BLL, dtype=query_NHLE.dtype)
    for start, stop in blocks:
        scores, weights = scores_BLL[: stop - start], weights_BLL[: stop - start]
        with _products_by_onednn():
            torch.baddbmm(scores, query[start:stop], key[start:stop], beta=0, alpha=scale, out=scores)
            if mask is not None:
                _add(scores, mask, start, h)
            weights.copy_(torch.softmax(scores, -1, out=scores))
            torch.bmm(weights, value[start:stop], out=output[start:stop])
    return output.view(n, h, length, width)


def serves(query_NHLE: Tensor, mask: Tensor | None) -> bool:
    """Whether these products are computed here: on a CPU, in bfloat16, or in float32 where oneDNN keeps it exact."""
    if query_NHLE.device.type != "cpu" or (mask is not None and not mask.is_floating_point()):
        return False
    if query_NHLE.dtype == torch.float32:
        return not torch.cpu.get_capabilities().get("amx_bf16", False)
    return query_NHLE.dtype == torch.bfloat16


def _add(scores_BLL: Tensor, mask: Tensor, start: int, h: int) -> None:
    """Add the mask of sequences and heads from number `start` on; the block is whole sequences or heads of one."""
    mask_NHLL = mask.expand(-1, h, -1, -1)
    n = len(scores_BLL)
    first = start // h if len(mask_NHLL) > 1 else 0
    if n < h:
        scores_BLL += mask_NHLL[first, start % h : start % h + n]
    else:
        scores_BLL.view(n // h, h, *scores_BLL.shape[1:]).add_(mask_NHLL[first : first + n // h])


def _copied(values_NHLE: Tensor, dtype: torch.dtype) -> Tensor:
    """(N * H, L, E) in one piece."""
    return torch.empty(values_NHLE.shape, dtype=dtype).copy_(values_NHLE).flatten(0, 1)


def _blocks(n: int, h: int, head_bytes: int) -> Iterator[tuple[int, int]]:
    """Bounds of sequences times heads whose scores take SCORE_BYTES: whole sequences, or some heads of one."""
    heads = max(1, SCORE_BYTES // head_bytes)
    if heads >= h:
        step = heads // h * h
        yield from ((start, min(start + step, n * h)) for start in range(0, n * h, step))
        return
    for first in range(0, n * h, h):
        yield from ((start, min(start + heads, first + h)) for start in range(first, first + h, heads))


@contextmanager
def _products_by_onednn() -> Iterator[None]:
    """Meanwhile products of float32 numbers go through oneDNN, which may round factors to bfloat16.

    It does so with AMX only. Factors that were bfloat16 before do not change, so that sums are exact sums of exact
    products; for others see `serves`.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
