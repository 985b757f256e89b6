"""A rank's device: never the CPU in place of a GPU that cannot be used, and never another rank's GPU."""

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from scripts.faults.launched_runs import TORCHRUN
from tests import fake_gpus
from tests.launched import PATIENCE_S, environment
from vpdist.distributed import device, launch
from vpdist.distributed.device import device_of_rank, gpus_left_out, uses_cuda
from vpdist.environment import LaunchContext
from vpdist.errors import UsageError

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


def old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML shows GPUs, CUDA does not start."""

    def refuse() -> None:
        raise RuntimeError(f"{TOO_OLD} Please update it\nor install another torch")

    fake_gpus.fake_gpus(monkeypatch, 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", refuse)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_gpus_that_torch_cannot_use_are_told_with_the_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old_driver(monkeypatch)
    with pytest.raises(UsageError, match=r"cannot use the 8 GPU\(s\).*too old \(found version 11040\).*--device cpu"):
        uses_cuda(name)
    with pytest.raises(UsageError, match="too old"):
        launch.ranks_to_start(None, name, lambda: 1)


def test_the_cpu_is_used_where_it_is_asked_for_or_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of_rank(LaunchContext()) == torch.device("cpu")
    old_driver(monkeypatch)
    assert device_of_rank(LaunchContext(), "cpu") == torch.device("cpu")
    assert launch.ranks_to_start(None, "cpu", lambda: 1) == 1


def test_cuda_where_there_is_none_says_what_torch_is_built_for() -> None:
    with pytest.raises(UsageError, match=f"no CUDA device on {platform.node()}") as refused:
        device_of_rank(LaunchContext(), "cuda")
    assert ("built without CUDA" in str(refused.value)) == (not torch.backends.cuda.is_built())


def test_a_rank_is_started_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.ranks_to_start(None, "auto", lambda: 1) == 1
    fake_gpus.fake_gpus(monkeypatch, 3)
    assert launch.ranks_to_start(None, "auto", lambda: 1) == 3


@pytest.mark.parametrize(("rank", "index"), [(0, 0), (1, 1), (2, 0)])
def test_a_rank_makes_its_own_gpu_current_before_it_computes(
    rank: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    current, made_before = fake_gpus.fake_gpus(monkeypatch), list[int]()
    ones = torch.ones

    def compute(*shape: int, device: torch.device) -> torch.Tensor:
        made_before.append(len(current))
        return ones(*shape)

    monkeypatch.setattr(torch, "ones", compute)
    mine = torch.device("cuda", index)
    assert device_of_rank(LaunchContext(rank=rank, local_rank=rank, world_size=3, local_world_size=3)) == mine
    assert (current, made_before) == ([mine], [1])


def test_a_gpu_for_which_torch_has_no_kernels_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus.fake_gpus(monkeypatch, 1, name="Tesla K80", capability=(3, 7))

    def no_kernel(*shape: int, device: torch.device) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch, "ones", no_kernel)
    with pytest.raises(
        UsageError, match=r"Tesla K80, compute capability 3\.7\) cannot be used.*no kernel.*sm_80 sm_90"
    ):
        device_of_rank(LaunchContext())


@pytest.mark.parametrize(("visible", "told"), [(2, True), (1, False)])
def test_a_rank_that_does_not_know_its_gpu_takes_none_at_random(
    visible: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpus.fake_gpus(monkeypatch, visible)
    fake_gpus.compute_on_cpu(monkeypatch)
    context = LaunchContext(rank=2, world_size=4, local_rank=2, local_world_size=4, placed=False)
    if told:
        with pytest.raises(UsageError, match=r"nothing says which one rank 2 uses.*LOCAL_RANK"):
            device_of_rank(context)
    else:
        assert device_of_rank(context) == torch.device("cuda", 0)
    assert device_of_rank(context, "cpu") == torch.device("cpu")


def test_gpus_beside_a_torch_for_cpus_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    monkeypatch.setattr(device, "DRIVER_LISTS", tmp_path / "gpus")
    assert gpus_left_out() == ""
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    assert "the 1 GPU(s) of this machine are not used" in gpus_left_out()
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    assert gpus_left_out() == ""


@pytest.mark.launcher
@pytest.mark.parametrize(("ranks", "backend"), [(1, None), (2, "gloo")])
def test_ranks_on_gpus_meet_without_nccl_whatever_the_driver(ranks: int, backend: str | None, tmp_path: Path) -> None:
    """accelerate by itself makes an NCCL group, or raises: several RTX 40xx need a driver from 550.40.07 on."""
    programs = fake_gpus.write_nvidia_smi(tmp_path / "bin", gpus=2, driver="535.54.03")
    variables = environment() | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    command = [*TORCHRUN, "--standalone", f"--nproc-per-node={ranks}", fake_gpus.__file__, str(tmp_path)]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stderr
    for rank in range(ranks):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {"device": f"cuda:{rank}", "backend": backend, "current": [f"cuda:{rank}"]}
