"""The row that compares ESM-2 with esm.cpp: what is divided by what, and why there is none."""

import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.bench import against_esm_cpp as bench
from scripts.bench.esm_cpp_worker import SEQUENCES, TOKENS
from scripts.demo.make_models import make_dnabert_s, make_esm2

FAKE = """
import numpy as np
__version__ = "0.0"
def current_isa(): return "ref"
class Model:
    @staticmethod
    def load_from_safetensors(path):
        assert path.endswith("model.safetensors")
        return Model()
    def quantize_weights(self): self.quantized = True
    def forward_with_hidden_states(self, ids):
        assert self.quantized and ids.shape == (168,)
        return None, [np.zeros((168, 32)), np.arange(168.0)[:, None] * np.ones(32)]
    def forward_scheduled(self, batch): return [np.zeros(1) for _ in batch]
"""
ONES = np.ones(4)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny models, on a processor that has bfloat16."""
    monkeypatch.setattr(bench, "native_bfloat16", lambda: True)
    monkeypatch.setattr(bench, "SIZE", "2x32")
    make_dnabert_s(tmp_path / "dnabert-s", 1, 48, 1, safetensors=True)
    make_esm2(tmp_path / "esm-2-2x32", 2, 32, 1)
    return tmp_path


def test_the_figure_is_our_median_rate_over_theirs() -> None:
    row = bench.judged(["0.2.1", "0.1.0"], [ONES, 2 * ONES], [(2.0, 1.0), (3.0, 1.0), (4.0, 9.0)])
    assert row.figure == pytest.approx(3.0)
    assert row.verdict == "reached"
    assert f"{SEQUENCES * TOKENS:,} tokens/s; esm.cpp 0.2.1: {SEQUENCES * TOKENS / 3:,.0f}" in row.note
    assert bench.judged(["", ""], [ONES, ONES], [(1.0, 1.0)]).verdict == "missed"


def test_sides_that_compute_different_models_are_not_compared() -> None:
    row = bench.judged(["", ""], [ONES, np.arange(4.0)], [(2.0, 1.0)])
    assert row.verdict == "not measured"
    assert row.note.startswith("not the same model")


def test_without_a_python_for_it_the_row_says_what_to_name(tmp_path: Path) -> None:
    [row] = bench.rows(tmp_path, None)
    assert (row.verdict, row.note) == ("not measured", bench.ABSENT)
    assert "ESM_CPP=PYTHON" in row.note


def test_a_processor_without_bfloat16_products_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "native_bfloat16", lambda: False)
    [row] = bench.rows(tmp_path, sys.executable)
    assert (row.verdict, row.note) == ("not measured", "this processor has no instructions for bfloat16")


@pytest.mark.launcher
def test_a_python_without_the_package_or_none_at_all_is_the_reason(work: Path) -> None:
    [row] = bench.rows(work, sys.executable)
    assert row.verdict == "not measured"
    assert "No module named 'esm_cpp'" in row.note
    [row] = bench.rows(work, str(work / "absent"))
    assert "No such file" in row.note


@pytest.mark.launcher
def test_both_sides_are_started_told_apart_and_timed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "packages").mkdir()
    (work / "packages" / "esm_cpp.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(work / "packages"))
    [row] = bench.rows(work, sys.executable)
    assert row.note.startswith("not the same model")
    monkeypatch.setattr(bench, "LEAST_COSINE", -1.0)
    [row] = bench.rows(work, sys.executable)
    assert row.figure is not None
    assert "esm.cpp 0.0, ref" in row.note
