import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.tiny_models import tiny_classifier
from vpdist.errors import WeightsError
from vpdist.pickles import ALLOWED, read_classifier_pickle


class MLPClassifier(nn.Module):
    """As the original defines it, in its script."""

    def __init__(self, input_width: int, hidden_width: int) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(input_width, hidden_width)
        self.bn1 = nn.BatchNorm1d(hidden_width, eps=1e-3)
        self.output_layer = nn.Linear(hidden_width, 2)
        self.dropout = nn.Dropout(0.25)
        self.relu = nn.ReLU()


class Payload:
    """Unpickling it runs `function(*arguments)`."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def original(monkeypatch) -> MLPClassifier:
    """A module that pickles as `__main__.MLPClassifier`, with the tiny classifier's weights."""
    monkeypatch.setattr(MLPClassifier, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "MLPClassifier", MLPClassifier, raising=False)
    tiny = tiny_classifier()
    model = MLPClassifier(tiny.input_width, tiny.hidden_width)
    model.load_state_dict(tiny.state_dict())
    return model


def archive(path: Path, content: bytes, source: Path | None = None, **options: int) -> Path:
    """A zip as torch.save makes it with `content` as its pickle, its other entries from `source`."""
    with zipfile.ZipFile(path, "w", **options) as target:
        target.writestr("archive/data.pkl", content)
        if source is not None:
            with zipfile.ZipFile(source) as given:
                for name in given.namelist():
                    _, _, rest = name.partition("/")
                    if rest != "data.pkl":
                        target.writestr(f"archive/{rest}", given.read(name))
    return path


def pickle_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as given:
        return given.read(next(name for name in given.namelist() if name.endswith("data.pkl")))


def test_a_whole_pickled_module_gives_its_arrays(tmp_path, original) -> None:
    torch.save(original, tmp_path / "original.pth")
    read = read_classifier_pickle(tmp_path / "original.pth")
    assert (read.eps, read.dropout) == (1e-3, 0.25)
    state = original.state_dict()
    assert read.parameters.keys() == state.keys() - {"bn1.num_batches_tracked"}
    for name, array in read.parameters.items():
        np.testing.assert_array_equal(array, state[name].numpy())


def test_parameters_that_share_a_storage_are_cut_out_of_it(tmp_path, original) -> None:
    weight, shared = original.output_layer.weight, torch.arange(200.0)
    original.output_layer.weight = nn.Parameter(shared[40 : 40 + weight.numel()].view_as(weight))
    torch.save(original, tmp_path / "original.pth")
    read = read_classifier_pickle(tmp_path / "original.pth").parameters["output_layer.weight"]
    np.testing.assert_array_equal(read.ravel(), np.arange(40, 40 + weight.numel(), dtype=np.float32))


def test_the_parity_classifier_is_read(shared) -> None:
    read = read_classifier_pickle(shared / "parity" / "classifier_original_format.pth")
    assert read.parameters["hidden_layer.weight"].shape == (64, 160)


@pytest.mark.parametrize("hidden_in", ["the model", "a hook", "a layer"])
def test_a_malicious_pickle_is_refused_by_name_and_does_not_run(tmp_path, original, hidden_in: str) -> None:
    proof, path = tmp_path / "proof", tmp_path / "malicious.pth"
    payload = Payload(os.system, f"touch '{proof}'")
    if hidden_in == "the model":
        torch.save(payload, path)
    elif hidden_in == "a hook":
        original._forward_hooks[0] = payload
        torch.save(original, path)
    else:
        original.hidden_layer.__dict__["extra"] = payload
        torch.save(original, path)

    with pytest.raises(WeightsError, match=rf"asks for {os.system.__module__}\.system"):
        read_classifier_pickle(path)
    assert not proof.exists()

    # The same file does run its payload where a pickle is simply loaded.
    load = "import sys, torch\nclass MLPClassifier(torch.nn.Module): pass\ntorch.load(sys.argv[1], weights_only=False)"
    subprocess.run([sys.executable, "-c", load, path], check=True, timeout=600)
    assert proof.exists()


