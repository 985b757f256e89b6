"""The original's classifier files, read without running them.

Enters: a .pth that `torch.save` made of a whole `__main__.MLPClassifier`. Leaves: its arrays. A pickle is a program
that calls whatever it names; here every name it may ask for stands for an inert record of this module, any other name
is refused, and no class of torch or of the file is ever built. Tensors are read from the zip as plain numbers.
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

PICKLE_LIMIT = 1 << 15
"""Bytes. The pickle describes a few layers (2 KB); their numbers lie beside it in the zip."""


class Record:
    """Stands for an object that the pickle builds: keeps the state it is given, does nothing with it."""

    __slots__ = ("state",)

    def __setstate__(self, state: object) -> None:
        if type(state) is not dict:
            raise pickle.UnpicklingError("an object's state is not a dictionary")
        self.state: dict[str, Any] = state


class MLPClassifier(Record):
    __slots__ = ()


class Linear(Record):
    __slots__ = ()


class BatchNorm1d(Record):
    __slots__ = ()


class Dropout(Record):
    __slots__ = ()


class ReLU(Record):
    __slots__ = ()


@dataclass(slots=True)
class StorageType:
    """Stands for a torch storage class; not callable."""

    dtype: np.dtype[Any]

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a storage class has no state")


@dataclass(slots=True)
class Tensor:
    """A tensor that the pickle describes: where its numbers lie in the zip."""

    key: str
    dtype: np.dtype[Any]
    stored: int
    """Numbers in the storage."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a tensor has no state")


class RebuildTensor:
    """Stands for `torch._utils._rebuild_tensor_v2`."""

    __slots__ = ()

    def __call__(
        self, storage: Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
    ) -> Tensor:
        numbers = (offset, *shape, *strides)
        if type(storage) is not Tensor or any(type(number) is not int or number < 0 for number in numbers):
            raise pickle.UnpicklingError("a tensor's description is not made of a storage and numbers")
        return Tensor(storage.key, storage.dtype, storage.stored, offset, shape, strides)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a function has no state")


class RebuildParameter(RebuildTensor):
    """Stands for `torch._utils._rebuild_parameter`: the tensor itself."""

    __slots__ = ()

    def __call__(self, tensor: Tensor, *_: object) -> Tensor:
        return tensor


ALLOWED: dict[str, Any] = {
    "__main__.MLPClassifier": MLPClassifier,
    "torch.nn.modules.linear.Linear": Linear,
    "torch.nn.modules.batchnorm.BatchNorm1d": BatchNorm1d,
    "torch.nn.modules.dropout.Dropout": Dropout,
    "torch.nn.modules.activation.ReLU": ReLU,
    "torch._utils._rebuild_tensor_v2": RebuildTensor(),
    "torch._utils._rebuild_parameter": RebuildParameter(),
    "torch.FloatStorage": StorageType(np.dtype("<f4")),
    "torch.LongStorage": StorageType(np.dtype("<i8")),
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
}
"""Every name that such a file may ask for, and what it gets."""


class AllowListUnpickler(pickle.Unpickler):
    """Builds records of this module and plain containers, nothing else."""

    def __init__(self, content: bytes, path: Path) -> None:
        for opcode, argument, _ in pickletools.genops(content):
            # A memo of so many entries would be reserved before the first of them is used.
            if opcode.name in ("PUT", "LONG_BINPUT") and argument is not None and int(argument) > len(content):
                raise pickle.UnpicklingError("it numbers more objects than it has")
        super().__init__(io.BytesIO(content))
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if asked not in ALLOWED:
            raise WeightsError(
                f"{self.path}: refused: the pickle asks for {asked}, which no classifier needs; nothing of it was run"
            )
        return ALLOWED[asked]

    def persistent_load(self, identity: Any) -> Tensor:
        kind, storage, key, _device, stored = identity
        if kind != "storage" or type(storage) is not StorageType or type(key) is not str or type(stored) is not int:
            raise pickle.UnpicklingError("a storage's description is not one")
        return Tensor(key, storage.dtype, stored, 0, (), ())


