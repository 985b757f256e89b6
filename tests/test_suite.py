"""The tests themselves: which of them may use a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest
from tests.launched import PATIENCE_S

REPOSITORY = Path(__file__).resolve().parents[1]


def configured(markers: str) -> str:
    """CUDA_VISIBLE_DEVICES of tests that are chosen by an expression of markers."""
    conftest.pytest_configure(SimpleNamespace(option=SimpleNamespace(markexpr=markers)))  # type: ignore[arg-type]
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_only_tests_of_the_gpu_see_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""  # of this very run, and of the processes that it starts
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert configured(conftest.CUDA) == "0,1"
    assert configured("not faults and not cuda") == ""


@pytest.mark.launcher
def test_tests_of_the_gpu_are_left_out_by_default_and_are_all_that_test_cuda_runs() -> None:
    def collected(*options: str) -> set[str]:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/encoders/test_encoder.py", *options]
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        return {line for line in ended.stdout.splitlines() if "::" in line}

    everything, by_default, of_the_gpu = collected("-m", ""), collected(), collected("-m", conftest.CUDA)
    assert of_the_gpu
    assert of_the_gpu.isdisjoint(by_default)
    assert everything == of_the_gpu | by_default