@pytest.mark.parametrize(
    ("asked", "content"),
    [
        ("builtins.eval", b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R."),
        ("os.path.join", b"\x80\x04\x8c\x02os\x8c\x09path.join\x93."),
        ("builtins.getattr", b"cbuiltins\ngetattr\n."),
        ("torch.nn.modules.container.Sequential", b"ctorch.nn.modules.container\nSequential\n)\x81."),
        ("posix.system", b"(S'true'\niposix\nsystem\n."),
        ("__main__.Other", b"c__main__\nOther\n)\x81."),
        ("collections.OrderedDict.fromkeys", b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93."),
    ],
)  # fmt: skip
def test_whatever_is_not_on_the_list_is_refused_by_name(tmp_path, asked: str, content: bytes) -> None:
    with pytest.raises(WeightsError, match=f"asks for {asked},"):
        read_classifier_pickle(archive(tmp_path / "x.pth", content))


def test_a_refused_module_is_not_even_imported(tmp_path) -> None:
    assert "antigravity" not in sys.modules
    with pytest.raises(WeightsError, match=r"antigravity\.webbrowser"):
        read_classifier_pickle(archive(tmp_path / "x.pth", b"cantigravity\nwebbrowser\n."))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("state", [{"forward": 1}, (None, {"__call__": 1, "dtype": 2})])
def test_what_is_on_the_list_cannot_be_changed_by_a_pickle(tmp_path, name: str, state: object) -> None:
    module, _, attribute = name.rpartition(".")
    before = [repr(getattr(ALLOWED[name], each, None)) for each in ("forward", "__call__", "dtype")]
    state_pickle = pickle.dumps(state, protocol=2)[2:-1]
    with pytest.raises(WeightsError):
        read_classifier_pickle(archive(tmp_path / "x.pth", f"c{module}\n{attribute}\n".encode() + state_pickle + b"b."))
    assert [repr(getattr(ALLOWED[name], each, None)) for each in ("forward", "__call__", "dtype")] == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"hidden_layer.weight": 1}), "holds dict, not a whole MLPClassifier"),
        (b"c__main__\nMLPClassifier\n)\x81.", "state"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "numbers more objects than it has"),
        (b"\x80\x02", "not a classifier"),
        (b"", "not a classifier"),
        (b"x" * ((1 << 20) + 1), "larger than a classifier's"),
    ],
)
def test_a_pickle_that_is_no_classifier_is_refused(tmp_path, content: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_classifier_pickle(archive(tmp_path / "x.pth", content))


def test_other_layers_are_refused(tmp_path, original) -> None:
    original.extra = nn.Linear(2, 2)
    torch.save(original, tmp_path / "original.pth")
    with pytest.raises(WeightsError, match=r"has not: extra"):
        read_classifier_pickle(tmp_path / "original.pth")


def test_a_layer_of_another_kind_is_refused(tmp_path, original) -> None:
    original.bn1 = nn.Dropout()
    torch.save(original, tmp_path / "original.pth")
    with pytest.raises(WeightsError, match="not Linear, BatchNorm1d, Linear"):
        read_classifier_pickle(tmp_path / "original.pth")


def test_parameters_outside_of_the_layers_are_refused(tmp_path, original) -> None:
    original.scale = nn.Parameter(torch.ones(1))
    torch.save(original, tmp_path / "original.pth")
    with pytest.raises(WeightsError, match="outside of its layers"):
        read_classifier_pickle(tmp_path / "original.pth")


def test_transposed_parameters_are_refused_rather_than_misread(tmp_path, original) -> None:
    original.hidden_layer.weight = nn.Parameter(original.hidden_layer.weight.detach().T.contiguous().T)
    torch.save(original, tmp_path / "original.pth")
    with pytest.raises(WeightsError, match="do not fill the tensor"):
        read_classifier_pickle(tmp_path / "original.pth")


def test_a_compressed_zip_is_refused(tmp_path, original) -> None:
    torch.save(original, tmp_path / "original.pth")
    packed = archive(
        tmp_path / "x.pth",
        pickle_of(tmp_path / "original.pth"),
        tmp_path / "original.pth",
        compression=zipfile.ZIP_DEFLATED,
    )
    with pytest.raises(WeightsError, match="compressed"):
        read_classifier_pickle(packed)


def test_a_truncated_zip_is_refused(tmp_path, original) -> None:
    torch.save(original, tmp_path / "original.pth")
    content = (tmp_path / "original.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        read_classifier_pickle(tmp_path / "short.pth")


def test_any_changed_byte_gives_arrays_or_a_refusal_but_nothing_else(tmp_path, original) -> None:
    torch.save(original, tmp_path / "original.pth")
    content = pickle_of(tmp_path / "original.pth")
    refused = 0

    @given(st.integers(0, len(content) - 1), st.integers(0, 255))
    @settings(max_examples=150, database=None)
    def check(place: int, value: int) -> None:
        nonlocal refused
        changed = content[:place] + bytes([value]) + content[place + 1 :]
        try:
            read_classifier_pickle(archive(tmp_path / "x.pth", changed, tmp_path / "original.pth"))
        except WeightsError:
            refused += 1

    check()
    assert refused > 0
