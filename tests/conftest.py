"""Fixtures every test may use."""

from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")  # a busy processor may take a second over any example

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the parity set and the labelled contigs, which lies beside some checkouts."""
    if not (SHARED / "parity" / "README.md").is_file():
        pytest.skip("the parity set and labelled contigs (../shared) do not lie beside this checkout")
    return SHARED
