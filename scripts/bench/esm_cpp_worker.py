"""One side of scripts.bench.against_esm_cpp: embeds the same proteins whenever it is asked to, on one core.

`PYTHON scripts/bench/esm_cpp_worker.py ENGINE MODEL CORE`, ENGINE `esm_cpp` or `vpdist`, MODEL a folder. First it
prints a line of JSON: its version and one protein's embedding; then, for every line that comes in, the seconds of
processor time that all proteins took. Needs numpy and what its engine needs, as each side has its own environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

RESIDUES, SEQUENCES = 166, 24
TOKENS = RESIDUES + 2
FIRST_RESIDUE, LAST_RESIDUE = 4, 24
CLS, EOS = 0, 2


def sequences() -> list[np.ndarray]:
    """SEQUENCES proteins of random residues, (TOKENS,) int32 each, special tokens included."""
    rng = np.random.default_rng(0)
    residues = [rng.integers(FIRST_RESIDUE, LAST_RESIDUE, RESIDUES) for _ in range(SEQUENCES)]
    return [np.concatenate([[CLS], one, [EOS]]).astype(np.int32) for one in residues]


def esm_cpp(folder: Path) -> tuple[str, np.ndarray, Callable[[], object]]:
    """esm.cpp in INT8: its version, the first protein's embedding, a function that computes all."""
    os.environ["ESM_NUM_THREADS"] = "1"
    import esm_cpp as engine

    model = engine.Model.load_from_safetensors(str(folder / "model.safetensors"))
    model.quantize_weights()
    proteins = sequences()
    _, hidden = model.forward_with_hidden_states(proteins[0])
    version = f"{engine.__version__}, {engine.current_isa()}"
    return version, np.asarray(hidden[-1])[1:-1].mean(0), lambda: model.forward_scheduled(proteins)


def vpdist(folder: Path) -> tuple[str, np.ndarray, Callable[[], object]]:
    """The same with vpdist in bfloat16."""
    import torch

    import vpdist as package
    from scripts.bench.encoders import one_pass
    from vpdist.commands.resolve_config import CPU_TOKEN_BUDGET
    from vpdist.encoders.encoder import load_encoder
    from vpdist.ragged import Ragged

    torch.set_num_threads(1)
    encoder = load_encoder(folder, "protein", torch.bfloat16, torch.device("cpu"))
    proteins, lengths = sequences(), np.full(SEQUENCES, TOKENS)
    flat = np.concatenate(proteins)
    embedding = encoder.embed(Ragged.from_lengths(proteins[0], [TOKENS])).numpy()[0]
    return package.__version__, embedding, lambda: one_pass(encoder, flat, lengths, CPU_TOKEN_BUDGET)


ENGINES = {"esm_cpp": esm_cpp, "vpdist": vpdist}


def main() -> None:
    engine, folder, core = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    version, embedding, compute = ENGINES[engine](Path(folder))
    print(json.dumps({"version": version, "embedding": embedding.tolist()}), flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        compute()
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main()
