"""What this machine and this installation are, for `vpdist info`: versions, processor, GPUs, models, limits, variables.

Nothing is computed and nobody is asked over the network. torch is imported only where it could use a GPU: everything
else is read from the system, so that the answer comes at once. What cannot be found out is told as a text.
"""

from __future__ import annotations

import platform
import resource
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

import psutil

from vpdist.cpu_quota import available_cores, quotas
from vpdist.environment import variables_told
from vpdist.errors import VpdistError
from vpdist.text import bytes_text

PACKAGES = ("vpdist", "torch", "transformers", "accelerate")
"""Whose versions matter for results and bugs."""
CPUINFO, PROCESS = Path("/proc/cpuinfo"), Path("/proc/self")
DRIVER = Path("/proc/driver/nvidia")
BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Instructions of which one is needed for bfloat16 products at full speed (`choose_dtype` in encoders/encoder.py)."""
LIMITS = {
    "open files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "address space": resource.RLIMIT_AS,
    "file size": resource.RLIMIT_FSIZE,
}
"""Of `ulimit`: those at which runs have ended. The last two are in bytes."""
SHARED_MEMORY = Path("/dev/shm")


def versions() -> dict[str, str | None]:
    """Of the packages that matter, of Python, and of the CUDA that torch is built for. None: not installed, no CUDA."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found | {"CUDA": _cuda(), "Python": platform.python_version()}


def _cuda() -> str | None:
    """As torch's own list of its build says, which needs no import of torch; of ROCm where it is built for that."""
    torch = util.find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    try:
        build = runpy.run_path(str(Path(torch.origin).with_name("version.py")))
    except (OSError, SyntaxError):  # a package of that name which is not torch
        return None
    return build.get("cuda") or build.get("hip")


def gathered() -> dict[str, Any]:
    """All that `vpdist info --json` prints: numbers are bytes, cores or counts, None is unlimited or unknown."""
    return {
        "versions": versions(),
        "python": sys.executable,
        "system": platform.platform(),
        "host": platform.node(),
        "processor": _processor(),
        "memory": _memory(),
        "gpus": _gpus(),
        "models": _models(),
        "limits": {name: _limit(number) for name, number in LIMITS.items()},
        "folders": {"shared memory": _room(SHARED_MEMORY), "temporary files": _temporary(), "downloads": _downloads()},
        "variables": variables_told(),
    }


def _processor() -> dict[str, Any]:
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:  # /proc is not mounted
        lines = []
    told = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    return {
        "name": told.get("model name") or platform.machine(),
        "cores": psutil.cpu_count(),
        "usable_cores": available_cores(),
        "quota": min(quotas(PROCESS), default=None),
        "bfloat16_products": any(name in told.get("flags", "").split() for name in BFLOAT16),
    }


def _memory() -> dict[str, Any]:
    try:
        memory = psutil.virtual_memory()
    except (OSError, RuntimeError) as error:  # /proc is not mounted, or not whole
        return {"total": None, "available": None, "note": str(error)}
    return {"total": memory.total, "available": memory.available, "note": ""}


def _gpus() -> dict[str, Any]:
    """The GPUs that torch can use (`devices`), the driver's version, and why there are none (`note`)."""
    driver = _driver()
    if _cuda() is None and not DRIVER.exists():
        return {"devices": [], "driver": driver, "note": "torch is built without CUDA, and there is no driver of a GPU"}
    try:
        import torch

        from vpdist.distributed.device import gpus_left_out, multiplies_bfloat16, uses_cuda

        if not uses_cuda("auto"):
            return {"devices": [], "driver": driver, "note": gpus_left_out() or "torch finds no GPU"}
        devices = []
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            device = {
                "name": properties.name,
                "memory": properties.total_memory,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "bfloat16_products": multiplies_bfloat16(torch.device("cuda", number)),
            }
            devices.append(device)
    except (VpdistError, ImportError, OSError, RuntimeError, AssertionError) as error:
        return {"devices": [], "driver": driver, "note": str(error)}
    return {"devices": devices, "driver": driver, "note": ""}


