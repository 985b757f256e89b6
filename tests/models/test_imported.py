"""`vpdist import-classifier`: an original classifier becomes a model with its encoders, or a file as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.conftest import COMMITS, Published
from tests.test_cli import run_main
from tests.tiny_models import TinyModels
from vpdist.encoders.weights import model_fingerprint
from vpdist.models.bundle import read_model
from vpdist.results.classifier import load_classifier


@pytest.fixture
def original(published: Published, tmp_path: Path) -> Path:
    """The .pth of a preset, for the tiny encoders."""
    return tmp_path / "original.pth"


def test_a_folder_becomes_a_model_with_copies_of_its_encoders(
    models: TinyModels,
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    encoders = ("--nucleotide-model", models.nucleotide, "--protein-model", models.protein)
    arguments = ("import-classifier", original, "--chunk-length", 300, "-o", tmp_path / "my model", *encoders)
    assert run_main(monkeypatch, *arguments) == 0
    bundle = read_model(tmp_path / "my model")
    assert f"model my-model, digest sha256:{bundle.digest}" in capfd.readouterr().out
    assert (bundle.model.name, bundle.model.chunk_length) == ("my-model", 300)
    assert model_fingerprint(Path(bundle.encoder("protein"))) == model_fingerprint(models.protein)
    assert load_classifier(bundle.classifier).fingerprint == load_classifier(original).fingerprint
    assert run_main(monkeypatch, *arguments) == 2
    assert "holds a model already" in capfd.readouterr().err


def test_encoders_of_the_hub_stay_ids(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {slot: f"owner/{slot}@{COMMITS[slot]}" for slot in ("nucleotide", "protein")}
    encoders = [text for slot, name in ids.items() for text in (f"--{slot}-model", name)]
    assert (
        run_main(monkeypatch, "import-classifier", original, "--chunk-length", 500, "-o", tmp_path / "m", *encoders)
        == 0
    )
    bundle = read_model(tmp_path / "m")
    assert {slot: bundle.encoder(slot) for slot in ids} == ids
    assert all(entry.fingerprint for entry in bundle.model.encoders.values())
    assert not (tmp_path / "m" / "encoders").exists()


def test_what_is_missing_is_asked_for(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "import-classifier", original, "-o", tmp_path / "m") == 2
    assert "give --chunk-length" in capfd.readouterr().err
    assert run_main(monkeypatch, "import-classifier", original, "-o", tmp_path / "m", "--chunk-length", 500) == 2
    assert "--nucleotide-model, --protein-model" in capfd.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_file_stays_a_file(
    models: TinyModels,
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "c.safetensors"
    assert run_main(monkeypatch, "import-classifier", original, "-o", target, "--chunk-length", 500) == 0
    assert load_classifier(target).chunk_length == "500"
    extra = ("--protein-model", models.protein)
    assert run_main(monkeypatch, "import-classifier", original, "-o", target, "--chunk-length", 500, *extra) == 2
    assert "a file holds no encoders" in capfd.readouterr().err
