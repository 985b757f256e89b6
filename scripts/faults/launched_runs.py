"""`vpdist predict` under its launchers, seen from outside: its processes, its parts, what was lost or repeated.

Every process of a launch carries a mark in its environment, so that none is overlooked, whatever its session or parent.
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
POLL_S = 0.02
PATIENCE_S = 900.0
"""No machine needs so long for anything that is waited for here, however busy it is."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is predicted, always by the same command."""

    source: Path
    nucleotide: Path
    protein: Path
    classifier: Path
    options: tuple[str, ...] = ("--threads", "1", "--dtype", "float32", "--token-budget", "400", "--progress", "none")
    environment: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, output: Path) -> list[str]:
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
    """A launch under way. Leaving the block kills whatever is left of it."""

    def __init__(self, job: Job, output: Path, launcher: Sequence[str], environment: Mapping[str, str] | None = None):
        self.output = output
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        kept = {name: value for name, value in os.environ.items() if name not in ("CI", "OMP_NUM_THREADS", "RANK")}
        name, value = self._mark.split("=")
        self._console = output.with_name(f"{output.name}.console")
        with open(self._console, "ab") as console:
            self._told_from = console.tell()
            self.agent = subprocess.Popen(
                [*launcher, *job.arguments(output)],
                env={**kept, **job.environment, **(environment or {}), name: value},
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

    def told(self) -> str:
        """What this launch has written to its console."""
        return self._console.read_bytes()[self._told_from :].decode(errors="replace")

    def processes(self) -> list[int]:
        """Ids of all processes of this launch that have not ended."""
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and self._mark in _environment(entry.name):
                found.append(int(entry.name))
        return found

    def ranks(self) -> dict[int, int]:
        """Process id of each rank that lives: the agent's children, or the plain process itself."""
        found = {}
        for pid in self.processes():
            rank = [entry.removeprefix("RANK=") for entry in _environment(str(pid)) if entry.startswith("RANK=")]
            if rank and _parent(pid) == self.agent.pid:
                found[int(rank[0])] = pid
        if not found and self.agent.poll() is None and "torch.distributed.run" not in self.agent.args:  # type: ignore[operator]
            found[0] = self.agent.pid
        return found

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process of this launch, if it still is one."""
        if self._mark in _environment(str(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait_until(self, ready: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> bool:
        """Wait until `ready` or the end of the agent; whether it was ready first. Raises TimeoutError that says `what`
        did not come."""
        until = time.monotonic() + patience_s
        while self.agent.poll() is None:
            if ready():
                return True
            if time.monotonic() > until:
                raise TimeoutError(f"{what}: not within {patience_s:.0f} s\n{self.told()}")
            time.sleep(POLL_S)
        return False

    def end(self, patience_s: float = PATIENCE_S) -> float:
        """Wait until no process is left; returns the seconds that took. Raises TimeoutError."""
        started = time.monotonic()
        while self.agent.poll() is None or self.processes():
            if time.monotonic() - started > patience_s:
                raise TimeoutError(
                    f"processes {self.processes()} have not ended within {patience_s:.0f} s\n{self.told()}"
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


# What a run has left


def part_paths(folder: Path) -> list[Path]:
    return sorted((folder / "parts").glob("unit-*.h5"))


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


def status(folder: Path) -> dict[str, Any]:
    """status.json, empty where there is none."""
    path = folder / "status.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def unreadable(folder: Path) -> list[str]:
    """Parts that cannot be read to the last digest, each with the reason."""
    found = []
    for path in part_paths(folder):
        try:
            with hdf5_files.opened(path) as file:
                for name in file:
                    hdf5_files.read(file, name)
        except hdf5_files.DamagedFile as error:
            found.append(str(error))
    return found


def lost_and_twice(folder: Path) -> tuple[int, int]:
    """Fragments that no part holds, and those that several hold, of a finished run. Raises ValueError unless every
    digest and count of the run holds."""
    if problems := verify(folder):
        raise ValueError("; ".join(problems))
    held: Counter[int] = Counter()
    for path in part_paths(folder):
        with hdf5_files.opened(path) as file:
            held.update(np.asarray(hdf5_files.read(file, "fragment")).tolist())
    n_fragments = len((folder / "fragments.tsv").read_bytes().splitlines()) - 1
    return n_fragments - len(held), sum(times > 1 for times in held.values())


BEGIN = re.compile(r"^(\S+ \S+) INFO vpdist\.\S+: rank (\d+) of \d+, process (\d+),")
UNIT = re.compile(r"^(\S+ \S+) INFO vpdist\.\S+: unit (\d+)$")


def repeated(folder: Path) -> Counter[int]:
    """How many units of each process (by its id) were begun again by a later one, from the log files of all ranks."""
    begun: list[tuple[str, int, int]] = []
    for path in sorted((folder / "logs").glob("rank*.log")):
        process = 0
        for line in path.read_text(errors="replace").splitlines():
            if found := BEGIN.match(line):
                process = int(found[3])
            elif found := UNIT.match(line):
                begun.append((found[1], process, int(found[2])))
    last = {unit: (when, process) for when, process, unit in sorted(begun)}
    return Counter(process for when, process, unit in begun if last[unit] != (when, process))
