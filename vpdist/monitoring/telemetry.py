"""Memory of a rank's process or device, and what NVML tells of its device: utilisation, power, temperature, throttling.

Enters: a device. Leaves: readings in a rank's vector, and the facts of the rank that do not change.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch

from vpdist.monitoring.counters import UNKNOWN, Cell
from vpdist.monitoring.facts import RankFacts

logger = logging.getLogger(__name__)

Reading = tuple[Cell, Callable[[], int]]
INT64_BITS = 0x7FFF_FFFF_FFFF_FFFF
"""Of a reading that is 64 bits without a sign: "throttled, and nobody knows why" is the highest."""


class Telemetry:
    """Readings of one rank: `memory_bytes` (reserved on its CUDA device, else resident) and what the device tells."""

    def __init__(self, device: torch.device) -> None:
        self.memory_bytes = 0
        self.told: dict[Cell, int] = {}
        """What NVML has told last; UNKNOWN where it tells nothing."""
        self._device = device
        self._process = psutil.Process()
        self._warned = False
        self._readings = _nvml_readings(device) if device.type == "cuda" else []

    @property
    def utilisation(self) -> int:
        """Of the device, in percent."""
        return self.told.get(Cell.UTILISATION, UNKNOWN)

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
        for cell, reading in self._readings:
            self.told[cell] = reading()

    def fill(self, vector: np.ndarray) -> None:
        """Write the last readings into a rank's vector, (WIDTH,) int64."""
        vector[Cell.MEMORY] = self.memory_bytes
        for cell, told in self.told.items():
            vector[cell] = told


def rank_facts(device: torch.device) -> RankFacts:
    """Host, process and device of this rank."""
    host, pid = os.uname().nodename, os.getpid()
    if device.type != "cuda":
        return RankFacts(host, pid, device.type, 0, psutil.virtual_memory().total)
    properties = torch.cuda.get_device_properties(device)
    return RankFacts(host, pid, properties.name, device.index or 0, properties.total_memory)


def most_memory_bytes(device: torch.device) -> int:
    """The most memory this process has had: reserved on its CUDA device, else resident.

    Not from getrusage: there a process that was just started counts its parent's memory.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def _nvml_readings(device: torch.device) -> list[Reading]:
    """What NVML answers about the device; nothing without NVML."""
    try:
        import pynvml
    except ImportError:
        logger.info("utilisation, power and temperature of GPUs are not displayed: nvidia-ml-py is not installed")
        return []
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError as error:
        logger.info("utilisation, power and temperature of GPUs are not displayed: %s", error)
        return []

    def energy_mj() -> int:
        return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))

    began_mj = _answer(energy_mj, pynvml.NVMLError)
    calls: list[Reading] = [
        (Cell.UTILISATION, lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        (Cell.POWER_MW, lambda: int(pynvml.nvmlDeviceGetPowerUsage(handle))),
        (Cell.TEMPERATURE, lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))),
        (Cell.THROTTLE, lambda: int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) & INT64_BITS),
        (Cell.ENERGY_J, lambda: (energy_mj() - began_mj) // 1000),
    ]
    answered = [(cell, call) for cell, call in calls if _answer(call, pynvml.NVMLError) != UNKNOWN]
    silent = [cell.name.lower() for cell, _ in calls if cell not in dict(answered)]
    if silent:
        logger.info("NVML does not tell %s of %s", ", ".join(silent), device)
    return [(cell, _answering(call, pynvml.NVMLError)) for cell, call in answered]


def _answer(call: Callable[[], int], refused: type[Exception]) -> int:
    """What NVML answers, or UNKNOWN."""
    try:
        return call()
    except refused:
        return UNKNOWN


def _answering(call: Callable[[], int], refused: type[Exception]) -> Callable[[], int]:
    return lambda: _answer(call, refused)