@dataclass(frozen=True, slots=True)
class PickledClassifier:
    """What a .pth holds."""

    parameters: dict[str, np.ndarray]
    """float32 arrays by the original's names, without the count of batches seen in training."""
    eps: float
    """Of the batch normalisation."""
    dropout: float


def read_classifier_pickle(path: Path) -> PickledClassifier:
    """The classifier in the .pth at `path`.

    Raises WeightsError: naming what the pickle asked for when that is not allowed, and for anything that is not an
    `MLPClassifier` of Linear, BatchNorm1d, Dropout, ReLU. Whether shapes fit together is for the caller.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(names) != 1:
                raise WeightsError(f"{path}: not a file that torch.save made (it has {len(names)} data.pkl)")
            folder = names[0].removesuffix("data.pkl")
            if f"{folder}byteorder" in archive.namelist() and _stored(archive, f"{folder}byteorder") != b"little":
                raise WeightsError(f"{path}: written on a big-endian machine")
            if archive.getinfo(names[0]).file_size > PICKLE_LIMIT:
                raise WeightsError(f"{path}: its pickle is larger than a classifier's can be")
            model = AllowListUnpickler(_stored(archive, names[0]), path).load()
            return _classifier(model, path, archive, folder)
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path}: damaged: {error}") from error
    # A pickle that is no classifier fails wherever it first breaks the unpickler's or the records' expectations.
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise WeightsError(f"{path}: not a classifier of the original: {error or type(error).__name__}") from error


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry's bytes; torch never compresses them, so that a small file cannot unfold into a huge one."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"{name} is compressed")
    return archive.read(entry)


def _classifier(model: object, path: Path, archive: zipfile.ZipFile, folder: str) -> PickledClassifier:
    if type(model) is not MLPClassifier:
        raise WeightsError(f"{path}: holds {type(model).__name__}, not a whole MLPClassifier module")
    modules = dict(model.state["_modules"])
    hidden, norm, output = (modules.pop(name) for name in ("hidden_layer", "bn1", "output_layer"))
    if (type(hidden), type(norm), type(output)) != (Linear, BatchNorm1d, Linear):
        raise WeightsError(f"{path}: hidden_layer, bn1, output_layer are not Linear, BatchNorm1d, Linear")
    if others := [name for name, module in modules.items() if type(module) not in (Dropout, ReLU)]:
        raise WeightsError(f"{path}: has layers that the original's classifier has not: {', '.join(map(str, others))}")
    if model.state["_parameters"] or model.state["_buffers"]:
        raise WeightsError(f"{path}: has parameters outside of its layers")
    parameters: dict[str, np.ndarray] = {}
    for name, module in (("hidden_layer", hidden), ("bn1", norm), ("output_layer", output)):
        tensors = {**module.state["_parameters"], **module.state["_buffers"]}
        tensors.pop("num_batches_tracked", None)
        parameters |= {f"{name}.{key}": _array(tensor, archive, folder) for key, tensor in tensors.items()}
    dropouts = [float(module.state["p"]) for module in modules.values() if type(module) is Dropout]
    return PickledClassifier(parameters, float(norm.state["eps"]), dropouts[0] if dropouts else 0.0)


def _array(tensor: object, archive: zipfile.ZipFile, folder: str) -> np.ndarray:
    if type(tensor) is not Tensor or tensor.dtype != np.float32:
        raise pickle.UnpicklingError("a parameter is not a float32 tensor")
    numbers = np.frombuffer(_stored(archive, f"{folder}data/{tensor.key}"), tensor.dtype)
    expected = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    dense = all(
        size == 1 or stride == step for size, stride, step in zip(tensor.shape, tensor.strides, expected, strict=True)
    )
    count = math.prod(tensor.shape)
    if not dense or len(numbers) != tensor.stored or tensor.offset + count > len(numbers):
        raise pickle.UnpicklingError(f"the numbers of data/{tensor.key} do not fill the tensor described")
    return numbers[tensor.offset : tensor.offset + count].reshape(tensor.shape)
