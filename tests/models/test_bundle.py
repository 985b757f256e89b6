"""A model's folder: what is written is read again, and what somebody else has put there is not believed."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrated_model import CALIBRATION, NULL_SCORES
from tests.tiny_models import TinyModels
from vpdist.encoders.weights import model_fingerprint
from vpdist.errors import StorageError, UsageError, WeightsError
from vpdist.models import bundle as bundles
from vpdist.models.bundle import Bundle, encoder_entry, read_model, write_model
from vpdist.models.catalogue import BUILT_IN
from vpdist.models.description import ClassifierEntry, DataFile, EncoderEntry, Metric, Model, Training
from vpdist.models.listed import listed
from vpdist.results.classifier import Classifier, load_classifier

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TRAINING = Training(
    data=(DataFile(file="phages.fa.gz", label="virus", digest="sha256:" + "0f" * 32, records=1200),),
    seed=7,
    splits={"rule": "accession or 25-mer", "train": 900, "test": 300},
    settings={"optimiser": "SGD"},
    metrics=(
        Metric(name="AUROC", of="3,000 bp sequences", data="held-out groups", value=0.9512, low=0.93, high=0.97, n=300),
        Metric(name="F1", of="chunks", data="held-out groups", value=0.88),
    ),
)


def hub_entry(width: int, family: str = "ESM-2") -> EncoderEntry:
    return EncoderEntry(
        hub="owner/name",
        revision=COMMIT,
        fingerprint=None,
        family=family,
        width=width,
        pooling="mean over residues",
    )


def described(**encoders: EncoderEntry) -> Model:
    return Model(
        name="small-500",
        method="VirNucPro (Li et al. 2025)",
        description="for tests",
        accuracy="AUROC 0.95 of 3,000 bp sequences of held-out groups",
        licence="mit",
        encoders=encoders,
        chunk_length=500,
        shortest_chunk=300,
    )


@pytest.fixture
def written(models: TinyModels, tmp_path: Path) -> Bundle:
    """A model with both encoders in its folder."""
    folders = {"nucleotide": models.nucleotide, "protein": models.protein}
    model = described(**{slot: encoder_entry(folder, slot) for slot, folder in folders.items()})
    model = replace(model, training=TRAINING, calibration=CALIBRATION, null_scores=NULL_SCORES)
    return write_model(tmp_path / "MODEL", model, load_classifier(models.classifier), encoders=folders)


def changed(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> Path:
    """The model's folder, its model.json changed."""
    path = bundle.folder / "model.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return bundle.folder


def test_a_model_is_read_as_it_was_written(written: Bundle, models: TinyModels) -> None:
    read = read_model(written.folder)
    assert read == written
    assert read.model.training == TRAINING
    assert read.model.calibration == CALIBRATION
    assert read.model.null_scores == NULL_SCORES
    assert read.model.encoders["protein"].fingerprint == model_fingerprint(models.protein)
    assert model_fingerprint(Path(read.encoder("protein"))) == model_fingerprint(models.protein)
    original, copy = load_classifier(models.classifier), load_classifier(read.classifier)
    assert copy.fingerprint == original.fingerprint == read.model.classifier.fingerprint
    assert copy.chunk_length == "500"
    read.check_classifier()


def test_a_moved_model_is_the_same(written: Bundle, tmp_path: Path) -> None:
    shutil.move(written.folder, tmp_path / "elsewhere")
    moved = read_model(tmp_path / "elsewhere")
    assert moved.digest == written.digest
    assert Path(moved.encoder("nucleotide")).parent == tmp_path / "elsewhere" / "encoders"


def test_a_model_may_have_one_encoder_which_the_hub_keeps(tmp_path: Path) -> None:
    bundle = write_model(
        tmp_path, described(protein=hub_entry(32)), Classifier(32, 8, metadata={"kinds": "protein"}).eval()
    )
    assert bundle.encoder("protein") == f"owner/name@{COMMIT}"
    assert list(bundle.model.encoders) == ["protein"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "classifier.safetensors", "model.json"]


