"""Faults for the real program: with this folder on PYTHONPATH, encoders misbehave as the JSON in VPDIST_FAULTS says.

`crash`, `hang`, `nan`, `too_large`: a protein that holds eight of this residue in a row kills the process, keeps it
busy for ever, comes out as NaN, does not fit the memory. `most_rows`: larger batches don't fit the memory. `hold`: a
gate, see ../gate.py, at which ranks wait until it is opened. `no_hard_links`: link(2) is refused, as FAT does.
Python imports this module by its name when it starts; vpdist itself knows nothing of it.
"""

import contextlib
import errno
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FAULTS = json.loads(os.environ.get("VPDIST_FAULTS", "{}"))
RESIDUES = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C".split()
LOOK_S, PATIENCE_S = 0.02, 1800.0


class Hold:
    """This process's way through a gate: whoever comes to where it stands waits until the gate's folder holds `open`,
    a file that may say up to how many batches.

    Meanwhile the file held.PID lies there, with a byte for every signal that has come since the process started.
    """

    def __init__(self, folder: str, at: str, free_batches: int) -> None:
        self._at, self._free_batches, self._n_batches = at, str(free_batches), 0
        self._open, self._note = Path(folder, "open"), Path(folder, f"held.{os.getpid()}")
        self._came, self._comes = os.pipe()
        os.set_blocking(self._came, False)
        os.set_blocking(self._comes, False)
        signal.set_wakeup_fd(self._comes, warn_on_full_buffer=False)

    def _closed(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            self._free_batches = self._open.read_text()
        return self._free_batches != "" and self._n_batches >= int(self._free_batches)

    def _wait(self, look: Callable[[], None] = lambda: None) -> None:
        if not self._closed():
            return
        until = time.monotonic() + PATIENCE_S
        with open(self._note, "ab", buffering=0) as note:
            while self._closed():
                if time.monotonic() > until:
                    raise TimeoutError(f"{self._open} was not made within {PATIENCE_S:.0f} s: is the test gone?")
                time.sleep(LOOK_S)  # a signal's handler runs in here, before the note tells of the signal
                with contextlib.suppress(BlockingIOError):
                    note.write(os.read(self._came, 100))
                look()

    def during_imports(self) -> None:
        if self._at == "imports":
            self._wait()

    def in_batch(self) -> None:
        """The batch lasts, and its process looks at nothing."""
        if self._at == "batch":
            self._wait()
        self._n_batches += 1

    def after_batch(self, report: Callable[..., None]) -> None:
        """Batches come to their end all the time without a unit being done: the process looks at what it is told."""
        if self._at == "batches":
            self._wait(report)


class Saboteur(importlib.abc.MetaPathFinder):
    """Lets modules be loaded as usual, and changes them afterwards."""

    def __init__(self) -> None:
        self._hold: Hold | None = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        sabotage = {
            "vpdist.encoders.encoder": self._sabotage_encoders,
            "vpdist.embedding.unit_pipeline": self._sabotage_pipeline,
        }.get(name)
        if sabotage is None:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        assert spec is not None
        assert spec.loader is not None
        loader: Any = spec.loader
        load = loader.exec_module

        def load_and_sabotage(module: Any) -> None:
            load(module)
            sabotage(module)

        loader.exec_module = load_and_sabotage
        return spec

    def _sabotage_encoders(self, encoders: Any) -> None:
        """What loads encoders is a rank, and may be held; the child processes that it may start are not."""
        if rule := FAULTS.get("hold"):
            self._hold = Hold(**rule)
            self._hold.during_imports()
            os.environ["VPDIST_FAULTS"] = json.dumps({name: FAULTS[name] for name in FAULTS if name != "hold"})
        sabotage(encoders, self._hold)

    def _sabotage_pipeline(self, embed: Any) -> None:
        """Have `Pipeline` report through the hold."""
        if (hold := self._hold) is None:
            return
        begin = embed.Pipeline.__init__

        def held(self: Any, work: Any, report: Callable[..., None], **options: Any) -> None:
            def report_and_wait(**counters: int) -> None:
                report(**counters)
                if "batches" in counters:
                    hold.after_batch(report)

            begin(self, work, report_and_wait, **options)

        embed.Pipeline.__init__ = held


def sabotage(encoders: Any, hold: Hold | None) -> None:
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
        if hold is not None:
            hold.in_batch()
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


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


if FAULTS.get("no_hard_links"):
    os.link = refuse
if FAULTS:
    sys.meta_path.insert(0, Saboteur())
