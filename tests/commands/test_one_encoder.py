"""Classifiers that take one kind of encoder: predict, classify, plan, verify and reuse, and what is told is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sample import write_contigs
from tests.tiny_models import NUCLEOTIDE_WIDTH, PROTEIN_WIDTH, TinyModels, tiny_classifier
from vpdist.commands.classify import classify
from vpdist.commands.early_checks import check_paths
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.config import Settings
from vpdist.encoder_kinds import CLASSIFIED
from vpdist.errors import UsageError, WeightsError
from vpdist.estimate.dry_run import forecast
from vpdist.results.classifier import load_classifier, save_classifier
from vpdist.results.classifier_kinds import kinds_of_file

WIDTHS = {"nucleotide": NUCLEOTIDE_WIDTH, "protein": PROTEIN_WIDTH}
TABLES = ("sequences.tsv", "chunks.tsv", "fragments.tsv")


def write_for(path: Path, *kinds: str, recorded: str | None = None) -> Path:
    """A classifier that takes these kinds, and records them and its chunk length."""
    widths = {f"{kind}_width": width if kind in kinds else 0 for kind, width in WIDTHS.items()}
    save_classifier(tiny_classifier(**widths), path, {"kinds": recorded or ",".join(kinds), "chunk_length": "500"})
    return path


def alone(models: TinyModels, kind: str, source: Path, output: Path, classifier: Path | None) -> Settings:
    others = {f"{other}_model": None for other in CLASSIFIED if other != kind}
    return models.settings(source, output, classifier=classifier, **others)


def tables(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in TABLES]


@pytest.mark.parametrize("kind", CLASSIFIED)
def test_one_encoder_and_its_classifier_are_a_whole_run(kind: str, models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa")
    classifier = write_for(tmp_path / "one.safetensors", kind)
    settings = alone(models, kind, source, tmp_path / "run", classifier)
    check_paths(settings)
    assert predict(settings) == 0
    assert verify(settings.output) == []
    rows = [line.split("\t") for line in (settings.output / "fragments.tsv").read_text().splitlines()[1:]]
    assert len({row[-3] for row in rows}) > 20  # different scores
    assert "NA" not in {row[-1] for row in rows}

    before = tables(settings.output)
    assert classify(settings.output, classifier, consensus=None, legacy_output=False, progress="none") == 0
    assert tables(settings.output) == before

    again = replace(settings, output=tmp_path / "again", reuse=settings.output)
    assert predict(again) == 0
    assert tables(again.output) == before
    assert json.loads((again.output / "run.json").read_text())["reused"]["fragments"] > 50


def test_a_classifier_of_one_kind_passes_over_the_other_embeddings(models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa")
    classifier = write_for(tmp_path / "one.safetensors", "protein")
    both = models.settings(source, tmp_path / "both", classifier=classifier)
    assert predict(both) == 0
    one = alone(models, "protein", source, tmp_path / "one", classifier)
    assert predict(one) == 0
    assert tables(one.output) == tables(both.output)


def test_plan_counts_with_a_classifier_of_one_kind(models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa")
    classifier = write_for(tmp_path / "one.safetensors", "nucleotide")
    settings = alone(models, "nucleotide", source, tmp_path / "run", classifier)
    found = forecast(replace(settings, dry_run=True), 1, None)
    assert found.work is not None
    assert found.work.tokens.keys() == {"nucleotide"}


def test_a_missing_encoder_is_named(models: TinyModels, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_contigs(tmp_path / "contigs.fa")
    for classifier, needs in (
        (models.classifier, "both --nucleotide-model and --protein-model; --nucleotide-model is missing"),
        (write_for(tmp_path / "n.safetensors", "nucleotide"), "--nucleotide-model only; --nucleotide-model is missing"),
    ):
        settings = alone(models, "protein", source, tmp_path / f"run {classifier.stem}", classifier)
        with pytest.raises(UsageError, match=f"a classifier needs {needs}"):
            check_paths(settings)
        assert predict(settings) == UsageError.exit_code
        assert needs in capfd.readouterr().err
    embedded = alone(models, "protein", source, tmp_path / "embedded", None)
    assert predict(embedded) == 0
    both = (models.classifier, "needs nucleotide and protein embeddings, but the run has no nucleotide ones")
    one = (tmp_path / "n.safetensors", "needs nucleotide embeddings, but the run has no nucleotide ones")
    for classifier, told in (both, one):
        code = classify(embedded.output, classifier, consensus=None, legacy_output=False, progress="none")
        assert code == UsageError.exit_code
        assert told in capfd.readouterr().err


def test_kinds_enter_the_fingerprint_only_where_they_are_not_both(models: TinyModels, tmp_path: Path) -> None:
    plain = load_classifier(models.classifier)
    recorded = load_classifier(write_for(tmp_path / "both.safetensors", *CLASSIFIED))
    assert (plain.kinds, recorded.kinds) == (CLASSIFIED, CLASSIFIED)
    assert plain.fingerprint == recorded.fingerprint
    other = load_classifier(write_for(tmp_path / "one.safetensors", *CLASSIFIED, recorded="protein"))
    assert other.kinds == ("protein",)
    assert other.fingerprint != plain.fingerprint


@pytest.mark.parametrize("recorded", ["codon", "protein,nucleotide", "protein,protein", " protein", ","])
def test_kinds_that_are_none_are_refused(recorded: str, tmp_path: Path) -> None:
    path = write_for(tmp_path / "odd.safetensors", *CLASSIFIED, recorded=recorded)
    for read in (load_classifier, kinds_of_file):
        with pytest.raises(WeightsError, match=f"odd.safetensors: takes the encoders '{recorded}'; known are"):
            read(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\xff" * 9, b"\x02" + bytes(7) + b"{}", b"\x01" + bytes(7) + b"["]
)
def test_other_files_are_left_to_the_loader(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(content)
    assert kinds_of_file(tmp_path / "c") == CLASSIFIED
