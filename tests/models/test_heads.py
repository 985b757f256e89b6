"""Several classifiers in a model, chosen by the chunk's length: written, read, and the same in every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.models.test_choose import asked, tables
from tests.sample import write_contigs
from tests.tiny_models import NUCLEOTIDE_WIDTH, PROTEIN_WIDTH, TinyModels, tiny_classifier
from vpdist.commands.classify import classify
from vpdist.commands.predict import predict
from vpdist.errors import WeightsError
from vpdist.estimate.dry_run import forecast
from vpdist.models.bundle import Bundle, encoder_entry, read_model, write_model
from vpdist.models.description import HeadEntry, Model, SummaryEntry
from vpdist.models.listed import listed
from vpdist.models.load_heads import load_heads
from vpdist.results import parts
from vpdist.results.classifier import Classifier, load_classifier
from vpdist.results.classifier_kinds import KINDS_KEY
from vpdist.results.embedding_summary import EmbeddingSummary, load_summary, save_summary
from vpdist.results.heads import Heads
from vpdist.results.row_lengths import class_of_bases

WIDTH = NUCLEOTIDE_WIDTH + PROTEIN_WIDTH


def summary_of(width: int = WIDTH) -> EmbeddingSummary:
    rng = np.random.default_rng(3)
    directions = np.linalg.qr(rng.normal(size=(width, 4)))[0].T
    return EmbeddingSummary(
        kinds=("nucleotide", "protein"),
        mean=rng.normal(size=width).astype(np.float32),
        scale=np.full(width, 0.5, np.float32),
        directions=np.ascontiguousarray(directions, np.float32),
        variances=np.array([4, 3, 2, 1.5], np.float32),
        noise=np.array([0.5], np.float32),
        begins=np.array([0, 300], np.int32),
        thresholds=np.array([np.nan, 2.5], np.float32),
    )


def nucleotide_head(seed: int = 4) -> Classifier:
    head = tiny_classifier(NUCLEOTIDE_WIDTH, 0, seed=seed)
    head.metadata[KINDS_KEY] = "nucleotide"
    return head


def described(models: TinyModels, **changes: object) -> tuple[Model, dict[str, Path]]:
    folders = {"nucleotide": models.nucleotide, "protein": models.protein}
    model = Model(
        name="tiny",
        method="VirNucPro",
        description="for tests",
        accuracy="none",
        licence="mit",
        encoders={slot: encoder_entry(path, slot) for slot, path in folders.items()},
        chunk_length=500,
        shortest_chunk=120,
        short_chunks="NA",
        heads=(
            HeadEntry(from_bases=120, chunk_length=150, kinds=("nucleotide",), file="heads/150.safetensors"),
            HeadEntry(from_bases=250, chunk_length=300, kinds=("nucleotide", "protein"), file="heads/300.safetensors"),
        ),
        classifier_from=400,
        summary=SummaryEntry(),
    )
    return replace(model, **changes), folders


@pytest.fixture(scope="module")
def bundle(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """No test changes it."""
    model, folders = described(models)
    folder = tmp_path_factory.mktemp("heads") / "tiny"
    heads = [nucleotide_head(), tiny_classifier(seed=5)]
    return write_model(
        folder, model, load_classifier(models.classifier), encoders=folders, heads=heads, summary=summary_of()
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_contigs(tmp_path_factory.mktemp("contigs") / "contigs.fa", 40)


@pytest.fixture(scope="module")
def run(bundle: Bundle, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test changes it."""
    output = tmp_path_factory.mktemp("run") / "run"
    assert predict(asked(source, output, model=str(bundle.folder))) == 0
    return output