def _driver() -> str | None:
    """The driver's own line about its version."""
    try:
        first = (DRIVER / "version").read_text(errors="replace").splitlines()[0]
        return " ".join(first.partition(":")[2].split())
    except (OSError, IndexError):  # absent, also in some containers
        return None


def _models() -> dict[str, Any]:
    from vpdist.models.listed import listed

    try:
        models = [{"name": found.name, "state": found.state, "bytes": found.bytes} for found in listed([])]
    except (VpdistError, OSError) as error:
        return {"known": [], "note": str(error)}
    return {"known": models, "note": ""}


def _limit(number: int) -> int | None:
    """The limit in force, which the user can raise up to the hard one."""
    soft, _ = resource.getrlimit(number)
    return None if soft == resource.RLIM_INFINITY else soft


def _room(folder: Path) -> dict[str, Any]:
    """Size and free bytes of the file system that `folder`, or what there is of it, lies in."""
    try:
        there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        usage = shutil.disk_usage(there)
    except OSError as error:
        return {"path": str(folder), "total": None, "free": None, "note": str(error)}
    return {"path": str(folder), "total": usage.total, "free": usage.free, "note": ""}


def _temporary() -> dict[str, Any]:
    try:
        return _room(Path(tempfile.gettempdir()))
    except OSError as error:
        return {"path": "", "total": None, "free": None, "note": str(error)}


def _downloads() -> dict[str, Any]:
    from huggingface_hub import constants

    return _room(Path(constants.HF_HUB_CACHE))


def lines(found: dict[str, Any]) -> Iterator[str]:
    """`gathered` for people."""
    processor, memory, gpus = found["processor"], found["memory"], found["gpus"]
    named = [f"{name} {version or 'none'}" for name, version in found["versions"].items()]
    yield _line("versions", ", ".join(named))
    yield _line("system", f"{found['host']}, {found['system']}, {found['python']}")
    quota = "no quota" if processor["quota"] is None else f"a quota of {processor['quota']:g}"
    native = "bfloat16 products" if processor["bfloat16_products"] else "no bfloat16 products"
    cores = f"{processor['cores']} cores, {processor['usable_cores']} usable here, {quota}"
    yield _line("processor", f"{processor['name']}: {cores}, {native}")
    known = memory["note"] or f"{bytes_text(memory['total'])}, {bytes_text(memory['available'])} available"
    yield _line("memory", known)
    for number, device in enumerate(gpus["devices"]):
        formats = "" if device["bfloat16_products"] else ", no bfloat16 products"
        what = f"{device['name']}, {bytes_text(device['memory'])}, capability {device['compute_capability']}{formats}"
        yield _line(f"GPU {number}", what)
    if gpus["note"]:
        yield _line("GPUs", f"none: {gpus['note']}")
    if gpus["driver"]:
        yield _line("driver", gpus["driver"])
    for model in found["models"]["known"]:
        yield _line("model", f"{model['name']}: {model['state']}, {bytes_text(model['bytes'])}")
    if found["models"]["note"]:
        yield _line("models", found["models"]["note"])
    yield _line("limits", ", ".join(_limit_text(name, value) for name, value in found["limits"].items()))
    for what, folder in found["folders"].items():
        room = folder["note"] or f"{bytes_text(folder['total'])}, {bytes_text(folder['free'])} free"
        yield _line(what, ": ".join(filter(None, (folder["path"], room))))
    for name, value in found["variables"].items():
        yield _line("variable", f"{name}={value}")


def _line(what: str, told: str) -> str:
    return f"{what:<16} {told}"


def _limit_text(name: str, value: int | None) -> str:
    if value is None:
        return f"{name} unlimited"
    return f"{name} {value:,}" if name in ("open files", "processes") else f"{name} {bytes_text(value)}"
