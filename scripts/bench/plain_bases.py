"""`python -m scripts.bench.plain_bases CONTIGS [--nucleotide-model M] [--protein-model M]`: what counting costs.

The share that counting ambiguous letters and low complexity (`sequences/plain_bases.py`) has of the time to read,
translate, tokenise and store sequences: with it and without it in turn, in one process, the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from vpdist.encoder_kinds import KINDS
from vpdist.ragged import Ragged
from vpdist.sequences import plain_bases, token_store
from vpdist.sequences.tokenizers import FragmentTokenizer, load_tokenizer


def seconds(path: Path, length: int, tokenizers: dict[str, FragmentTokenizer], folder: Path, *, counted: bool) -> float:
    """Processor time of a token store, with the counts or without."""
    counts = plain_bases.other_bases, plain_bases.low_complexity_bases
    if not counted:
        plain_bases.other_bases = plain_bases.low_complexity_bases = _nothing
    try:
        started = time.process_time()
        for raw in token_store.read_blocks([path], length):
            target = token_store.raw_path(folder, raw.index)
            token_store.write_raw(target, raw)
            block = token_store.tokenise_block(token_store.read_raw(target), tokenizers)
            token_store.write_block(token_store.block_path(folder, raw.index), block)
        return time.process_time() - started
    finally:
        plain_bases.other_bases, plain_bases.low_complexity_bases = counts


def _nothing(bases: Ragged) -> np.ndarray:
    return np.zeros(len(bases), np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contigs", type=Path)
    for kind in KINDS:
        parser.add_argument(f"--{kind}-model", type=Path)
    parser.add_argument("--chunk-length", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parser.parse_args()
    models = {kind: getattr(arguments, f"{kind}_model") for kind in KINDS}
    tokenizers = {kind: load_tokenizer(kind, model) for kind, model in models.items() if model is not None}
    with tempfile.TemporaryDirectory() as folder:

        def measure(*, counted: bool) -> float:
            return seconds(arguments.contigs, arguments.chunk_length, tokenizers, Path(folder), counted=counted)

        measure(counted=True)
        pairs = [(measure(counted=True), measure(counted=False)) for _ in range(arguments.pairs)]
    ratio = statistics.median(with_it / without for with_it, without in pairs)
    with_it, without = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{with_it:.3f} s with the counts, {without:.3f} s without, ratio {ratio:.4f}")


if __name__ == "__main__":
    main()
