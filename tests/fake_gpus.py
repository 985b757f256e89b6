"""Support for tests without a GPU: torch as it answers on a machine with some, and `nvidia-smi` beside it.

As a program under a launcher, `fake_gpus.py FOLDER`: joins the other ranks on such a machine and writes to
FOLDER/RANK.json what came of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

GPU, MEMORY = "NVIDIA GeForce RTX 4090", 24 << 30


def fake_gpus(
    monkeypatch: pytest.MonkeyPatch,
    n: int = 2,
    *,
    name: str = GPU,
    capability: tuple[int, int] = (8, 9),
    memory: int = MEMORY,
) -> list[torch.device]:
    """Make torch say that there are `n` GPUs, on which nothing can be computed; returns the devices that are made
    current from now on."""
    current: list[torch.device] = []
    properties = SimpleNamespace(name=name, total_memory=memory, major=capability[0], minor=capability[1])
    for function, answer in {
        "is_available": lambda: True,
        "device_count": lambda: n,
        "get_device_name": lambda device=None: name,
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: properties,
        "get_arch_list": lambda: ["sm_80", "sm_90"],
        "set_device": current.append,
        "current_device": lambda: current[-1].index if current else 0,
    }.items():
        monkeypatch.setattr(torch.cuda, function, answer)
    return current


def compute_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a rank try its GPU, by computing on the CPU."""
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device=None: ones(*shape))


def write_nvidia_smi(folder: Path, *, gpus: int, driver: str) -> Path:
    """A program that answers accelerate's questions; returns its folder, for PATH."""
    folder.mkdir()
    listed = "\\n".join([f"{gpus}, {GPU}"] * gpus)
    (folder / "nvidia-smi").write_text(
        f'#!/bin/sh\ncase "$1" in *driver_version) echo {driver} ;; *) printf "{listed}\\n" ;; esac\n'
    )
    (folder / "nvidia-smi").chmod(0o755)
    return folder


def main() -> None:
    import torch.distributed as dist

    from vpdist.distributed import runtime
    from vpdist.environment import launch_context

    with pytest.MonkeyPatch.context() as monkeypatch:
        current = fake_gpus(monkeypatch)
        compute_on_cpu(monkeypatch)
        joined = runtime.on_device(runtime.start(launch_context()), "auto")
        backend = dist.get_backend() if dist.is_initialized() else None
        found = {"device": str(joined.device), "backend": backend, "current": [str(device) for device in current]}
        (Path(sys.argv[1]) / f"{joined.rank}.json").write_text(json.dumps(found))
        runtime.stop()


if __name__ == "__main__":
    main()
