"""What numbers are computed with, beside the resolved configuration: device, torch, CUDA, driver.

The last digits may depend on it. Rank 0 records its own in run.json (`platform`), with which every other rank must
agree; all with which embeddings of the run were computed are listed (`platforms`), and several are told to the user.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from vpdist.errors import UsageError
from vpdist.storage.atomic_files import read_json
from vpdist.storage.run_folder import RunFolder
from vpdist.text import NAME_LETTERS, shortened

DRIVER_VERSION = Path("/proc/driver/nvidia/version")
CPUINFO = Path("/proc/cpuinfo")
MOST_PLATFORMS = 100
"""In a run.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A device and the versions of what computes on it."""

    device: str
    """cpu or cuda."""
    name: str
    """The model of the GPU, or of the processor with the instructions that torch uses of it."""
    torch: str
    cuda: str | None
    """The version that torch is built for; of ROCm where it is built for that."""
    driver: str | None
    """The version of the GPU's driver, where the system tells it."""

    def __str__(self) -> str:
        versions = [f"torch {self.torch}"]
        if self.device == "cuda":
            versions += [f"CUDA {self.cuda}", f"driver {self.driver or 'unknown'}"]
        return f"{self.name} ({', '.join(versions)})"

    @classmethod
    def from_dict(cls, recorded: Any) -> Platform:
        """Raises ValueError for what is none: it is read from files."""
        names = {field.name for field in fields(cls)}
        if not isinstance(recorded, dict) or recorded.keys() != names:
            raise ValueError("is not a platform")
        optional = ("cuda", "driver")
        if any(type(value) is not str and not (value is None and name in optional) for name, value in recorded.items()):
            raise ValueError("is not a platform")
        return cls(**recorded)

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)


def platform_here(device: torch.device) -> Platform:
    """Of this process."""
    on_gpu = device.type == "cuda"
    return Platform(
        device=device.type,
        name=torch.cuda.get_device_name(device) if on_gpu else _processor(),
        torch=torch.__version__,
        cuda=torch.version.cuda or torch.version.hip,
        driver=_driver() if on_gpu else None,
    )


def refuse_other_platform(mine: Platform, rank_0: Platform, here: str) -> None:
    """Raises UsageError where a rank's numbers could differ from those of rank 0; `here` names the rank.

    Drivers may differ, as kernels come with torch, and so may processors, as no user of several nodes chooses them.
    """
    for what in ("device", "name", "torch", "cuda"):
        own, other = getattr(mine, what), getattr(rank_0, what)
        if own != other and not (what == "name" and mine.device == "cpu"):
            called = {"device": "the device", "name": "the GPU", "torch": "torch", "cuda": "torch's CUDA"}[what]
            raise UsageError(
                f"{here}: {called} is {own}, that of rank 0 is {other}: results would depend on the rank that computes "
                f"them; start only ranks that are alike"
            )


def embedded_with(folder: RunFolder) -> list[Platform]:
    """With what the embeddings in a run folder were computed, as far as its run.json tells."""
    listed = (read_json(folder.run) or {}).get("platforms")
    try:
        return [Platform.from_dict(each) for each in listed[:MOST_PLATFORMS]] if isinstance(listed, list) else []
    except ValueError as error:
        raise UsageError(f"{folder.run} was written by another version of vpdist: a platform in it {error}") from error


def note_platforms(folder: RunFolder, device: torch.device | None, reuse: Path | None) -> list[str]:
    """On rank 0: add to the platforms in run.json that of `device`, if anything is computed on it, and those of the run
    in `reuse`; a warning, if there are several. Raises StorageError."""
    used = embedded_with(folder)
    if reuse is not None:
        used += embedded_with(RunFolder(reuse))
    if device is not None:
        used.append(platform_here(device))
    used = list(dict.fromkeys(used))
    folder.update_run(platforms=[each.to_dict() for each in used])
    return several(used)


def several(platforms: Sequence[Platform]) -> list[str]:
    """A warning where there is more than one."""
    if len(platforms) < 2:
        return []
    told = "; ".join(shortened(str(each), NAME_LETTERS) for each in platforms)
    return [
        f"warning: the embeddings were computed with {len(platforms)} devices or versions, so that their last digits "
        f"may differ from those of a run with one: {told}"
    ]


def _processor() -> str:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _driver() -> str | None:
    try:
        found = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", DRIVER_VERSION.read_text())
    except OSError:  # absent in some containers
        return None
    return None if found is None else found[1]
