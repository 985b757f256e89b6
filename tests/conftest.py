"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.tiny_models import TinyModels

hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")  # a busy processor may take a second over any example

CUDA = "cuda"
"""The expression of markers with which tests may use a GPU: `make test-cuda`."""


def pytest_configure(config: pytest.Config) -> None:
    """All other tests run on the CPU, and so do the processes that they start, whatever the machine has."""
    if config.option.markexpr != CUDA:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    why = "needs an NVIDIA GPU, and `make test-cuda`"
    if config.option.markexpr == CUDA:
        import torch

        why = "" if torch.cuda.is_available() else "needs an NVIDIA GPU"
    for item in items:
        if why and item.get_closest_marker(CUDA) is not None:
            item.add_marker(pytest.mark.skip(reason=why))


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the parity set and the labelled contigs, beside some checkouts."""
    if not (SHARED / "parity" / "README.md").is_file():
        pytest.skip("there is no folder ../shared with the parity set and labelled contigs")
    return SHARED


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Tiny encoders and their classifier. No test changes them."""
    from tests.tiny_models import write_models  # imports torch, which other tests do without

    return write_models(tmp_path_factory.mktemp("models"))
