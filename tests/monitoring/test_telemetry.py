import errno
import logging

import psutil
import pytest
import torch

from vpdist.monitoring.counters import UNKNOWN
from vpdist.monitoring.telemetry import Telemetry


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


@pytest.mark.cuda
def test_on_a_gpu_the_reserved_memory_and_the_utilisation_are_read() -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    block = torch.ones(64 << 20, dtype=torch.uint8, device="cuda:0")
    telemetry = Telemetry(torch.device("cuda:0"))
    telemetry.read()
    assert telemetry.memory_bytes >= block.numel()
    assert 0 <= telemetry.utilisation <= 100
