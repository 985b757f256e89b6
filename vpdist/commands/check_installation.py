"""What `vpdist check` tries beside golden scores: devices, disk, launchers, and what leaves this machine.

Enters: a request. Leaves: a verdict for each, and nothing on the disk. One failure does not keep the others from being
tried. The runs are of the built-in model on a few synthetic sequences, in temporary folders.
"""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import psutil

import vpdist
from vpdist.commands.check import VPDIST, CheckRequest, check, compare
from vpdist.errors import EXIT_OK, StorageError, VpdistError, WeightsError
from vpdist.models.catalogue import BUILT_IN
from vpdist.models.find import find_model
from vpdist.models.golden_scores import golden_path
from vpdist.storage.atomic_files import read_limited, storage_error, write_file
from vpdist.storage.downloads import SILENT, Listener
from vpdist.text import bytes_text

RANKS = 2
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}", *VPDIST[1:])
WRITTEN = bytes(range(256)) * (1 << 14)
"""4 MiB, written to the disk and read back."""
ABSENT = "vpdist/absent"
"""A name on the hub that nobody has downloaded."""
NETWORK_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
"""Of Python's audit hooks."""
LOOPBACK = ("127.", "::1", "::ffff:127.")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one check."""

    name: str
    ok: bool
    told: str
    """What was found, or why not; may have several lines."""
    exit_code: int
    """0 where it is ok, else the code of that error."""
    seconds: float

    def line(self) -> str:
        """For people."""
        return f"{self.name:<9} {'ok' if self.ok else 'FAILED':<6} {self.told}"


def verdicts(request: CheckRequest, folder: Path | None = None, listener: Listener = SILENT) -> Iterator[Verdict]:
    """Each check's verdict as soon as there is one; `folder`: where runs will be, else that of temporary files."""
    connections = Connections()
    built_in = replace(request, model=BUILT_IN, dtype="float32", offline=True)

    def started(*launcher: str, watch: Callable[[int], None] | None = None) -> str:
        path = golden_path(find_model(BUILT_IN, offline=True), BUILT_IN)
        return compare(built_in, path, ranks=RANKS, launcher=launcher, folder=folder, watch=watch)

    yield _tried("devices", lambda: _devices(request.device))
    yield _tried("disk", lambda: _disk(folder or Path(gettempdir())))
    yield _tried("golden", lambda: check(request, listener))
    yield _tried("ranks", lambda: f"{RANKS} ranks, {started(*VPDIST, watch=connections.look)}")
    yield _tried("torchrun", lambda: f"{RANKS} ranks, {started(*TORCHRUN)}")
    yield _tried("network", connections.told)
    yield _tried("offline", _offline)


def exit_code(found: list[Verdict]) -> int:
    """Of the first check that failed; 0 if none has."""
    return next((verdict.exit_code for verdict in found if not verdict.ok), EXIT_OK)


def as_json(found: list[Verdict]) -> dict[str, Any]:
    """What `vpdist check --json` prints."""
    return {
        "vpdist": vpdist.__version__,
        "host": platform.node(),
        "ok": exit_code(found) == EXIT_OK,
        "exit_code": exit_code(found),
        "checks": [asdict(verdict) for verdict in found],
    }


def _tried(name: str, action: Callable[[], str]) -> Verdict:
    """The verdict of an action, which tells what it has found or raises VpdistError."""
    begun = time.monotonic()
    try:
        told, code = action(), EXIT_OK
    except VpdistError as error:
        told, code = str(error), error.exit_code
    return Verdict(name, code == EXIT_OK, told, code, round(time.monotonic() - begun, 3))


def _devices(device: str) -> str:
    """Have each device compute. Raises UsageError for one that cannot."""
    import torch

    from vpdist.commands.platforms import platform_here
    from vpdist.distributed.device import CPU, device_of_rank, gpus_left_out, uses_cuda
    from vpdist.environment import LaunchContext

    n = torch.cuda.device_count() if uses_cuda(device) else 0
    devices = [device_of_rank(LaunchContext(local_rank=number), device) for number in range(n)] or [CPU]
    told = "; ".join(f"{each}: {platform_here(each)}" for each in devices)
    return "; ".join(filter(None, (told, gpus_left_out())))


def _disk(folder: Path) -> str:
    """Write a file as a run writes its own, and read it. Raises StorageError."""
    try:
        with TemporaryDirectory(prefix="vpdist-check-", dir=folder) as work:
            path = Path(work, "written")
            write_file(path, WRITTEN)
            if read_limited(path, len(WRITTEN)) != WRITTEN:
                raise StorageError(f"{path}: has other bytes than were written")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error(folder, error) from error
    return f"{folder}: {bytes_text(len(WRITTEN))} written, synced, renamed and read back; {bytes_text(free)} free"


class Connections:
    """The network connections of a command and all processes that it has started, seen while it ran."""

    def __init__(self) -> None:
        self.listening: set[str] = set()
        """Addresses."""
        self.connected: set[str] = set()

    def look(self, pid: int) -> None:
        """Note those there are now; a process may have ended since it was listed."""
        try:
            parent = psutil.Process(pid)
            processes = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in processes:
            try:
                for connection in process.net_connections(kind="inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        self.listening.add(connection.laddr.ip)
                    elif connection.raddr:
                        self.connected.add(connection.raddr.ip)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def told(self) -> str:
        """Raises VpdistError where one was open to others than this machine, or none was seen."""
        beyond = sorted(address for address in self.listening | self.connected if not address.startswith(LOOPBACK))
        if beyond:
            raise VpdistError(f"{RANKS} ranks of this machine listen at or are connected to {', '.join(beyond)}")
        if not self.listening:
            raise VpdistError(f"no connection of the {RANKS} ranks was seen")
        return f"{RANKS} ranks listened at {', '.join(sorted(self.listening))} and were connected to nothing else"


class _Asked:
    """Notes what this process asks of the network meanwhile. Python cannot remove an audit hook: there is one."""

    def __init__(self) -> None:
        self._events: list[str] | None = None
        self._hooked = False

    @contextmanager
    def noted(self) -> Iterator[list[str]]:
        if not self._hooked:
            sys.addaudithook(self._hook)
            self._hooked = True
        events: list[str] = []
        self._events = events
        try:
            yield events
        finally:
            self._events = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._events is not None and event in NETWORK_EVENTS:
            self._events.append(event)


ASKED = _Asked()


def _offline() -> str:
    """Ask for a model that is not here, with --offline. Raises VpdistError where that asks the network."""
    with ASKED.noted() as events:
        try:
            find_model(ABSENT, offline=True)
        except WeightsError:
            refused = True
        else:
            refused = False
    if events or not refused:
        told = f"asked the network ({', '.join(events)})" if events else "was found"
        raise VpdistError(f"--offline: {ABSENT}, which is not here, {told}")
    return "with --offline, a model that is not here was refused, and nobody was asked"
