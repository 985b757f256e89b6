from __future__ import annotations

import csv
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.tiny_models import tiny_classifier, write_classifier
from vpdist.errors import WeightsError
from vpdist.results.classifier import Classifier, import_classifier, load_classifier, save_classifier


class MLPClassifier(nn.Module):
    """As the original defines it, in its script."""

    def __init__(self, input_width: int, hidden_width: int) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(input_width, hidden_width)
        self.output_layer = nn.Linear(hidden_width, 2)
        self.dropout = nn.Dropout(0.5)
        self.bn1 = nn.BatchNorm1d(hidden_width)


@pytest.fixture
def pickled(tmp_path, monkeypatch) -> Path:
    """The tiny classifier as the original saves one."""
    monkeypatch.setattr(MLPClassifier, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "MLPClassifier", MLPClassifier, raising=False)
    tiny = tiny_classifier()
    model = MLPClassifier(tiny.input_width, tiny.hidden_width)
    model.load_state_dict(tiny.state_dict())
    torch.save(model, tmp_path / "original.pth")
    return tmp_path / "original.pth"


def embeddings(rows: int = 9) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    return random.normal(size=(rows, 48)).astype(np.float32), random.normal(size=(rows, 32)).astype(np.float32)


def scores(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def changed(path: Path, change, **metadata: str) -> Path:
    """A classifier file after `change` worked on its tensors."""
    tensors = safetensors.torch.load_file(path)
    described = {"format": "vpdist-classifier-1", "eps": "1e-05", "dropout": "0.5", "metadata": "{}"}
    change(tensors)
    safetensors.torch.save_file(tensors, path, described | metadata)
    return path


def test_the_same_classifier_gives_the_same_bytes(tmp_path: Path) -> None:
    classifier = tiny_classifier()
    metadata = {f"key {number}": "text" for number in range(5)}
    written = set()
    for number in range(20):  # the library's order of metadata is random
        path = tmp_path / f"{number}.safetensors"
        save_classifier(classifier, path, metadata)
        written.add(path.read_bytes())
    assert len(written) == 1
    assert load_classifier(path).fingerprint == classifier.fingerprint


def test_logits_follow_the_definition() -> None:
    classifier, (nucleotide, protein) = tiny_classifier(), embeddings()
    state = {name: tensor.double().numpy() for name, tensor in classifier.state_dict().items()}
    hidden = np.hstack([nucleotide, protein]) @ state["hidden_layer.weight"].T + state["hidden_layer.bias"]
    hidden = (hidden - state["bn1.running_mean"]) / np.sqrt(state["bn1.running_var"] + 1e-5)
    hidden = np.maximum(hidden * state["bn1.weight"] + state["bn1.bias"], 0)
    expected = hidden @ state["output_layer.weight"].T + state["output_layer.bias"]
    logits = classifier.logits(nucleotide, protein)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


def test_logits_are_the_same_bits_each_time_even_after_training_mode() -> None:
    classifier, given = tiny_classifier(), embeddings()
    first = classifier.logits(*given)
    classifier.train()
    np.testing.assert_array_equal(classifier.logits(*given), first)


def test_stored_half_precision_is_widened_first() -> None:
    nucleotide, protein = (array.astype(np.float16) for array in embeddings())
    widened = tiny_classifier().logits(nucleotide.astype(np.float32), protein.astype(np.float32))
    np.testing.assert_array_equal(tiny_classifier().logits(nucleotide, protein), widened)


def test_no_rows_give_no_logits() -> None:
    assert tiny_classifier().logits(*embeddings(0)).shape == (0, 2)


def test_embeddings_of_other_encoders_are_refused() -> None:
    nucleotide, protein = embeddings()
    with pytest.raises(WeightsError, match=r"takes 80 numbers, the encoders give 48 \+ 31 = 79"):
        tiny_classifier().logits(nucleotide, protein[:, 1:])


def test_a_saved_classifier_comes_back_with_its_metadata(tmp_path) -> None:
    classifier = Classifier(80, 16, eps=1e-3, dropout=0.1, metadata={"trained": "yes"})
    classifier.load_state_dict(tiny_classifier().state_dict())
    save_classifier(classifier, tmp_path / "c.safetensors", {"chunk_length": "300"})
    loaded = load_classifier(tmp_path / "c.safetensors")
    assert (loaded.bn1.eps, loaded.dropout.p, loaded.input_width, loaded.training) == (1e-3, 0.1, 80, False)
    assert loaded.metadata == {"trained": "yes", "chunk_length": "300"}
    assert loaded.fingerprint == classifier.fingerprint
    np.testing.assert_array_equal(loaded.logits(*embeddings()), classifier.logits(*embeddings()))


def test_the_originals_file_and_its_conversion_agree_to_the_bit(tmp_path, pickled) -> None:
    original = load_classifier(pickled)
    save_classifier(original, tmp_path / "c.safetensors", {"imported_from": "original.pth"})
    converted = load_classifier(tmp_path / "c.safetensors")
    assert converted.fingerprint == original.fingerprint == tiny_classifier().fingerprint
    np.testing.assert_array_equal(converted.logits(*embeddings()), original.logits(*embeddings()))


@pytest.mark.parametrize("name", ["hidden_layer.bias", "bn1.running_mean", "output_layer.weight"])
def test_the_fingerprint_covers_every_parameter_that_counts(name: str) -> None:
    other = tiny_classifier()
    other.state_dict()[name].view(-1)[0] += 1e-3
    assert other.fingerprint != tiny_classifier().fingerprint


def test_the_fingerprint_covers_eps_but_not_the_batches_seen() -> None:
    other, seen = Classifier(80, 16, eps=1e-4), tiny_classifier()
    other.load_state_dict(seen.state_dict())
    assert other.fingerprint != seen.fingerprint
    seen.bn1.num_batches_tracked += 5
    assert seen.fingerprint == tiny_classifier().fingerprint


def test_scores_labels_and_calls_are_the_originals(shared) -> None:
    folder = shared / "parity"
    with h5py.File(folder / "embeddings.500.h5") as file:
        names = [name.decode() for name in file["fragment_id"][...]]
        nucleotide, protein = file["nucleotide"][...], file["protein"][...]
    with (folder / "prediction_results.500.txt").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with (folder / "prediction_results_highestscore.500.csv").open() as file:
        calls = {row["Modified_ID"]: row["Is_Virus"] == "True" for row in csv.DictReader(file, delimiter="\t")}

    found = scores(load_classifier(folder / "classifier_original_format.pth").logits(nucleotide, protein))

    assert [row["Sequence_ID"] for row in rows] == names
    expected = np.array([[float(row["score1"]), float(row["score2"])] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert [row["Prediction"] for row in rows] == np.where(found[:, 1] > found[:, 0], "virus", "others").tolist()
    best: dict[str, np.ndarray] = {}
    for name, row in zip(names, found, strict=True):
        best[name[:-2]] = np.maximum(best.get(name[:-2], row), row)
    assert calls == {chunk: bool(row[1] >= row[0]) for chunk, row in best.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither safetensors nor"),
        (b"\x80\x02}q\x00.", "saved again"),
        (b"PK\x03\x04" + bytes(50), "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 31\n", "is a Git LFS pointer"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{" + bytes(9), "cannot be read as a classifier"),
    ],
)
def test_a_file_that_is_no_classifier_is_refused(tmp_path, content: bytes, message: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_classifier(tmp_path / "x.pth")


def test_an_absent_file_is_named(tmp_path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.safetensors: cannot be read: No such file"):
        load_classifier(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("bn1.bias"), "a classifier has"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "extra"),
        (lambda tensors: tensors.update({"bn1.bias": torch.ones(15)}), r"bn1\.bias is \(15,\), not \(16,\)"),
        (lambda tensors: tensors.update({"output_layer.bias": torch.ones(3)}), r"output_layer\.bias is \(3,\)"),
        (lambda tensors: tensors.update({"hidden_layer.weight": torch.ones(80)}), r"hidden_layer\.weight is \(80,\)"),
        (lambda tensors: tensors["hidden_layer.bias"].fill_(torch.nan), "not finite"),
        (lambda tensors: tensors["bn1.running_var"].neg_(), "negative variance"),
        *(
            (lambda tensors, dtype=dtype: tensors.update({"bn1.weight": tensors["bn1.weight"].to(dtype)}), message)
            for dtype, message in (
                (torch.int8, r"bn1\.weight is int8"),
                (torch.bool, r"bn1\.weight is bool"),
                (torch.int64, r"bn1\.weight is int64"),
                (torch.bfloat16, r"bn1\.weight is bfloat16"),
            )
        ),
    ],
)  # fmt: skip
def test_parameters_that_do_not_fit_are_refused(tmp_path, change, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_classifier(changed(write_classifier(tmp_path / "c.safetensors"), change))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "pt"}, "not a classifier of vpdist"),
        ({"eps": "0"}, "out of range"),
        ({"eps": "small"}, "cannot be read"),
        ({"dropout": "2"}, "out of range"),
        ({"metadata": "[1]"}, "cannot be read"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_classifier(changed(write_classifier(tmp_path / "c.safetensors"), lambda tensors: None, **metadata))


@pytest.mark.parametrize(("given", "recorded"), [(300, "300"), (None, None)])
def test_an_imported_classifier_says_on_which_chunk_length_it_was_trained(
    tmp_path: Path, pickled: Path, given: int | None, recorded: str | None
) -> None:
    assert import_classifier(pickled, tmp_path / "c.safetensors", given) == recorded
    assert load_classifier(tmp_path / "c.safetensors").chunk_length == recorded


def test_a_length_that_is_recorded_stays_and_no_other_is_taken(tmp_path: Path) -> None:
    save_classifier(tiny_classifier(), tmp_path / "c", {"chunk_length": "300"})
    assert import_classifier(tmp_path / "c", tmp_path / "again", None) == "300"
    assert load_classifier(tmp_path / "again").chunk_length == "300"
    with pytest.raises(WeightsError, match="was trained on chunks of 300 bases, but --chunk-length is 500"):
        import_classifier(tmp_path / "c", tmp_path / "other", 500)
    assert not (tmp_path / "other").exists()
