"""`vpdist info`: everything is told, as text where it cannot be found out, and torch is not imported for it."""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.launched import environment
from vpdist.cli import app
from vpdist.commands import info
from vpdist.errors import StorageError


def told(*options: str) -> str:
    ended = CliRunner().invoke(app, ["info", *options], catch_exceptions=False)
    assert ended.exit_code == 0
    return ended.stdout


def test_both_forms_tell_the_same() -> None:
    found, text = json.loads(told("--json")), told()
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["CUDA"] == torch.version.cuda
    assert found["processor"]["usable_cores"] <= found["processor"]["cores"]
    assert found["processor"]["name"] in text
    assert "mini" in [model["name"] for model in found["models"]["known"]]
    assert "mini: here" in text
    assert all(name in text for name in found["limits"])
    assert all(folder["path"] in text for folder in found["folders"].values())


def test_bfloat16_products_are_those_that_torch_sees() -> None:
    capabilities = torch.cpu.get_capabilities()
    assert info._processor()["bfloat16_products"] == any(capabilities.get(name, False) for name in info.BFLOAT16)


def test_it_imports_torch_only_where_a_gpu_could_be_used() -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vpdist", "info", "--json"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    imported = any(line.endswith("| torch") for line in ended.stderr.splitlines())
    assert imported == (torch.version.cuda is not None or torch.version.hip is not None or info.DRIVER.exists())
    assert json.loads(ended.stdout)["python"] == sys.executable


@contextmanager
def limited(number: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(number)
    resource.setrlimit(number, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(number, before)


def test_limits_are_those_in_force() -> None:
    with limited(resource.RLIMIT_FSIZE, 5 << 30):
        assert "file size 5.0 GiB" in told()
    assert info._limit_text("file size", None) == "file size unlimited"


def test_what_cannot_be_found_out_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: object) -> list[object]:
        raise StorageError("the folder of models cannot be read")

    monkeypatch.setattr("vpdist.models.listed.listed", refuse)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    monkeypatch.setattr(info, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(info.psutil, "virtual_memory", lambda: (tmp_path / "none").open())
    text = told()
    assert "the folder of models cannot be read" in text
    assert "No usable temporary directory found" in text
    assert f"memory           [Errno 2] No such file or directory: '{tmp_path / 'none'}'" in text
    assert "no bfloat16 products" in text


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun 6\nGCC\n")
    monkeypatch.setattr(info, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "init", lambda: (_ for _ in ()).throw(RuntimeError("CUDA driver is too old")))
    text = told()
    assert "cannot use the 2 GPU(s) of this machine: CUDA driver is too old" in text
    assert "driver           NVIDIA UNIX x86_64 Kernel Module 535.54.03 Tue Jun 6" in text


def test_gpus_are_told_with_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Properties:
        name, total_memory, major, minor = "NVIDIA H100 80GB HBM3", 80 << 30, 9, 0

    monkeypatch.setattr(info, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert "GPU 0            NVIDIA H100 80GB HBM3, 80.0 GiB, capability 9.0\n" in told()


def test_a_torch_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(info, "DRIVER", tmp_path)
    monkeypatch.setitem(sys.modules, "vpdist.distributed.device", None)
    assert "none: import of vpdist.distributed.device halted" in told()