def test_the_card_has_the_front_matter_of_the_hub_and_the_figures(written: Bundle) -> None:
    card = (written.folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["library_name"], head["pipeline_tag"]) == ("mit", "vpdist", "text-classification")
    assert "virus" in head["tags"]
    [index] = head["model-index"]
    assert index["name"] == "small-500"
    values = {metric["type"]: metric["value"] for result in index["results"] for metric in result["metrics"]}
    assert values == {"auroc": 0.9512, "f1": 0.88}
    assert "| AUROC | 3,000 bp sequences | held-out groups | 0.951 | 0.930 to 0.970 | 300 |" in card
    assert "| phages.fa.gz | virus | 1,200 |" in card


def test_what_its_author_says_stands_at_the_end_of_the_card(tmp_path: Path) -> None:
    write_model(
        tmp_path,
        described(protein=hub_entry(32)),
        Classifier(32, 8, metadata={"kinds": "protein"}),
        "\nWhat failed: much.\n",
    )
    head, text = (tmp_path / "README.md").read_text().removeprefix("---\n").split("---\n")
    assert "base_model" in yaml.safe_load(head)
    assert text.endswith("\n\nWhat failed: much.\n")
    for bases in ("150", "300", "500", "1,000", "3,000"):
        assert f"\n| {bases} | 0 | not measured | " in text


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another format": (lambda c: c.update(format="vpdist-model-9"), "format is vpdist-model-9"),
    "an unknown field": (lambda c: c.update(hook="run.py"), "hook is not known"),
    "an unknown field of an encoder": (lambda c: c["encoders"]["protein"].update(code="x"), "encoders.protein.code"),
    "a slot that is none": (lambda c: c["encoders"].update(audio={}), "encoders.audio is not known"),
    "no encoders": (lambda c: c.update(encoders={}), "encoders must name an encoder"),
    "a missing field": (lambda c: c.pop("licence"), "licence is missing"),
    "a folder above": (
        lambda c: c["encoders"]["protein"].update(folder="../x"),
        "encoders.protein.folder must be a path",
    ),
    "an absolute folder": (lambda c: c["encoders"]["protein"].update(folder="/etc"), "encoders.protein.folder must be"),
    "a classifier above": (lambda c: c["classifier"].update(file="a/../../c"), "classifier.file must be a path"),
    "a hidden classifier": (lambda c: c["classifier"].update(file=".ssh"), "classifier.file must be a path"),
    "a folder and a hub id": (lambda c: c["encoders"]["protein"].update(hub="a/b", revision=COMMIT), "one of both"),
    "a branch for a commit": (
        lambda c: c["encoders"].update(
            protein={**c["encoders"]["protein"], "folder": None, "hub": "a/b", "revision": "main"}
        ),
        "encoders.protein.revision must be a commit",
    ),
    "a width beyond all": (lambda c: c["encoders"]["protein"].update(width=1 << 40), "encoders.protein.width must be"),
    "a truth value for a number": (lambda c: c.update(chunk_length=True), "chunk_length must be a whole number"),
    "a shortest chunk longer than all": (
        lambda c: c.update(shortest_chunk=501),
        "shortest_chunk must be a whole number",
    ),
    "a control character": (lambda c: c.update(description="\x1b[2J"), "description must be a text"),
    "a name that is a path": (lambda c: c.update(name="../../x"), "name must be at most 64 letters"),
    "a digest that is none": (lambda c: c["classifier"].update(sha256="00"), "classifier.sha256 must be 64"),
    "an infinite figure": (lambda c: c["training"]["metrics"][0].update(value=1e999), "Infinity is no number"),
    "a figure that is a text": (lambda c: c["training"]["metrics"][1].update(value="1"), "training.metrics[1].value"),
    "a calibration that is a text": (lambda c: c.update(calibration="1.5"), "calibration is not a JSON object"),
    "a temperature that is none": (
        lambda c: c["calibration"]["classes"][0].update(slope=-0.5),
        "calibration.classes[0].slope must be from 0 to",
    ),
    "a ratio beyond all": (
        lambda c: c["calibration"]["classes"][1].update(most=1000),
        "calibration.classes[1].most must be from 0 to 50",
    ),
    "a length class that is none": (
        lambda c: c["calibration"]["classes"][0].update(least_bases=200),
        "calibration.classes[0].least_bases must be one of",
    ),
    "a length class twice": (
        lambda c: c["calibration"]["classes"].append(c["calibration"]["classes"][1]),
        "calibration.classes must ascend",
    ),
    "null scores in disorder": (
        lambda c: c["null_scores"]["classes"][0]["scores"].reverse(),
        "null_scores.classes[0].scores must ascend",
    ),
    "a null score that is none": (
        lambda c: c["null_scores"]["classes"][1]["scores"].append(None),
        "null_scores.classes[1].scores must be numbers",
    ),
    "no null scores of a class": (
        lambda c: c["null_scores"]["classes"][1].update(scores=[]),
        "null_scores.classes[1].scores must be numbers",
    ),
    "a list for the data": (lambda c: c["training"].update(data={}), "training.data must be a list"),
}


