"""How many processors this process may use: its affinity mask, and the quota of its control groups; their memory, too.

A container often gets a share of time and not of cores. As many threads as cores then use the share up
in the first part of each period and stand still for the rest, one after the other holding all of them up.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROCESS = Path("/proc/self")
NO_MEMORY_LIMIT = 1 << 60
"""Bytes: version 1 writes a number near 2**63 where there is no limit."""


def available_cores(process: Path = PROCESS) -> int:
    """Number of cores in this process's affinity mask, at most its quota rounded up."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, quotas(process))]))


def quotas(process: Path) -> Iterator[float]:
    """The processors' time per time of this process's control groups and of all groups that these lie in.

    `process`: its folder in /proc. Version 1 and 2; where nothing can be read there is no quota.
    """
    for folder, unified in control_groups(process, "cpu"):
        quota = _unified_quota(folder) if unified else _quota(folder)
        if quota is not None:
            yield quota


def memory_limit(process: Path = PROCESS) -> int | None:
    """Bytes that the control groups of this process may have at most, of every hierarchy; None without a limit."""
    limits = []
    for folder, unified in control_groups(process, "memory"):
        text = _text(folder / ("memory.max" if unified else "memory.limit_in_bytes")).strip()
        if text.isdigit() and int(text) < NO_MEMORY_LIMIT:
            limits.append(int(text))
    return min(limits, default=None)


def machine_memory(process: Path = PROCESS) -> int:
    """Bytes of memory that this process can have at most: the machine's, or its control groups' limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit(process)
    return machine if limit is None else min(machine, limit)


def control_groups(process: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The folders of this process's groups that may limit what `controller` gives, and of all groups that these lie in;
    and whether they are of version 2."""
    for mounted, top, unified in _hierarchies(process, controller):
        group = _group(process, unified, controller)
        if group is None:
            continue
        inside = group.relative_to(top) if group.is_relative_to(top) and ".." not in group.parts else PurePosixPath()
        for folder in (mounted / inside, *(mounted / above for above in inside.parents)):
            yield folder, unified


def _hierarchies(process: Path, controller: str) -> Iterator[tuple[Path, PurePosixPath, bool]]:
    """Of each hierarchy with limits: where it is mounted, which of its groups is mounted there, whether version 2."""
    for line in _text(process / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind == "cgroup2" or (kind == "cgroup" and controller in options.split(" ")[-1].split(",")):
            top, mounted = before.split(" ")[3:5]
            yield Path(mounted), PurePosixPath(top), kind == "cgroup2"


def _group(process: Path, unified: bool, controller: str) -> PurePosixPath | None:
    """This process's group in a hierarchy."""
    for line in _text(process / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" if unified else controller in controllers.split(","):
            return PurePosixPath(path)
    return None


def _unified_quota(folder: Path) -> float | None:
    match _text(folder / "cpu.max").split():
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period) > 0 and int(quota) > 0:
            return int(quota) / int(period)
    return None


def _quota(folder: Path) -> float | None:
    quota, period = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if quota.isdigit() and period.isdigit() and int(period) > 0 and int(quota) > 0:  # -1: none
        return int(quota) / int(period)
    return None


def _text(path: Path) -> str:
    """The content of a file of the kernel; empty where there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def require_threads(threads: int) -> None:
    """Raises RuntimeError unless so many threads can be started beside those that run: where one cannot, OpenMP would
    end the process without a word."""
    enough, started = threading.Event(), []
    try:
        for _ in range(threads - 1):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    finally:
        enough.set()
        for thread in started:
            thread.join()
