"""Scripts that make and judge `mini`: all of a model is copied, and windows are what they are called."""

from __future__ import annotations

from pathlib import Path

import dnaio
import numpy as np

from scripts.mini import make
from scripts.mini.judge import Source, windows
from tests.models.test_heads import described, nucleotide_head, summary_of
from tests.tiny_models import TinyModels, tiny_classifier
from vpdist.models.bundle import read_model, write_model
from vpdist.models.head_files import files_of


def test_all_that_makes_a_rows_numbers_is_copied(models: TinyModels, tmp_path: Path) -> None:
    model, folders = described(models)
    heads = [nucleotide_head(), tiny_classifier(seed=5)]
    written = write_model(
        tmp_path / "fitted", model, tiny_classifier(), encoders=folders, heads=heads, summary=summary_of()
    )
    for name in ("model.json", "README.md", "classifier.safetensors", "heads/150.safetensors", "summary.safetensors"):
        assert (written.folder / name).is_file()
    into = tmp_path / "packaged"
    make.copy(written.folder, into)
    assert {entry.file for _, entry in files_of(read_model(into).model)} == {
        *("classifier.safetensors", "heads/150.safetensors", "heads/300.safetensors", "summary.safetensors")
    }
    assert (into / "encoders" / "protein" / "config.json").is_file()


def test_windows_lie_in_their_sequence(tmp_path: Path) -> None:
    sequence = "".join(np.random.default_rng(0).choice(list("ACGT"), 1000))
    path = tmp_path / "a.fa"
    path.write_text(f">long part\n{sequence}\n>short\n{sequence[:299]}\n")
    source = windows(Source("a", str(path), True), 300, tmp_path / "windows.fa")
    with dnaio.open(source.path) as reader:
        found = [(record.name, record.sequence) for record in reader]
    assert [name for name, _ in found] == [f"long part window {number}" for number in range(3)]
    assert [sequence.index(window) for _, window in found] == [0, 350, 700]
