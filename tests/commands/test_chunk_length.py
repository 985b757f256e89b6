"""A classifier belongs to the chunk length that it was trained on: another is refused, an unknown one is told."""

from pathlib import Path

import pytest

from tests.sample import write_contigs
from tests.tiny_models import TinyModels, tiny_classifier
from vpdist.commands.classify import classify
from vpdist.commands.predict import predict
from vpdist.results.classifier import save_classifier

WARNING = "it is not known on which chunk length it was trained"


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    save_classifier(tiny_classifier(), tmp_path / "unknown.safetensors", {})
    return tmp_path / "unknown.safetensors"


def test_an_unknown_chunk_length_is_told_once_and_the_run_goes_on(
    models: TinyModels, unknown: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, run = write_contigs(tmp_path / "contigs.fa", n=12), tmp_path / "run"
    assert predict(models.settings(source, run, classifier=unknown, chunk_length=300)) == 0
    told = capfd.readouterr().err
    assert told.count(WARNING) == 1
    assert f"warning: {unknown}: {WARNING}; this run has 300 bases" in told
    assert WARNING in (run / "status.json").read_text()
    assert classify(run, unknown, consensus=None, legacy_output=False, progress="none") == 0
    assert capfd.readouterr().err.count(WARNING) == 1


def test_nothing_is_told_of_a_chunk_length_that_is_known(
    models: TinyModels, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, run = write_contigs(tmp_path / "contigs.fa", n=12), tmp_path / "run"
    assert predict(models.settings(source, run)) == 0
    assert predict(models.settings(source, tmp_path / "embedded", classifier=None)) == 0
    assert "13 sequences" in (told := capfd.readouterr().err)
    assert WARNING not in told


def test_another_chunk_length_than_that_of_the_classifier_ends_with_code_4(models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=12)
    assert predict(models.settings(source, tmp_path / "run", chunk_length=400)) == 4