def test_they_are_read_as_they_were_written(bundle: Bundle) -> None:
    read = read_model(bundle.folder)
    assert read == bundle
    assert [head.kinds for head in read.model.heads] == [("nucleotide",), ("nucleotide", "protein")]
    heads = load_heads(read.classifier, read)
    assert [begins for begins, _ in heads.classifiers] == [120, 250, 400]
    assert heads.fingerprint != heads.main.fingerprint
    assert heads.summary is not None
    assert heads.summary.fingerprint == summary_of().fingerprint
    card = (bundle.folder / "README.md").read_text()
    assert "| from 120 bases | `heads/150.safetensors`, trained on 150 bases, nucleotide, " in card
    assert "shorter ones are NA" in card
    [told] = listed([bundle.folder])[-1:]
    assert told.classifiers == {"120": "150 bases, nucleotide", "250": "300 bases, nucleotide and protein"}
    assert any("classifiers for shorter chunks" in line for line in told.lines())


@pytest.mark.parametrize("name", ["heads/150.safetensors", "summary.safetensors"])
def test_another_file_is_refused(bundle: Bundle, models: TinyModels, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: is not .*SHA-256"):
        read_model(copy).check_classifier()
    (copy / name).unlink()
    with pytest.raises(WeightsError, match=f"{name}: .* is missing"):
        read_model(copy)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model["heads"][0].update(from_bases=260), "must ascend"),
        (lambda model: model.update(classifier_from=600), "at most the chunk length"),
        (lambda model: model.pop("classifier_from"), "heads and classifier_from"),
        (lambda model: model["heads"][0].update(kinds=["protein", "nucleotide"]), "in this order"),
        (lambda model: model["heads"][0].update(kinds=[]), "in this order"),
        (lambda model: model["heads"][1].update(file="../x"), "down the model's folder"),
        (lambda model: model["heads"][1].update(more=1), r"heads\[1\]\.more is not known"),
        (lambda model: model.update(short_chunks="maybe"), "judged or NA"),
        (lambda model: model["summary"].update(sha256="no"), "summary.sha256"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    bundle: Bundle, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    content = json.loads((bundle.folder / "model.json").read_text())
    change(content)
    with pytest.raises(WeightsError, match=reason):
        Model.from_json(Path("model.json"), content)


def test_a_classifier_of_other_embeddings_is_not_written(models: TinyModels, tmp_path: Path) -> None:
    model, folders = described(models)
    heads = [tiny_classifier(seed=5), tiny_classifier(seed=6)]
    with pytest.raises(WeightsError, match="from 120 bases takes"):
        write_model(
            tmp_path, model, load_classifier(models.classifier), encoders=folders, heads=heads, summary=summary_of()
        )
    with pytest.raises(WeightsError, match="describes 2 classifiers"):
        write_model(tmp_path, model, load_classifier(models.classifier), encoders=folders)


def test_each_row_has_the_logits_of_its_length(bundle: Bundle) -> None:
    """Rows of one length are computed together, and are those of that classifier alone."""
    rng = np.random.default_rng(1)
    embedded = {
        "nucleotide": rng.normal(size=(90, NUCLEOTIDE_WIDTH)).astype(np.float32),
        "protein": rng.normal(size=(90, PROTEIN_WIDTH)).astype(np.float32),
    }
    bases = rng.integers(60, 501, 90)
    heads = load_heads(bundle.classifier, bundle)
    found = heads.results(embedded, bases)
    expected = [next(c for begins, c in [(400, 2), (250, 1), (0, 0)] if n + 2 >= begins) for n in bases.tolist()]
    assert len(set(expected)) == 3
    for number, (_, classifier) in enumerate(heads.classifiers):
        rows = [row for row, head in enumerate(expected) if head == number]
        alone = classifier.logits(*(embedded[kind][rows] for kind in classifier.kinds))
        assert np.array_equal(found["logits"][rows], alone)
    assert np.isnan(found["distance"][bases < 298]).all()
    assert np.isfinite(found["distance"][bases >= 298]).all()


def test_the_distance_is_mahalanobis(bundle: Bundle) -> None:
    """Against the covariance written out."""
    summary = summary_of()
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(5, WIDTH)).astype(np.float32)
    embedded = {"nucleotide": rows[:, :NUCLEOTIDE_WIDTH], "protein": rows[:, NUCLEOTIDE_WIDTH:]}
    outer = summary.directions.T.astype(float)
    covariance = outer @ np.diag(summary.variances - summary.noise) @ outer.T + summary.noise * np.eye(WIDTH)
    apart = (rows - summary.mean) / summary.scale
    expected = np.sqrt(np.einsum("ij,jk,ik->i", apart, np.linalg.inv(covariance), apart) / WIDTH)
    assert np.allclose(summary.distances(embedded), expected, rtol=1e-4)
    rows[2, 3] = np.nan
    assert np.isnan(summary.distances(embedded)[2])
    with pytest.raises(WeightsError, match="is of 80 numbers"):
        summary.distances({kind: array[:, 1:] for kind, array in embedded.items()})


