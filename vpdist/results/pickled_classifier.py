"""Reads the original's classifier files without running them.

Enters: a .pth that `torch.save` made of a whole `__main__.MLPClassifier`. Leaves: its arrays. A pickle is a program
that calls what it names; here every allowed name is an inert record, any other name is refused, and no class of torch
or of the file is instantiated. Tensors are read from the zip as plain numbers.

`torch.load(weights_only=True)` with safe globals runs nothing either, but builds tensors while it reads: with torch
2.13 a set of a tensor of 3 million numbers and stride 0, in a file of 4.7 KB, takes 2 GB and 8 s, a text encoded as hex
repeatedly doubles each time, damaged numbers pass (no CRC is checked), and names in a pickle of protocol 4 are not
reported. tests/results/test_pickled_classifier.py has such files.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpdist.errors import WeightsError
from vpdist.storage.atomic_files import UNREADABLE

PICKLE_LIMIT = 1 << 15
"""Most bytes. The pickle describes a few layers (2 KB); their numbers are other entries of the zip."""


class Record:
    """Inert replacement of a class or function that the pickle names: keeps its arguments and its state."""

    arguments: tuple[Any, ...]
    state: dict[str, Any]

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        if type(state) is not dict:
            raise pickle.UnpicklingError("an object's state is not a dictionary")
        self.state = state


RECORDS = (
    "__main__.MLPClassifier",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm1d",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.activation.ReLU",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.FloatStorage",
    "torch.LongStorage",
)
CONTAINERS = {"collections.OrderedDict": OrderedDict, "builtins.set": set, "__builtin__.set": set}
ALLOWED: dict[str, type] = {name: type(name.rpartition(".")[2], (Record,), {}) for name in RECORDS} | CONTAINERS
"""Every name that such a file may use, and its replacement: a subclass of Record with that name, or a container."""


class AllowListUnpickler(pickle.Unpickler):
    """Instantiates records and plain containers only."""

    def __init__(self, content: bytes, path: Path) -> None:
        for opcode, argument, _ in pickletools.genops(content):
            # A memo with that many entries would be allocated before the first of them is used.
            if opcode.name in ("PUT", "LONG_BINPUT") and argument is not None and int(argument) > len(content):
                raise pickle.UnpicklingError("it numbers more objects than it has bytes")
        super().__init__(io.BytesIO(content))
        self.path = path

    def find_class(self, module: str, name: str) -> type:
        name = f"{module}.{name}"
        if name not in ALLOWED:
            raise WeightsError(
                f"{self.path}: refused: the pickle asks for {name}, which no classifier needs; nothing of it was run"
            )
        return ALLOWED[name]

    def persistent_load(self, identity: Any) -> Any:
        """The identity of a storage: ("storage", type, entry in the zip, device, how many numbers)."""
        return identity


@dataclass(frozen=True, slots=True)
class PickledClassifier:
    """The content of a .pth."""

    parameters: dict[str, np.ndarray]
    """float32 arrays by the original's names, without `num_batches_tracked`."""
    eps: float
    """Of the batch normalisation."""
    dropout: float


def read_classifier_pickle(path: Path) -> PickledClassifier:
    """The classifier in the .pth at `path`.

    Raises WeightsError for a name that is not allowed, and for anything else than an `MLPClassifier` of Linear,
    BatchNorm1d, Dropout, ReLU. Whether shapes fit together is for the caller to check.
    """
    try:
        entries = _entries(path)
        return _classifier(AllowListUnpickler(entries["data.pkl"], path).load(), path, entries)
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path}: is damaged: {error}") from error
    except (pickle.UnpicklingError, *UNREADABLE) as error:
        raise WeightsError(f"{path}: is not a classifier of the original: {error or type(error).__name__}") from error


def _entries(path: Path) -> dict[str, bytes]:
    """The content of the zip's entries, by names without the folder. Raises WeightsError for entries that overlap."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        pickles = [name for name in archive.namelist() if name.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise WeightsError(f"{path}: was not made by torch.save: it has {len(pickles)} entries data.pkl")
        if entries["data.pkl"].file_size > PICKLE_LIMIT:
            raise WeightsError(f"{path}: its pickle is larger than the limit of {PICKLE_LIMIT:,} bytes")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise WeightsError(f"{path}: is compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
            raise WeightsError(f"{path}: its entries overlap")
        contents = {name: archive.read(entry) for name, entry in entries.items()}
    if contents.get("byteorder", b"little") != b"little":
        raise WeightsError(f"{path}: was written on a big-endian machine")
    return contents


def _classifier(model: Any, path: Path, entries: dict[str, bytes]) -> PickledClassifier:
    if _kind(model) != "MLPClassifier":
        raise WeightsError(f"{path}: holds {_kind(model)}, not a whole MLPClassifier module")
    modules = dict(model.state["_modules"])
    layers = {name: modules.pop(name) for name in ("hidden_layer", "bn1", "output_layer")}
    if [_kind(layer) for layer in layers.values()] != ["Linear", "BatchNorm1d", "Linear"]:
        raise WeightsError(f"{path}: hidden_layer, bn1, output_layer are not Linear, BatchNorm1d, Linear")
    if others := [name for name, module in modules.items() if _kind(module) not in ("Dropout", "ReLU")]:
        raise WeightsError(f"{path}: has layers unknown to the original's classifier: {', '.join(map(str, others))}")
    if model.state["_parameters"] or model.state["_buffers"]:
        raise WeightsError(f"{path}: has parameters outside its layers")
    tensors = {
        f"{layer}.{name}": tensor
        for layer, module in layers.items()
        for name, tensor in {**module.state["_parameters"], **module.state["_buffers"]}.items()
        if name != "num_batches_tracked"
    }
    parameters = {name: _array(tensor, entries) for name, tensor in tensors.items()}
    dropouts = [float(module.state["p"]) for module in modules.values() if _kind(module) == "Dropout"]
    return PickledClassifier(parameters, float(layers["bn1"].state["eps"]), dropouts[0] if dropouts else 0.0)


def _kind(record: object) -> str:
    return type(record).__name__


def _array(tensor: Any, entries: dict[str, bytes]) -> np.ndarray:
    """The numbers of a tensor: a view of an entry, so that many tensors of one entry take no more memory."""
    if _kind(tensor) == "_rebuild_parameter":
        tensor = tensor.arguments[0]
    if _kind(tensor) != "_rebuild_tensor_v2":
        raise pickle.UnpicklingError("a parameter is not a tensor")
    (kind, storage, key, _device, stored), offset, shape, strides, _grad, _hooks, *negated = tensor.arguments
    if kind != "storage" or storage is not ALLOWED["torch.FloatStorage"]:
        raise pickle.UnpicklingError("a parameter is not a float32 tensor")
    if any(type(number) is not int or number < 0 for number in (offset, *shape)):
        raise pickle.UnpicklingError("a tensor's description is not made of numbers")
    numbers = np.frombuffer(entries[f"data/{key}"], "<f4")
    array = numbers[offset : offset + math.prod(shape)].reshape(shape)
    steps = zip(shape, strides, array.strides, strict=True)
    if any(negated) or len(numbers) != stored or any(size != 1 and 4 * stride != step for size, stride, step in steps):
        raise pickle.UnpicklingError(f"the numbers of data/{key} do not fill the tensor described")
    return array
