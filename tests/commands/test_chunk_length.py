"""A classifier belongs to the chunk length that it was trained on: another is refused, an unknown one is told."""

import json
from pathlib import Path

import pytest

from tests.sample import write_contigs
from tests.tiny_models import TinyModels, tiny_classifier
from vpdist.commands.classify import classify
from vpdist.commands.predict import predict
from vpdist.results.classifier import save_classifier

WARNING = "does not say with which encoders and on which chunk length it was trained"


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
    assert f"warning: {unknown}: {WARNING}, so neither can be checked; this run has 300 bases" in told
    assert WARNING in (run / "status.json").read_text()
    assert classify(run, unknown, consensus=None, legacy_output=False, progress="none") == 0
    assert capfd.readouterr().err.count(WARNING) == 1


def test_an_unknown_chunk_length_is_asked_for_and_500_until_it_is_given(
    models: TinyModels, unknown: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, run = write_contigs(tmp_path / "contigs.fa", n=3), tmp_path / "run"
    assert predict(models.settings(source, run, classifier=unknown)) == 0
    told = capfd.readouterr().err
    assert told.count(WARNING) == 1
    assert "this run has 500 bases: give --chunk-length" in told
    assert json.loads((run / "run.json").read_text())["decisions"]["chunk_length"] == 500


def test_a_known_chunk_length_is_the_default(models: TinyModels, tmp_path: Path) -> None:
    source, short = write_contigs(tmp_path / "contigs.fa", n=3), tmp_path / "short.safetensors"
    save_classifier(tiny_classifier(), short, {"chunk_length": "300"})
    assert predict(models.settings(source, tmp_path / "run", classifier=short)) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["decisions"]["chunk_length"], run["settings"]["chunk_length"], run["model"]) == (300, 300, None)


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