@pytest.mark.parametrize(
    "change",
    [
        {"scale": np.zeros(WIDTH, np.float32)},
        {"noise": np.array([-1], np.float32)},
        {"mean": np.full(WIDTH, np.nan, np.float32)},
        {"begins": np.array([300, 0], np.int32)},
        {"thresholds": np.array([1], np.float32)},
        {"mean": np.array(0, np.float32)},
        {"directions": np.zeros((4, 3), np.float32)},
    ],
)
def test_an_unsound_summary_is_refused(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    save_summary(replace(summary_of(), **change), tmp_path / "summary.safetensors")
    with pytest.raises(WeightsError, match="cannot be read as a summary"):
        load_summary(tmp_path / "summary.safetensors")


def test_what_is_no_summary_is_refused(tmp_path: Path, models: TinyModels) -> None:
    with pytest.raises(WeightsError, match="cannot be read as a summary"):
        load_summary(models.classifier)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_summary(tmp_path / "none")


def test_a_frames_string_reaches_the_class_of_its_chunk() -> None:
    assert class_of_bases(np.array([0, 150, 300]), np.array([10, 147, 148, 150, 297, 298, 9000])).tolist() == [
        *(0, 0, 1, 1, 1, 2, 2)
    ]


def test_embeddings_are_those_of_one_classifier(
    run: Path, bundle: Bundle, models: TinyModels, source: Path, tmp_path: Path
) -> None:
    """Only logits differ, and only of rows that another classifier judges; `classify` gives the same tables."""
    single = tmp_path / "single"
    assert predict(asked(source, single, model=str(bundle.folder), classifier=models.classifier)) == 0
    n = len(list((run / "parts").iterdir()))
    kinds = ("nucleotide", "protein", "logits")
    both = [[parts.read(folder / "parts", unit, kinds) for unit in range(n)] for folder in (run, single)]
    for ours, theirs in zip(*both, strict=True):
        for kind in kinds[:2]:
            assert np.array_equal(ours[kind], theirs[kind])
    assert any(not np.array_equal(ours["logits"], theirs["logits"]) for ours, theirs in zip(*both, strict=True))
    assert "distance" not in parts_datasets(single)
    assert "distance" in parts_datasets(run)
    named = {"model": str(bundle.folder), "consensus": None, "legacy_output": False, "progress": "none"}
    assert classify(single, None, **named) == 0
    assert tables(single) == tables(run)


def parts_datasets(run: Path) -> set[str]:
    with h5py.File(run / "parts" / "unit-000000.h5") as file:
        return set(file)


def test_the_dry_run_counts_the_distances(bundle: Bundle, source: Path, tmp_path: Path) -> None:
    found = forecast(asked(source, tmp_path / "none", model=str(bundle.folder), dry_run=True), 1, None)
    assert found.disk is not None


def test_one_classifier_has_the_fingerprint_it_always_had(models: TinyModels) -> None:
    classifier = load_classifier(models.classifier)
    assert Heads.of(classifier).fingerprint == classifier.fingerprint
