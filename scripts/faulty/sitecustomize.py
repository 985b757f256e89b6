"""Faults for the real program: with this folder on PYTHONPATH, encoders misbehave as the JSON in VPDIST_FAULTS says.

`crash`, `hang`, `nan`, `too_large`: a protein that holds eight of this residue in a row kills the process, keeps it
busy for ever, comes out as NaN, does not fit the memory. `most_rows`: larger batches don't fit the memory. `sleep_s`:
every batch takes this long.
Python imports this module by its name when it starts; vpdist itself knows nothing of it.
"""

import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FAULTS = json.loads(os.environ.get("VPDIST_FAULTS", "{}"))
RESIDUES = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C".split()
TARGET = "vpdist.encoders"


class Saboteur(importlib.abc.MetaPathFinder):
    """Lets the encoders' module be loaded as usual, and changes it afterwards."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        loader: Any = spec.loader
        load = loader.exec_module

        def load_and_sabotage(module: Any) -> None:
            load(module)
            sabotage(module)

        loader.exec_module = load_and_sabotage
        return spec


def sabotage(encoders: Any) -> None:
    """Replace `Encoder.embed` by one that misbehaves."""
    import numpy as np
    import torch

    from vpdist.ragged import Ragged

    embed = encoders.Encoder.embed

    def marked(kind: str, tokens: Ragged, fault: str) -> list[int]:
        """Rows whose protein holds the mark."""
        if fault not in FAULTS or kind != "protein":
            return []
        mark = bytes([RESIDUES.index(FAULTS[fault])] * 8)
        return [row for row in range(len(tokens)) if mark in tokens[row].astype(np.uint8).tobytes()]

    def faulty(self: Any, tokens: Ragged) -> Any:
        time.sleep(FAULTS.get("sleep_s", 0.0))
        if marked(self.kind, tokens, "crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        while marked(self.kind, tokens, "hang"):
            time.sleep(1.0)
        too_large = marked(self.kind, tokens, "too_large")
        if too_large or len(tokens) > FAULTS.get("most_rows", len(tokens)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        rows = embed(self, tokens)
        bad = marked(self.kind, tokens, "nan")
        if bad:
            rows = rows.clone()
            rows[bad] = float("nan")
        return rows

    encoders.Encoder.embed = faulty


if FAULTS:
    sys.meta_path.insert(0, Saboteur())
