import psutil
import pytest
import torch

from vpdist.counters import NO_UTILISATION
from vpdist.telemetry import Telemetry


def test_on_a_cpu_the_resident_memory_is_read_and_no_utilisation() -> None:
    telemetry = Telemetry(torch.device("cpu"))
    telemetry.read()
    assert telemetry.memory_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert telemetry.utilisation == NO_UTILISATION


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_reserved_memory_and_the_utilisation_are_read() -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    block = torch.ones(64 << 20, dtype=torch.uint8, device="cuda:0")
    telemetry = Telemetry(torch.device("cuda:0"))
    telemetry.read()
    assert telemetry.memory_bytes >= block.numel()
    assert 0 <= telemetry.utilisation <= 100