@pytest.mark.parametrize(("change", "told"), HOSTILE.values(), ids=HOSTILE)
def test_a_description_is_refused_with_file_and_field(
    written: Bundle, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    with pytest.raises(WeightsError) as error:
        read_model(changed(written, change))
    assert str(error.value).startswith(f"{written.folder / 'model.json'}: ")
    assert told in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff{}", b"[" * 100_000, b"version https://git-lfs.github.com/spec/v1"]
)
def test_what_is_no_description_is_refused(written: Bundle, content: bytes) -> None:
    (written.folder / "model.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.json: "):
        read_model(written.folder)


def test_a_description_larger_than_the_limit_is_not_read(written: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MODEL_FILE_LIMIT", 100)
    with pytest.raises(WeightsError, match="larger than 100 bytes"):
        read_model(written.folder)


def test_links_that_lead_out_of_the_folder_are_refused(written: Bundle, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(written.folder / "encoders" / "protein", outside)
    (written.folder / "encoders" / "protein").symlink_to(outside)
    with pytest.raises(WeightsError, match="the protein encoder leads out of the model's folder"):
        read_model(written.folder)
    (written.folder / "encoders" / "protein").unlink()
    (written.folder / "encoders" / "protein").mkdir()
    (written.folder / "encoders" / "protein" / "config.json").symlink_to(outside / "config.json")
    with pytest.raises(WeightsError, match=r"config\.json: is a link that leads out"):
        read_model(written.folder)


def test_links_of_the_hubs_cache_are_followed(written: Bundle, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "hub" / "snapshots" / COMMIT, tmp_path / "hub" / "blobs"
    shutil.copytree(written.folder, snapshot)
    blobs.mkdir()
    for number, path in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        shutil.move(path, blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert read_model(snapshot).model == written.model


def test_another_classifier_than_described_is_refused_with_both_digests(written: Bundle) -> None:
    with written.classifier.open("ab") as file:
        file.write(b" ")
    with pytest.raises(WeightsError, match=written.model.classifier.sha256):
        read_model(written.folder).check_classifier()


def test_an_interrupted_write_leaves_no_model(
    written: Bundle, models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = load_classifier(models.classifier)
    real = bundles.write_file
    for fails in ("README.md", "model.json"):

        def stop(path: Path, content: bytes, fails: str = fails) -> None:
            if path.name == fails:
                raise StorageError(f"{path}: no room")
            real(path, content)

        monkeypatch.setattr(bundles, "write_file", stop)
        model = replace(described(nucleotide=hub_entry(48), protein=hub_entry(32)))
        with pytest.raises(StorageError):
            write_model(tmp_path / "other", model, classifier)
        with pytest.raises(WeightsError, match="the description of a model is missing"):
            read_model(tmp_path / "other")
    monkeypatch.setattr(bundles, "write_file", real)
    assert write_model(tmp_path / "other", model, classifier).model.encoders == model.encoders


def test_a_model_that_is_there_is_replaced_only_when_asked(written: Bundle, models: TinyModels) -> None:
    model = described(nucleotide=hub_entry(48), protein=hub_entry(32))
    classifier = load_classifier(models.classifier)
    with pytest.raises(UsageError, match="holds a model already"):
        write_model(written.folder, model, classifier)
    assert read_model(written.folder) == written
    assert write_model(written.folder, model, classifier, overwrite=True).model.training is None


def test_parts_that_do_not_belong_together_are_not_written(models: TinyModels, tmp_path: Path) -> None:
    model = described(nucleotide=hub_entry(48), protein=hub_entry(32))
    with pytest.raises(WeightsError, match=r"takes 81 numbers, but the encoders give 48 \+ 32"):
        write_model(tmp_path / "a", model, Classifier(81, 8))
    with pytest.raises(
        WeightsError, match="takes protein embeddings, but the model has nucleotide and protein encoders"
    ):
        write_model(tmp_path / "a", model, Classifier(80, 8, metadata={"kinds": "protein"}))
    with pytest.raises(WeightsError, match="trained on chunks of 300 bases, but the model has 500"):
        write_model(tmp_path / "b", model, Classifier(80, 8, metadata={"chunk_length": "300"}))
    with pytest.raises(WeightsError, match=r"has folders for \[\], not for \['protein'\]"):
        write_model(tmp_path / "c", model, Classifier(80, 8), encoders={"protein": models.protein})
    assert list(tmp_path.iterdir()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
WHOLE = json.loads(
    replace(
        described(nucleotide=hub_entry(48, "DNABERT-S"), protein=hub_entry(32)),
        classifier=ClassifierEntry(sha256="0" * 64, fingerprint="0" * 32),
        training=TRAINING,
    ).to_json()
)


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every object or list in a JSON text with each of its keys."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else []
    return [(content, key) for key in keys] + [place for key in keys for place in places(content[key])]


@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused(data: st.DataObject) -> None:
    content = copy.deepcopy(WHOLE)
    assert Model.from_json(Path("model.json"), content).training == TRAINING
    owner, key = data.draw(st.sampled_from(places(content)))
    owner[key] = data.draw(JSON)
    told = ""
    try:
        read = Model.from_json(Path("model.json"), content)
    except WeightsError as error:
        told = str(error)
    if told:
        assert told.startswith("model.json: ")
        assert told.isprintable()
    else:
        assert Model.from_json(Path("model.json"), json.loads(read.to_json())).to_json() == read.to_json()


def test_what_would_not_be_read_again_is_refused_before_anything_is_written(
    written: Bundle, models: TinyModels, tmp_path: Path
) -> None:
    long = replace(written.model, description="x" * 301)
    folders = {slot: Path(written.encoder(slot)) for slot in written.model.encoders}
    with pytest.raises(WeightsError, match="description"):
        write_model(tmp_path / "new", long, load_classifier(models.classifier), encoders=folders)
    assert not (tmp_path / "new").exists()


def test_a_folder_is_listed_as_what_it_holds_whatever_it_is_called(
    written: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    shutil.copytree(written.folder, tmp_path / "here" / BUILT_IN)
    monkeypatch.chdir(tmp_path / "here")
    (found,) = listed([Path()])[len(listed([])) :]
    assert found.calibrated == ("300 to 499", "500 to 2,999")
    assert "    calibrated for 300 to 499, 500 to 2,999 bases" in found.lines()
    assert found.digest == f"sha256:{written.digest}"
