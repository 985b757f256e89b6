"""Fault injection: with this folder on PYTHONPATH, encoders fail as the JSON in VPDIST_FAULTS describes.

`crash`, `hang`, `nan`, `too_large`: a protein with eight of this residue in a row kills the process, keeps it busy for
ever, has an embedding of NaN, does not fit into memory. `most_rows`: larger batches do not fit into memory. `hold`: a
gate, see ../gate.py, at which ranks wait until it is opened. `no_hard_links`: link(2) is refused, as FAT does.
Python imports this module by its name when it starts; vpdist itself is unchanged.
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
POLL_S, TIMEOUT_S = 0.02, 1800.0


class Hold:
    """Holds this process at a gate until its folder has a file `open`, which may give a number of batches to compute.

    Meanwhile the folder has a file held.PID, with a byte for every signal since the process started.
    """

    def __init__(self, folder: str, at: str, free_batches: int) -> None:
        self._at, self._free_batches, self._n_batches = at, str(free_batches), 0
        self._open, self._note = Path(folder, "open"), Path(folder, f"held.{os.getpid()}")
        self._signals, signals_in = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(signals_in, False)
        signal.set_wakeup_fd(signals_in, warn_on_full_buffer=False)

    def _closed(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            self._free_batches = self._open.read_text()
        return self._free_batches != "" and self._n_batches >= int(self._free_batches)

    def _wait(self, react: Callable[[], None] = lambda: None) -> None:
        if not self._closed():
            return
        until = time.monotonic() + TIMEOUT_S
        with open(self._note, "ab", buffering=0) as note:
            while self._closed():
                if time.monotonic() > until:
                    raise TimeoutError(f"{self._open} was not created within {TIMEOUT_S:.0f} s: has the test ended?")
                time.sleep(POLL_S)  # a signal's handler runs here, before its byte is written
                with contextlib.suppress(BlockingIOError):
                    note.write(os.read(self._signals, 100))
                react()

    def during_imports(self) -> None:
        if self._at == "imports":
            self._wait()

    def in_batch(self) -> None:
        """Hold a process in a batch, where it reacts to nothing."""
        if self._at == "batch":
            self._wait()
        self._n_batches += 1

    def after_batch(self, report: Callable[..., None]) -> None:
        """Hold a process between batches, where it reacts to signals and messages."""
        if self._at == "batches":
            self._wait(report)


class FaultInjector(importlib.abc.MetaPathFinder):
    """Changes modules after they have been loaded as usual."""

    def __init__(self) -> None:
        self._hold: Hold | None = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        patch = {
            "vpdist.encoders.encoder": self._patch_encoders,
            "vpdist.embedding.unit_pipeline": self._patch_pipeline,
        }.get(name)
        if patch is None:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        assert spec is not None
        assert spec.loader is not None
        loader: Any = spec.loader
        load = loader.exec_module

        def load_and_patch(module: Any) -> None:
            load(module)
            patch(module)

        loader.exec_module = load_and_patch
        return spec

    def _patch_encoders(self, encoders: Any) -> None:
        """A process that loads encoders is a rank, and may be held; the child processes that it starts are not."""
        if rule := FAULTS.get("hold"):
            self._hold = Hold(**rule)
            self._hold.during_imports()
            os.environ["VPDIST_FAULTS"] = json.dumps({name: FAULTS[name] for name in FAULTS if name != "hold"})
        patch_embed(encoders, self._hold)

    def _patch_pipeline(self, module: Any) -> None:
        """Make `Pipeline` pass its counters through the hold."""
        if (hold := self._hold) is None:
            return
        begin = module.Pipeline.__init__

        def held(self: Any, work: Any, report: Callable[..., None], **options: Any) -> None:
            def report_and_wait(**counters: int) -> None:
                report(**counters)
                if "batches" in counters:
                    hold.after_batch(report)

            begin(self, work, report_and_wait, **options)

        module.Pipeline.__init__ = held


def patch_embed(encoders: Any, hold: Hold | None) -> None:
    """Replace `Encoder.embed` by a function that fails as FAULTS describes."""
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
    sys.meta_path.insert(0, FaultInjector())
