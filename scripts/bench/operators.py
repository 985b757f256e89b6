"""`python -m scripts.bench.operators [--dtype bfloat16]`: which operators an encoder's time goes to, on one core.

For each encoder a row per operator: its share of the time of one batch, with the useful operations of the linear layers
and of attention beside it. What is no product (`_linear_pointwise`) bounds the share of the ceiling that an encoder can
reach. Models as in scripts.bench.encoders: of full size, with random weights, made where they are missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from scripts.bench.encoders import fragment_lengths, models, one_pass
from scripts.bench.goals import Row, conditions, table
from vpdist.commands.resolve_config import CPU_TOKEN_BUDGET
from vpdist.encoders.encoder import DTYPES, load_encoder
from vpdist.encoders.shape import encoder_shape

PASSES = 5
LEAST_SHARE = 0.5
"""Percent; operators that take less are one row together."""


def rows(name: str, folder: Path, dtype: str) -> Iterator[Row]:
    """A row per operator of a batch of full size."""
    shape = encoder_shape(folder)
    rng = np.random.default_rng(0)
    encoder = load_encoder(folder, shape.kind, DTYPES[dtype], torch.device("cpu"))
    lengths = fragment_lengths(shape.kind, 1000, rng)
    lengths = lengths[-(np.cumsum(lengths[::-1]) <= CPU_TOKEN_BUDGET).sum() :]  # one batch
    tokens = rng.integers(5, 24, lengths.sum()).astype(np.uint16)
    one_pass(encoder, tokens, lengths, CPU_TOKEN_BUDGET)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(PASSES):
            one_pass(encoder, tokens, lengths, CPU_TOKEN_BUDGET)
    taken = {each.key: each.self_cpu_time_total for each in profiled.key_averages()}
    total = sum(taken.values())
    shares = {key: 100 * each / total for key, each in sorted(taken.items(), key=lambda item: -item[1])}
    for key, share in shares.items():
        if share >= LEAST_SHARE:
            yield Row(f"{name}, {dtype}: {key}", share, "%")
    rest = sum(share for share in shares.values() if share < LEAST_SHARE)
    milliseconds = total / 1000 / PASSES
    yield Row(f"{name}, {dtype}: others", rest, "%", note=f"{milliseconds:.0f} ms for {lengths.sum():,} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protein", nargs="*", default=["12x480", "30x640"], help="LAYERSxWIDTH of ESM-2")
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES))
    parser.add_argument("--work", type=Path, default=Path("bench/models"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(conditions(), flush=True)
    folders = models(arguments.work, arguments.protein)
    print(table([row for name, folder in folders.items() for row in rows(name, folder, arguments.dtype)]))


if __name__ == "__main__":
    main()
