import codecs
import contextlib
import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.tiny_models import tiny_classifier
from vpdist.errors import WeightsError
from vpdist.results.classifier import load_classifier
from vpdist.results.pickled_classifier import ALLOWED, read_classifier_pickle


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
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "numbers more objects than it has bytes"),
        (b"\x80\x02", "not a classifier"),
        (b"", "not a classifier"),
        (b"x" * ((1 << 20) + 1), "larger than the limit of 32,768"),
    ],
)
def test_a_pickle_that_is_no_classifier_is_refused(tmp_path, content: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_classifier_pickle(archive(tmp_path / "x.pth", content))


def test_other_layers_are_refused(tmp_path, original) -> None:
    original.extra = nn.Linear(2, 2)
    torch.save(original, tmp_path / "original.pth")
    with pytest.raises(WeightsError, match=r"unknown to .*: extra"):
        read_classifier_pickle(tmp_path / "original.pth")


def test_a_layer_of_another_kind_is_refused(tmp_path, original) -> None:
    original.bn1 = nn.Dropout()
    torch.save(original, tmp_path / "original.pth")
    with pytest.raises(WeightsError, match="not Linear, BatchNorm1d, Linear"):
        read_classifier_pickle(tmp_path / "original.pth")


def test_parameters_outside_of_the_layers_are_refused(tmp_path, original) -> None:
    original.scale = nn.Parameter(torch.ones(1))
    torch.save(original, tmp_path / "original.pth")
    with pytest.raises(WeightsError, match="outside its layers"):
        read_classifier_pickle(tmp_path / "original.pth")


def test_transposed_parameters_are_refused_rather_than_misread(tmp_path, original) -> None:
    original.hidden_layer.weight = nn.Parameter(original.hidden_layer.weight.detach().T.contiguous().T)
    torch.save(original, tmp_path / "original.pth")
    with pytest.raises(WeightsError, match="do not fill the tensor"):
        read_classifier_pickle(tmp_path / "original.pth")


# Tensors are described, not built


@contextlib.contextmanager
def traced():
    """Gives a function that tells the most bytes that Python and numpy held at once in the block."""
    tracemalloc.start()
    try:
        yield lambda: peak
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: torch.ones(16, dtype=torch.int8), r"asks for torch\.CharStorage"),
        (lambda: torch.ones(16, dtype=torch.bool), r"asks for torch\.BoolStorage"),
        (lambda: torch.ones(16, dtype=torch.complex64), r"asks for torch\.ComplexFloatStorage"),
        (lambda: torch.ones(16, dtype=torch.float64), r"asks for torch\.DoubleStorage"),
        (lambda: torch.ones(16, dtype=torch.int64), "not a float32 tensor"),
        (lambda: torch.ones(16, device="meta"), r"asks for torch\._utils\._rebuild_meta_tensor_no_storage"),
        (lambda: torch.ones(16).to_sparse(), r"asks for torch\._utils\._rebuild_sparse_tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(16), 0.1, 0, torch.qint8), "asks for torch"),
        (lambda: torch._neg_view(torch.ones(16)), "do not fill the tensor"),  # the sign is kept apart
    ],
    ids=["int8", "bool", "complex", "float64", "int64", "meta", "sparse", "quantised", "negated"],
)
def test_parameters_of_another_kind_are_refused_rather_than_cast(tmp_path, original, made, message: str) -> None:
    original.bn1._buffers["running_mean"] = made()
    torch.save(original, tmp_path / "original.pth")
    with pytest.raises(WeightsError, match=message):
        read_classifier_pickle(tmp_path / "original.pth")


VAST = torch.zeros(1).expand(1 << 34)
"""One number in a file, 64 GiB to whoever copies it."""


def vast_parameter(model: MLPClassifier) -> None:
    model.bn1._parameters["weight"] = VAST


def set_of_a_vast_tensor(model: MLPClassifier) -> None:
    model.__dict__["extra"] = Payload(set, VAST)


def mapping_of_a_vast_tensor(model: MLPClassifier) -> None:
    model.__dict__["extra"] = Payload(OrderedDict, VAST)


def text_doubled_again_and_again(model: MLPClassifier) -> None:
    text = Payload(codecs.encode, "a", "latin1")
    for _ in range(36):
        text = Payload(codecs.encode, text, "hex")
    model.__dict__["extra"] = text


def zeros_by_their_number(model: MLPClassifier) -> None:
    model.__dict__["extra"] = Payload(bytearray, 1 << 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (vast_parameter, "cannot reshape"),
        (set_of_a_vast_tensor, "not iterable"),
        (mapping_of_a_vast_tensor, "not iterable"),
        (text_doubled_again_and_again, r"asks for _codecs\.encode"),
        (zeros_by_their_number, r"asks for __builtin__\.bytearray"),
    ],
)
def test_a_small_file_that_unfolds_is_refused_without_memory_for_it(tmp_path, original, change, message: str) -> None:
    change(original)
    torch.save(original, tmp_path / "original.pth")
    with traced() as peak_bytes, pytest.raises(WeightsError, match=message):
        read_classifier_pickle(tmp_path / "original.pth")
    assert peak_bytes() < 1 << 20


def test_a_storage_that_many_parameters_share_is_held_once(tmp_path, original) -> None:
    storage = torch.zeros(1 << 18)
    original.bn1._buffers.update({f"extra{number}": storage for number in range(500)})
    path = tmp_path / "original.pth"
    torch.save(original, path)
    with traced() as peak_bytes:
        assert len(read_classifier_pickle(path).parameters) > 500
    assert peak_bytes() < 3 * path.stat().st_size
    with pytest.raises(WeightsError, match="a classifier has"):
        load_classifier(path)


def test_numbers_that_were_damaged_are_refused(tmp_path, original) -> None:
    path = tmp_path / "original.pth"
    torch.save(original, path)
    content = bytearray(path.read_bytes())
    weight = original.hidden_layer.weight.detach().numpy().tobytes()
    content[content.index(weight) + len(weight) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged: Bad CRC-32"):
        read_classifier_pickle(path)
    state = torch.load(path, weights_only=False)  # torch does not notice
    assert torch.isfinite(state.hidden_layer.weight).all()


def test_entries_that_overlap_are_refused(tmp_path, original) -> None:
    torch.save(original, tmp_path / "original.pth")
    path = archive(tmp_path / "x.pth", pickle_of(tmp_path / "original.pth"), tmp_path / "original.pth")
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("archive/data/y", bytes(1 << 16))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data/x", inner.getvalue())
        place, entry = file.infolist()[-1].header_offset, zipfile.ZipFile(inner).infolist()[0]
        entry.header_offset += place + 30 + len("archive/data/x")
        file.filelist.append(entry)
    with zipfile.ZipFile(path) as file:
        assert file.read("archive/data/y") == bytes(1 << 16)
    with pytest.raises(WeightsError, match="overlap"):
        read_classifier_pickle(path)


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
