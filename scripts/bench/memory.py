"""Anonymous memory of processes, which no file backs: of this one while a block runs, and of all ranks of a launch."""

from __future__ import annotations

import subprocess
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import psutil


def anonymous_bytes(process: int | str = "self") -> int:
    """Anonymous memory of a process, 0 for a zombie. Raises OSError when it has ended."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


class Peak(AbstractContextManager["Peak"]):
    """The largest anonymous memory of this process within the block, beyond what it had before."""

    def __enter__(self) -> Peak:
        self.bytes, self._before, self._done = 0, anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, anonymous_bytes() - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def peak_of_ranks(command: list[str]) -> int:
    """The largest anonymous memory of any process below a launcher while it runs. Raises CalledProcessError."""
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as launcher:
        while launcher.returncode is None:
            try:
                for rank in psutil.Process(launcher.pid).children(recursive=True):
                    peak = max(peak, _anonymous_bytes_if_running(rank.pid))
            except psutil.NoSuchProcess:
                pass  # the launcher has just ended
            try:
                launcher.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
    if launcher.returncode:
        raise subprocess.CalledProcessError(launcher.returncode, command)
    return peak


def _anonymous_bytes_if_running(process: int) -> int:
    try:
        return anonymous_bytes(process)
    except OSError:
        return 0
