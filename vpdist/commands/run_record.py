"""The commands that have worked in a run folder: `runs` in run.json, the oldest first.

A run may be resumed after an update, on another machine, on other ranks. What decides numbers is checked each time;
this list says with what each share was made. The keys of the newest one stand beside it, as they always did.
"""

from __future__ import annotations

import platform
import sys
import time
from typing import Any

import numpy as np
import torch

import vpdist
from vpdist.distributed.runtime import Runtime
from vpdist.urls import shown

FIELDS = ("command", "versions", "host", "world_size", "launcher_restarts", "started")
MOST_RUNS = 100
"""The first one and the newest are kept of more."""
MOST_ARGUMENTS = 100
"""Of a command in the list; it may name 100,000 files, each time it is given."""


def this_run(runtime: Runtime) -> dict[str, Any]:
    """What is to be known of the command that this process runs: FIELDS."""
    return {
        "command": [shown(argument) for argument in sys.argv],
        "versions": {
            "vpdist": vpdist.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "host": platform.node(),
        "world_size": runtime.world_size,
        "launcher_restarts": runtime.attempt,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def runs_with(recorded: dict[str, Any], run: dict[str, Any]) -> list[Any]:
    """The list in the content of a run.json, which may hold anything, with one run more.

    Where an earlier version has kept no list, the run that it recorded is the first one.
    """
    runs = recorded.get("runs")
    if not isinstance(runs, list):
        first = {name: recorded[name] for name in FIELDS if name in recorded}
        runs = [first] if first else []
    kept = runs if len(runs) < MOST_RUNS else [runs[0], *runs[len(runs) - MOST_RUNS + 2 :]]
    return [*kept, run | {"command": _cut(run["command"])}]


def _cut(command: list[str]) -> list[str]:
    """A command without what is in its middle, if it has very many arguments."""
    half = MOST_ARGUMENTS // 2
    if len(command) <= MOST_ARGUMENTS:
        return command
    return [*command[:half], f"[... {len(command) - 2 * half:,} arguments ...]", *command[-half:]]
