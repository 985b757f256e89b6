"""Memory in use by a rank's process or device, and utilisation of its device where NVML reports it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from vpdist.monitoring.counters import NO_UTILISATION

logger = logging.getLogger(__name__)


class Telemetry:
    """Readings of one rank: `memory_bytes` (reserved on its CUDA device, else resident) and `utilisation` (percent)."""

    def __init__(self, device: torch.device) -> None:
        self.memory_bytes = 0
        self.utilisation = NO_UTILISATION
        self._device = device
        self._process = psutil.Process()
        self._warned = False
        self._read_utilisation = _nvml_reader(device) if device.type == "cuda" else None

    def read(self) -> None:
        """Take new readings."""
        if self._device.type == "cuda":
            self.memory_bytes = torch.cuda.memory_reserved(self._device)
        else:
            try:
                self.memory_bytes = self._process.memory_info().rss
            except (OSError, psutil.Error) as error:  # such as no free file descriptor: no reason to end a run
                if not self._warned:
                    logger.warning("memory in use cannot be read, the display keeps the last value: %s", error)
                self._warned = True
        if self._read_utilisation is not None:
            self.utilisation = self._read_utilisation()


def most_memory_bytes(device: torch.device) -> int:
    """The most memory this process has had: reserved on its CUDA device, else resident.

    Not from getrusage: there a process that was just started counts its parent's memory.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def _nvml_reader(device: torch.device) -> Callable[[], int] | None:
    """A function that reads the device's utilisation in percent, or None if NVML does not report it."""
    try:
        import pynvml
    except ImportError:
        logger.info("GPU utilisation is not displayed: nvidia-ml-py is not installed")
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetUtilizationRates(handle)
    except pynvml.NVMLError as error:
        logger.info("GPU utilisation is not displayed: %s", error)
        return None

    def read() -> int:
        try:
            return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except pynvml.NVMLError:
            return NO_UTILISATION

    return read
