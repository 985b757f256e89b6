"""What a user sees of a download: a bar on a terminal, a line for every tenth of it elsewhere."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from vpdist.config import Settings
from vpdist.encoders.hub import resolve_model
from vpdist.environment import draws_bars
from vpdist.storage.downloads import Listener
from vpdist.text import bytes_text, printable

STEPS = 10
"""Lines of a download that is not drawn as a bar."""


def shown_on(stream: TextIO) -> Listener:
    """Who shows downloads on `stream`."""
    return DownloadBar(stream) if draws_bars(stream) else DownloadLines(stream)


def fetch_encoders(settings: Settings, listener: Listener) -> None:
    """Download the encoders that settings name by hub ids, before ranks start. Raises WeightsError, StorageError."""
    for model in settings.models.values():
        resolve_model(model, settings.offline, listener)


class DownloadLines(Listener):
    """Lines of text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what, self._total, self._come, self._told = "", 0, 0, 0

    def begin(self, what: str, missing: int, n_files: int) -> None:
        self._what, self._total, self._come, self._told = what, missing, 0, 0
        self.tell(f"{what}: downloading {_amount(missing, n_files)}")

    def advance(self, n_bytes: int) -> None:
        self._come += n_bytes
        step = STEPS * self._come // self._total if self._total else 0
        if step > self._told:
            self._told = step
            self.tell(f"{self._what}: {bytes_text(self._come)} of {bytes_text(self._total)}")

    def tell(self, text: str) -> None:
        print(f"vpdist: {printable(text)}", file=self._stream, flush=True)


class DownloadBar(Listener):
    """A bar with amount, speed and time left; it is gone when the download ends."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, force_terminal=True, highlight=False, markup=False)
        self._progress: Progress | None = None

    def begin(self, what: str, missing: int, n_files: int) -> None:
        self.tell(f"{what}: downloading {_amount(missing, n_files)}")
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True))
        self._progress = Progress(
            *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self._console, transient=True
        )
        self._progress.add_task(printable(what), total=missing or None)
        self._progress.start()

    def advance(self, n_bytes: int) -> None:
        if self._progress is not None and n_bytes:
            self._progress.advance(self._progress.task_ids[0], n_bytes)

    def tell(self, text: str) -> None:
        self._console.print(f"vpdist: {printable(text)}", soft_wrap=True)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = None


def _amount(n_bytes: int, n_files: int) -> str:
    files = "1 file" if n_files == 1 else f"{n_files} files"
    return f"{files}, {bytes_text(n_bytes)}" if n_bytes else files
