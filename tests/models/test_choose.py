"""`--model` in place of the single options: what is taken from it, what must fit, and what a run keeps of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.models.conftest import NAME, Published
from tests.models.test_find import cut_off
from tests.sample import write_contigs
from tests.tiny_models import TinyModels, tiny_classifier, write_classifier, write_dnabert_s, write_esm2
from vpdist.commands.classify import classify
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.encoders.weights import model_fingerprint
from vpdist.errors import UsageError, WeightsError
from vpdist.estimate.dry_run import forecast
from vpdist.models import catalogue, choose
from vpdist.models.bundle import Bundle, encoder_entry, write_model
from vpdist.models.choose import applied, model_of
from vpdist.models.description import Model
from vpdist.results.classifier import load_classifier, save_classifier

TABLES = ("sequences.tsv", "chunks.tsv", "fragments.tsv")


def model_with(models: TinyModels, folder: Path, **changes: object) -> Bundle:
    """A model of the tiny encoders and their classifier, with its encoders in its folder."""
    folders = {"nucleotide": models.nucleotide, "protein": models.protein}
    model = Model(
        name="tiny",
        method="VirNucPro",
        description="for tests",
        accuracy="none",
        licence="mit",
        encoders={slot: encoder_entry(path, slot) for slot, path in folders.items()},
        chunk_length=500,
        shortest_chunk=3,
    )
    return write_model(folder, replace(model, **changes), load_classifier(models.classifier), encoders=folders)


@pytest.fixture(scope="module")
def bundle(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """No test changes it."""
    return model_with(models, tmp_path_factory.mktemp("bundle") / "tiny")


def asked(source: object, output: Path, **settings: object) -> Settings:
    """Settings of a run as the command line makes them, on one thread."""
    given = {"threads": 1, "dtype": "float32", "progress": "none", "device": "cpu"} | settings
    return Settings(inputs=(str(source),), output=output, **given)  # type: ignore[arg-type]


def tables(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in TABLES]


def test_a_model_is_the_same_as_its_parts(models: TinyModels, bundle: Bundle, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=6)
    assert predict(asked(source, tmp_path / "a", model=str(bundle.folder))) == 0
    assert predict(models.settings(source, tmp_path / "b")) == 0
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    run = json.loads((tmp_path / "a" / "run.json").read_text())
    assert run["model"] == {
        "name": "tiny",
        "digest": f"sha256:{bundle.digest}",
        "folder": str(bundle.folder),
        "from": str(bundle.folder),
        "classifier": "its own",
    }
    assert run["settings"]["model"] == str(bundle.folder)
    assert run["decisions"] == json.loads((tmp_path / "b" / "run.json").read_text())["decisions"] | {
        "input": run["decisions"]["input"]
    }


def test_a_run_goes_on_whatever_its_model_is_called(models: TinyModels, bundle: Bundle, tmp_path: Path) -> None:
    source, run = write_contigs(tmp_path / "contigs.fa", n=4), tmp_path / "run"
    assert predict(models.settings(source, run)) == 0
    before, parts = tables(run), {path: path.stat().st_mtime_ns for path in (run / "parts").iterdir()}
    content = json.loads((run / "run.json").read_text())
    del content["model"], content["settings"]["model"]  # as an earlier version has written it
    (run / "run.json").write_text(json.dumps(content))
    assert predict(asked(source, run, model=str(bundle.folder))) == 0
    assert predict(models.settings(source, run)) == 0
    assert tables(run) == before
    assert {path: path.stat().st_mtime_ns for path in (run / "parts").iterdir()} == parts


def test_a_preset_runs_and_then_runs_offline(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=4)
    assert predict(asked(source, tmp_path / "a", model=NAME, progress="log")) == 0
    told = capfd.readouterr().err
    assert "owner/protein" in told  # what it downloads
    assert f"model {NAME}: The original authors' model for chunks of 500 bases; not measured by vpdist" in told
    tried = cut_off(monkeypatch)
    assert predict(asked(source, tmp_path / "b", model=NAME, offline=True)) == 0
    assert tried == []
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "run.json").read_text())["model"]["name"] == NAME


def test_a_preset_that_is_not_here_ends_offline_with_code_4(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = cut_off(monkeypatch)
    source = write_contigs(tmp_path / "contigs.fa", n=2)
    assert predict(asked(source, tmp_path / "run", model=NAME, offline=True)) == 4
    assert tried == []


def test_embedding_and_planning_take_a_model_too(bundle: Bundle, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=4)
    assert predict(asked(source, tmp_path / "run", model=str(bundle.folder), calls=False)) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["decisions"]["classifier"], run["decisions"]["chunk_length"]) == (None, 500)
    planned = forecast(asked(source, Path(), model=str(bundle.folder), dry_run=True), 1, None)
    assert planned.work is not None
    assert set(planned.work.tokens) == {"nucleotide", "protein"}
    assert (
        classify(tmp_path / "run", None, model=str(bundle.folder), consensus=None, legacy_output=False, progress="none")
        == 0
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["tables_model"]["name"] == "tiny"
    assert predict(asked(source, tmp_path / "called", model=str(bundle.folder))) == 0
    assert tables(tmp_path / "run") == tables(tmp_path / "called")


def test_a_model_with_one_encoder_runs(models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=4)
    entry = encoder_entry(models.protein, "protein")
    classifier = tiny_classifier(nucleotide_width=0)
    classifier.metadata["kinds"] = "protein"
    model = replace(model_with(models, tmp_path / "both").model, name="protein-only", encoders={"protein": entry})
    one = write_model(tmp_path / "one", model, classifier, encoders={"protein": models.protein})
    assert predict(asked(source, tmp_path / "run", model=str(one.folder))) == 0
    header, first = (tmp_path / "run" / "sequences.tsv").read_text().splitlines()[:2]
    assert dict(zip(header.split("\t"), first.split("\t"), strict=True))["status"] == "ok"
    how = {"consensus": None, "legacy_output": False, "progress": "none"}
    before = tables(tmp_path / "run")
    assert classify(tmp_path / "run", None, model=str(one.folder), **how) == 0  # type: ignore[arg-type]
    assert tables(tmp_path / "run") == before
    assert classify(tmp_path / "run", None, model=str(tmp_path / "both"), **how) == 4  # type: ignore[arg-type]


def test_options_for_parts_override_where_they_are_the_same(models: TinyModels, bundle: Bundle, tmp_path: Path) -> None:
    settings = asked("a.fa", tmp_path / "run", model=str(bundle.folder), nucleotide_model=str(models.nucleotide))
    made = applied(settings)
    assert made.models == {"nucleotide": str(models.nucleotide), "protein": bundle.encoder("protein")}
    assert (made.classifier, made.chunk_length) == (bundle.classifier, 500)
    assert applied(made) == made
    assert model_of(made) == bundle
    assert applied(replace(settings, calls=False)).classifier is None


def test_a_classifier_of_the_users_own_overrides_the_models(bundle: Bundle, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=3)
    save_classifier(tiny_classifier(hidden_width=5), tmp_path / "own.safetensors", {"chunk_length": "300"})
    settings = asked(source, tmp_path / "run", model=str(bundle.folder), classifier=tmp_path / "own.safetensors")
    with pytest.raises(WeightsError, match="trained on chunks of 300 bases, but --chunk-length or the model's is 500"):
        applied(settings)
    assert predict(replace(settings, chunk_length=300)) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"]["classifier"] == str(settings.classifier)


def test_another_chunk_length_than_the_models_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="trained on chunks of 500 bases, but --chunk-length is 300"):
        applied(asked("a.fa", tmp_path / "run", model=str(bundle.folder), chunk_length=300))


def test_an_encoder_of_another_size_is_refused_before_its_weights_are_read(bundle: Bundle, tmp_path: Path) -> None:
    other = write_esm2(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"hidden_size": 64, "num_attention_heads": 4}))
    (other / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(WeightsError, match=r"--protein-model .*: its width is 64, the model's 32"):
        applied(asked("a.fa", tmp_path / "run", model=str(bundle.folder), protein_model=str(other)))


def test_an_encoder_with_other_weights_is_refused_with_both_fingerprints(
    models: TinyModels, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, other = write_contigs(tmp_path / "contigs.fa", n=2), write_dnabert_s(tmp_path / "other")
    (other / "vocab.txt").write_text("another file of the model\n")
    settings = asked(source, tmp_path / "run", model=str(bundle.folder), nucleotide_model=str(other))
    assert predict(settings) == 4
    told = capfd.readouterr().err
    assert model_fingerprint(other) != model_fingerprint(models.nucleotide)
    assert model_fingerprint(other) in told
    assert model_fingerprint(models.nucleotide) in told


def test_classify_refuses_a_model_of_other_encoders_or_chunks(
    models: TinyModels, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, run = write_contigs(tmp_path / "contigs.fa", n=2), tmp_path / "run"
    assert predict(asked(source, run, model=str(bundle.folder), calls=False)) == 0
    how = {"consensus": None, "legacy_output": False, "progress": "none"}
    content = json.loads((bundle.folder / "model.json").read_text())
    for change, told in (
        ({"chunk_length": 300, "shortest_chunk": 3}, "trained on chunks of 300 bases, but those of"),
        (
            {"encoders": content["encoders"] | {"protein": content["encoders"]["protein"] | {"fingerprint": "0" * 32}}},
            "0" * 32,
        ),
    ):
        other = model_with(models, tmp_path / f"other{len(change)}{told[:1]}")
        (other.folder / "model.json").write_text(json.dumps(content | change))
        assert classify(run, None, model=str(other.folder), **how) == 4  # type: ignore[arg-type]
        assert told in capfd.readouterr().err


def test_a_changed_classifier_of_a_model_is_refused(models: TinyModels, tmp_path: Path) -> None:
    other = model_with(models, tmp_path / "m")
    write_classifier(other.classifier, hidden_width=6)
    with pytest.raises(WeightsError, match="is not the classifier of model tiny: its SHA-256 is"):
        applied(asked("a.fa", tmp_path / "run", model=str(other.folder)))


def test_without_any_model_the_built_in_one_is_taken(
    bundle: Bundle, models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "package" / "catalogue.py"))
    (tmp_path / "package").mkdir()
    with pytest.raises(UsageError, match="name a model: --model virnucpro-500"):
        applied(asked("a.fa", tmp_path / "run"))
    model_with(models, tmp_path / "package" / "mini", name="mini")
    made = applied(asked("a.fa", tmp_path / "run"))
    assert (made.model, made.classifier) == ("mini", tmp_path / "package" / "mini" / "classifier.safetensors")
    assert applied(models.settings(tmp_path / "a.fa", tmp_path / "run")).model is None
    assert applied(asked("a.fa", tmp_path / "run", dry_run=True)).models == {}


def test_a_run_that_knows_its_chunk_length_goes_on_without_it(models: TinyModels, tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    save_classifier(tiny_classifier(), bare, {})
    source = write_contigs(tmp_path / "contigs.fa")
    settings = models.settings(source, tmp_path / "run", classifier=bare)
    assert choose.applied(settings).chunk_length == 500
    assert predict(replace(settings, chunk_length=300)) == 0
    assert choose.applied(settings).chunk_length == 300
    assert predict(settings) == 0
    assert choose.applied(replace(settings, restart=True)).chunk_length == 500
