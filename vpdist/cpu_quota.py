"""How many processors this process may use: its affinity mask, and the quota of its control groups.

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


def available_cores(process: Path = PROCESS) -> int:
    """Number of cores in this process's affinity mask, at most its quota rounded up."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, quotas(process))]))


def quotas(process: Path) -> Iterator[float]:
    """The processors' time per time of this process's control groups and of all groups that these lie in.

    `process`: its folder in /proc. Version 1 and 2; where nothing can be read there is no quota.
    """
    for mounted, top, unified in _hierarchies(process):
        group = _group(process, unified)
        if group is None:
            continue
        inside = group.relative_to(top) if group.is_relative_to(top) and ".." not in group.parts else PurePosixPath()
        for folder in (mounted / inside, *(mounted / above for above in inside.parents)):
            quota = _unified_quota(folder) if unified else _quota(folder)
            if quota is not None:
                yield quota


def _hierarchies(process: Path) -> Iterator[tuple[Path, PurePosixPath, bool]]:
    """Of each hierarchy with quotas: where it is mounted, which of its groups is mounted there, whether version 2."""
    for line in _text(process / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(" ")[-1].split(",")):
            top, mounted = before.split(" ")[3:5]
            yield Path(mounted), PurePosixPath(top), kind == "cgroup2"


def _group(process: Path, unified: bool) -> PurePosixPath | None:
    """This process's group in a hierarchy."""
    for line in _text(process / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" if unified else "cpu" in controllers.split(","):
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
