"""Faults for the real program: with this folder on PYTHONPATH, encoders misbehave as the JSON in VPDIST_FAULTS says.

`crash`, `hang`, `nan`, `too_large`: a protein that holds eight of this residue in a row kills the process, keeps it
busy for ever, comes out as NaN, does not fit the memory. `most_rows`: larger batches don't fit the memory. `hold`: a
gate, see ../gate.py, at which ranks wait until it is opened.
Python imports this module by its name when it starts; vpdist itself knows nothing of it.
"""

import contextlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FAULTS = json.loads(os.environ.get("VPDIST_FAULTS", "{}"))
RESIDUES = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C".split()
TARGET = "vpdist.encoders"
LOOK_S = 0.02


class Hold:
    """This process's way through a gate: whoever comes to where it stands waits until the gate's folder holds `open`.

    Meanwhile the file held.PID lies there, with a byte for every signal that has come since the process started.
    """

    def __init__(self, folder: str, at: str, free_batches: int, yields: bool) -> None:
        self.at, self.free_batches = at, free_batches
        self._open, self._note, self._yields = Path(folder, "open"), Path(folder, f"held.{os.getpid()}"), yields
        self._came, self._comes = os.pipe()
        os.set_blocking(self._came, False)
        os.set_blocking(self._comes, False)
        signal.set_wakeup_fd(self._comes, warn_on_full_buffer=False)

    def wait(self) -> None:
        with open(self._note, "ab", buffering=0) as note:
            while not self._open.exists():
                time.sleep(LOOK_S)  # a signal's handler runs in here, before the note tells of the signal
                with contextlib.suppress(BlockingIOError):
                    note.write(os.read(self._came, 100))
                if self._yields and note.tell():
                    return

    def before_batch(self) -> None:
        self.free_batches -= 1
        if self.at == "batch" and self.free_batches < 0:
            self.wait()

    def before_tables(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: the tables are about to be put in their place, one by one."""
        if event == "os.rename" and os.path.basename(arguments[1]) in ("sequences.tsv", "chunks.tsv", "fragments.tsv"):
            self.wait()


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
            hold = prepared_hold()
            if hold is not None and hold.at == "imports":
                hold.wait()
            load(module)
            sabotage(module, hold)

        loader.exec_module = load_and_sabotage
        return spec


def prepared_hold() -> Hold | None:
    """What holds this process, a rank since it loads encoders; not the child processes that it may start."""
    if "hold" not in FAULTS:
        return None
    hold = Hold(**FAULTS["hold"])
    os.environ["VPDIST_FAULTS"] = json.dumps({name: value for name, value in FAULTS.items() if name != "hold"})
    if hold.at == "tables":
        sys.addaudithook(hold.before_tables)
    return hold


def sabotage(encoders: Any, hold: Hold | None) -> None:
    """Replace `Encoder.embed` by one that misbehaves."""
    import numpy as np
    import torch

    embed = encoders.Encoder.embed

    def marked(kind: str, tokens: Any, offsets: Any, fault: str) -> list[int]:
        """Rows whose protein holds the mark."""
        if fault not in FAULTS or kind != "protein":
            return []
        mark = bytes([RESIDUES.index(FAULTS[fault])] * 8)
        flat = np.asarray(tokens).astype(np.uint8)
        return [row for row in range(len(offsets) - 1) if mark in flat[offsets[row] : offsets[row + 1]].tobytes()]

    def faulty(self: Any, tokens: Any, offsets: Any) -> Any:
        if hold is not None:
            hold.before_batch()
        if marked(self.kind, tokens, offsets, "crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        while marked(self.kind, tokens, offsets, "hang"):
            time.sleep(1.0)
        too_large = marked(self.kind, tokens, offsets, "too_large")
        if too_large or len(offsets) - 1 > FAULTS.get("most_rows", len(offsets)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        rows = embed(self, tokens, offsets)
        bad = marked(self.kind, tokens, offsets, "nan")
        if bad:
            rows = rows.clone()
            rows[bad] = float("nan")
        return rows

    encoders.Encoder.embed = faulty


if FAULTS:
    sys.meta_path.insert(0, Saboteur())
