import errno
import logging
import os
import sys
import types

import numpy as np
import psutil
import pytest
import torch

from vpdist.monitoring.counters import UNKNOWN, Cell, empty_vector
from vpdist.monitoring.telemetry import Telemetry, rank_facts


def test_on_a_cpu_the_resident_memory_is_read_and_no_utilisation() -> None:
    telemetry = Telemetry(torch.device("cpu"))
    telemetry.read()
    assert telemetry.memory_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert telemetry.utilisation == UNKNOWN


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), psutil.AccessDenied()])
def test_what_cannot_be_read_keeps_its_last_reading_and_is_logged_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = Telemetry(torch.device("cpu"))
    telemetry.read()
    before = telemetry.memory_bytes

    def refuse(process: psutil.Process) -> None:
        raise error

    monkeypatch.setattr(psutil.Process, "memory_info", refuse)
    with caplog.at_level(logging.WARNING):
        telemetry.read()
        telemetry.read()
    assert telemetry.memory_bytes == before > 0
    assert len(caplog.records) == 1


class NVMLError(Exception):
    """As pynvml's."""


def fake_nvml(monkeypatch: pytest.MonkeyPatch, *refused: str) -> dict[str, int]:
    """NVML that answers from a table, and does not know some of the questions; and CUDA that names its device."""
    answers = {
        "nvmlDeviceGetPowerUsage": 640_000,
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 0x20,
        "nvmlDeviceGetTotalEnergyConsumption": 5_000_000,
    }
    nvml = types.ModuleType("pynvml")

    def answer(name: str) -> int:
        if name in refused:
            raise NVMLError("Not Supported")
        return answers[name]

    for name in answers:
        setattr(nvml, name, lambda *_, name=name: answer(name))
    utilisation = types.SimpleNamespace(gpu=97)
    others = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetUtilizationRates": lambda handle: utilisation,
    }
    for name, value in others.items():
        setattr(nvml, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    properties = types.SimpleNamespace(uuid="1", name="A100", total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7)
    return answers


def filled(telemetry: Telemetry) -> np.ndarray:
    vector = empty_vector()
    telemetry.fill(vector)
    return vector


def test_what_nvml_answers_is_in_the_vector_and_energy_counts_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = fake_nvml(monkeypatch)
    telemetry = Telemetry(torch.device("cuda:0"))
    answers["nvmlDeviceGetTotalEnergyConsumption"] += 42_000
    telemetry.read()
    vector = filled(telemetry)
    cells = (Cell.MEMORY, Cell.UTILISATION, Cell.POWER_MW, Cell.TEMPERATURE, Cell.THROTTLE, Cell.ENERGY_J)
    assert [int(vector[cell]) for cell in cells] == [7, 97, 640_000, 61, 0x20, 42]


def test_a_reason_for_throttling_that_nvml_does_not_know_fits_in_the_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = fake_nvml(monkeypatch)
    answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x8000_0000_0000_0020
    telemetry = Telemetry(torch.device("cuda:0"))
    telemetry.read()
    assert filled(telemetry)[Cell.THROTTLE] == 0x20


def test_what_nvml_refuses_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
    telemetry = Telemetry(torch.device("cuda:0"))
    telemetry.read()
    vector = filled(telemetry)
    assert [int(vector[cell]) for cell in (Cell.POWER_MW, Cell.ENERGY_J)] == [UNKNOWN, UNKNOWN]
    assert vector[Cell.TEMPERATURE] == 61


def test_a_rank_tells_its_host_process_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = rank_facts(torch.device("cpu"))
    assert (facts.host, facts.pid, facts.device) == (os.uname().nodename, os.getpid(), "cpu")
    fake_nvml(monkeypatch)
    facts = rank_facts(torch.device("cuda:3"))
    assert (facts.device, facts.index, facts.memory_bytes) == ("A100", 3, 80 << 30)


@pytest.mark.cuda
def test_on_a_gpu_the_reserved_memory_and_the_utilisation_are_read() -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    block = torch.ones(64 << 20, dtype=torch.uint8, device="cuda:0")
    telemetry = Telemetry(torch.device("cuda:0"))
    telemetry.read()
    assert telemetry.memory_bytes >= block.numel()
    assert 0 <= telemetry.utilisation <= 100
