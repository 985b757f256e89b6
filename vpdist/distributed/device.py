"""The device that a rank computes on: chosen, made the process's current one, and tried before anything is loaded.

Enters: the option --device and the launch context. Leaves: a device on which a kernel has run, or the reason why there
is none. A GPU that the driver shows and torch cannot use is never passed over for the CPU unless that is asked for.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from vpdist.environment import LaunchContext
from vpdist.errors import UsageError
from vpdist.storage.downloads import first_line

CPU = torch.device("cpu")
DRIVER_LISTS = Path("/proc/driver/nvidia/gpus")
"""A folder with one entry for each GPU of the machine, whether torch can use it or not."""


def device_of_rank(context: LaunchContext, device: str = "auto") -> torch.device:
    """This rank's device for --device auto, cpu or cuda, once it is current and has computed something.

    A launcher may show each rank its own GPU only. Raises UsageError where CUDA is asked for or the machine has GPUs,
    and this rank can use none; where it is not known which of several is its own; and for a GPU that cannot compute.
    """
    if not uses_cuda(device):
        return CPU
    n = torch.cuda.device_count()
    if n > 1 and not context.placed:
        raise UsageError(
            f"{platform.node()} has {n} GPUs, and nothing says which one rank {context.rank} uses: RANK and WORLD_SIZE "
            f"are set, LOCAL_RANK is not; set it (0, 1, ... on each machine), or start through torchrun or srun"
        )
    chosen = torch.device("cuda", context.local_rank % n)
    _try(chosen)
    return chosen


def uses_cuda(device: str) -> bool:
    """Whether --device auto, cpu or cuda means a GPU here.

    Raises UsageError for cuda where there is none, and for auto where the driver shows GPUs that torch cannot use.
    """
    if device == "cpu":
        return False
    if torch.cuda.is_available():
        return True
    seen = torch.cuda.device_count()  # asks NVML first, which answers where CUDA does not start
    if seen:
        raise UsageError(
            f"{platform.node()}: torch {torch.__version__} cannot use the {seen} GPU(s) of this machine: {_reason()} "
            f"(--device cpu computes on the CPU)"
        )
    if device == "cuda":
        built = "" if torch.backends.cuda.is_built() else f": torch {torch.__version__} is built without CUDA"
        raise UsageError(f"--device cuda: there is no CUDA device on {platform.node()}{built}")
    return False


def make_current(device: torch.device) -> None:
    """Make a CUDA device this thread's current one.

    Else what names no device (streams, events, pinned memory) opens a second context on the first GPU, which takes
    some hundred megabytes of it for every rank of the node.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


def return_free_memory(device: torch.device) -> None:
    """Give memory of a CUDA device that torch keeps and nothing uses back to the device, for other processes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is worth using: on a GPU from Ampere on. Older ones emulate its products, and no fused attention
    takes it there."""
    on_nvidia = device.type == "cuda" and torch.version.hip is None
    return not on_nvidia or torch.cuda.get_device_capability(device) >= (8, 0)


def gpus_left_out() -> str:
    """What to tell where this machine has GPUs and torch is a build for CPUs; empty elsewhere."""
    if torch.backends.cuda.is_built() or not DRIVER_LISTS.is_dir():
        return ""
    n = sum(1 for _ in DRIVER_LISTS.iterdir())
    return f"note: torch {torch.__version__} is built without CUDA; the {n} GPU(s) of this machine are not used"


def _try(device: torch.device) -> None:
    """Make a GPU current and run a kernel. Raises UsageError: this torch may have none for it, or it is not free."""
    try:
        make_current(device)
        computed = float(torch.ones(1, device=device).add_(1.0).item())
    except RuntimeError as error:
        raise UsageError(
            f"{platform.node()}: {device}{_described(device)} cannot be used: {first_line(error)}; "
            f"torch {torch.__version__} has kernels for {' '.join(torch.cuda.get_arch_list())}"
        ) from error
    if computed != 2.0:
        raise UsageError(f"{platform.node()}: {device}{_described(device)} computes 1 + 1 = {computed}")


def _described(device: torch.device) -> str:
    """A GPU's name and compute capability, as far as it tells them."""
    try:
        major, minor = torch.cuda.get_device_capability(device)
        return f" ({torch.cuda.get_device_name(device)}, compute capability {major}.{minor})"
    except RuntimeError:  # it does not start, which is what is being reported
        return ""


def _reason() -> str:
    """Why CUDA does not start."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return "it finds no device"
