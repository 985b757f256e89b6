"""`vpdist predict` under its launchers, observed from outside: its processes, parts, and lost or repeated units.

Every process of a launch carries a mark in its environment, so that all are found, whatever their session or parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vpdist.commands.verify import verify
from vpdist.storage import hdf5_files

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TABLES = ("sequences.tsv", "chunks.tsv", "fragments.tsv")
MARK = "VPDIST_LAUNCH_MARK"
OPTIONS = ("--threads", "1", "--dtype", "float32", "--token-budget", "400", "--progress", "none")
POLL_S = 0.02
TIMEOUT_S = 900.0
"""Far longer than any wait takes, however busy the machine is."""
PATIENT_AGENT = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": f"{TIMEOUT_S:.0f}"}
"""An agent that is told to stop leaves its ranks so many seconds, not 30, before it kills them."""


@dataclass(frozen=True, slots=True)
class Job:
    """Input, models and options of a `vpdist predict` command."""

    source: Path
    nucleotide: Path
    protein: Path
    classifier: Path
    options: tuple[str, ...] = OPTIONS
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Path, models: Path, classifier: Path, *options: str) -> Job:
        """With the encoders in `models`, a folder made by scripts.demo.make_models; by default with OPTIONS."""
        return cls(source, models / "dnabert-s", models / "esm-2", classifier, options or OPTIONS)

    def arguments(self, output: Path) -> list[str]:
        """The arguments of Python that write the run to `output`."""
        return [
            *("-m", "vpdist", "predict", str(self.source), "-o", str(output)),
            *("--nucleotide-model", str(self.nucleotide), "--protein-model", str(self.protein)),
            *("--classifier", str(self.classifier), *self.options),
        ]


def standalone(ranks: int, *options: str) -> tuple[str, ...]:
    """The launcher for `ranks` ranks on this machine; none for a single one."""
    if ranks == 1 and not options:
        return (sys.executable,)
    return (*TORCHRUN, "--standalone", f"--nproc-per-node={ranks}", *options)


class Launch:
    """A running launch. Leaving the block kills all of its processes."""

    def __init__(self, job: Job, output: Path, launcher: Sequence[str], environment: Mapping[str, str] | None = None):
        self.output = output
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        kept = {name: value for name, value in os.environ.items() if name not in ("CI", "OMP_NUM_THREADS", "RANK")}
        name, value = self._mark.split("=")
        self._console = output.with_name(f"{output.name}.console")
        with open(self._console, "ab") as console:
            self._console_start = console.tell()
            self.agent = subprocess.Popen(
                [*launcher, *job.arguments(output)],
                env={**kept, **PATIENT_AGENT, **job.environment, **(environment or {}), name: value},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self.started = time.monotonic()

    def __enter__(self) -> Launch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while processes := self.processes():
            for pid in processes:
                self.signal(pid, signal.SIGKILL)
            self.agent.poll()
        self.agent.wait()

    def console_text(self) -> str:
        """Standard output and error of this launch so far."""
        return self._console.read_bytes()[self._console_start :].decode(errors="replace")

    def processes(self) -> list[int]:
        """Ids of all processes of this launch that have not ended."""
        ids = (entry.name for entry in os.scandir("/proc") if entry.name.isdigit())
        return [int(pid) for pid in ids if self._mark in _environment(pid)]

    def ranks(self) -> dict[int, int]:
        """Process id of each running rank: the agent's children, or the only process."""
        ranks = {}
        for pid in self.processes():
            rank = [entry.removeprefix("RANK=") for entry in _environment(str(pid)) if entry.startswith("RANK=")]
            if rank and _parent(pid) == self.agent.pid:
                ranks[int(rank[0])] = pid
        if not ranks and self.agent.poll() is None and "torch.distributed.run" not in self.agent.args:  # type: ignore[operator]
            ranks[0] = self.agent.pid
        return ranks

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process of this launch; nothing happens once it has ended."""
        if self._mark in _environment(str(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> bool:
        """Wait for `ready` or the end of the agent; returns whether `ready` came first. Raises TimeoutError with `what`
        was awaited."""
        until = time.monotonic() + timeout_s
        while self.agent.poll() is None:
            if ready():
                return True
            if time.monotonic() > until:
                raise TimeoutError(f"{what} did not come within {timeout_s:.0f} s\n{self.console_text()}")
            time.sleep(POLL_S)
        return False

    def end(self, timeout_s: float = TIMEOUT_S) -> float:
        """Wait until all processes have ended; returns the seconds that took. Raises TimeoutError."""
        started = time.monotonic()
        while self.agent.poll() is None or self.processes():
            if time.monotonic() - started > timeout_s:
                raise TimeoutError(
                    f"processes {self.processes()} have not ended within {timeout_s:.0f} s\n{self.console_text()}"
                )
            time.sleep(POLL_S)
        return time.monotonic() - started


def _environment(pid: str) -> list[str]:
    try:
        return Path("/proc", pid, "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended, or is another user's
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


# Files of a run


def part_paths(folder: Path) -> list[Path]:
    return sorted((folder / "parts").glob("unit-*.h5"))


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


def status(folder: Path) -> dict[str, Any]:
    """Content of status.json, empty if there is none."""
    path = folder / "status.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def unreadable(folder: Path) -> list[str]:
    """The reason for each part that cannot be read completely."""
    reasons = []
    for path in part_paths(folder):
        try:
            with hdf5_files.opened(path) as file:
                for name in file:
                    hdf5_files.read(file, name)
        except hdf5_files.DamagedFile as error:
            reasons.append(str(error))
    return reasons


def lost_and_twice(folder: Path) -> tuple[int, int]:
    """Numbers of fragments of a finished run that no part holds, and that several hold. Raises ValueError unless
    `vpdist verify` finds nothing wrong."""
    if problems := verify(folder):
        raise ValueError("; ".join(problems))
    held: Counter[int] = Counter()
    for path in part_paths(folder):
        with hdf5_files.opened(path) as file:
            held.update(np.asarray(hdf5_files.read(file, "fragment")).tolist())
    n_fragments = len((folder / "fragments.tsv").read_bytes().splitlines()) - 1
    return n_fragments - len(held), sum(times > 1 for times in held.values())


BEGIN = re.compile(r"^(\S+ \S+) INFO [\w.]+: rank (\d+) of \d+, process (\d+),")
UNIT = re.compile(r"^(\S+ \S+) INFO [\w.]+: unit (\d+)$")


def repeated(folder: Path) -> Counter[int]:
    """By process id, how many of its units a later process began again; read from the log files of all ranks."""
    begun: list[tuple[str, int, int]] = []
    for path in sorted((folder / "logs").glob("rank*.log")):
        process = 0
        for line in path.read_text(errors="replace").splitlines():
            if match := BEGIN.match(line):
                process = int(match[3])
            elif match := UNIT.match(line):
                begun.append((match[1], process, int(match[2])))
    last = {unit: (when, process) for when, process, unit in sorted(begun)}
    return Counter(process for when, process, unit in begun if last[unit] != (when, process))
