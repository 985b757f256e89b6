"""The weights of a model folder in the Hugging Face layout.

Enters: a model folder. Leaves: its fingerprint, its tensors by their published names. Only the tensors need torch.
Weights are safetensors, or pickles that torch reads in its weights-only mode; nothing else is tried, and no code that
comes with a model is run.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from vpdist.encoders.family import EncoderFamily
from vpdist.encoders.shape import encoder_shape, read_model_json
from vpdist.errors import WeightsError
from vpdist.storage.atomic_files import UNREADABLE
from vpdist.storage.lfs_pointer import IS_LFS_POINTER, LFS_POINTER

if TYPE_CHECKING:
    from torch import Tensor


DESCRIPTION_FILES = ("config.json", "tokenizer.json", "vocab.txt")
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
FLOATS = ("float32", "float16", "bfloat16", "float64")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in order: safetensors where there are any, else pytorch_model.bin; sharded
    or not (the index file first). Raises WeightsError when there are none, or a shard is missing."""
    for single, index in (SAFETENSORS, PICKLES):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return [folder / index, *_shards(folder / index)]
    raise WeightsError(
        f"{folder}: has no weights: neither model.safetensors nor pytorch_model.bin, nor an index of shards"
    )


def _shards(index: Path) -> list[Path]:
    described = read_model_json(index)
    weight_map = described.get("weight_map") if isinstance(described, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        try:
            is_shard = Path(name).name == name and (index.parent / name).is_file()
        except OSError:  # the name is too long for a file
            is_shard = False
        if not is_shard:
            raise WeightsError(f"{index}: names the shard {name!r}, which is not a file of its folder")
    return [index.parent / name for name in names]


def files_read(folder: Path, family: EncoderFamily | None = None) -> list[Path]:
    """All files of a model that vpdist reads: config, tokenizer, what its family (by default told from config.json)
    reads besides, and weights, where it has any. Raises WeightsError as `weight_files` and `encoder_shape`."""
    family = family or encoder_shape(folder).family
    described = [folder / name for name in (*DESCRIPTION_FILES, *family.files) if (folder / name).is_file()]
    return [*described, *(weight_files(folder) if family.has_weights else [])]


def model_fingerprint(folder: Path, family: EncoderFamily | None = None) -> str:
    """xxh3_128 (hex) over the family's `fingerprint`, and names, sizes and bytes of config, tokenizer and weight files;
    the folder's path and files that vpdist does not read (other formats, model cards) do not enter. Raises
    WeightsError."""
    family = family or encoder_shape(folder).family
    digest = xxhash.xxh3_128(family.fingerprint.encode())
    for path in files_read(folder, family):
        try:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            for number, block in enumerate(_blocks(path)):
                if number == 0 and block[: len(LFS_POINTER)] == LFS_POINTER:
                    raise WeightsError(f"{path}: {IS_LFS_POINTER}")
                digest.update(block)
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _blocks(path: Path, size: int = 1 << 22) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(size))
    with path.open("rb", buffering=0) as file:
        while filled := file.readinto(buffer):
            yield buffer[:filled]


def load_state_dict(folder: Path) -> dict[str, Tensor]:
    """All tensors by their names in the file, mapped from disk: pages are read when a tensor is used.

    Raises WeightsError for a damaged file, one that needs more than torch's weights-only unpickler allows, or a name
    that is in two shards.
    """
    state: dict[str, Tensor] = {}
    for path in weight_files(folder):
        if path.suffix == ".json":
            continue
        part = _read_safetensors(path) if path.suffix == ".safetensors" else _read_weights_only(path)
        if twice := state.keys() & part.keys():
            raise WeightsError(f"{path}: {_listed(twice)} is also in another shard")
        state |= part
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors: {error}") from error


def _read_weights_only(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: refused: it holds more than weights: {_reason(error)}") from error
    except UNREADABLE as error:
        raise WeightsError(f"{path}: cannot be read as PyTorch weights (zip format): {_reason(error)}") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise WeightsError(f"{path}: is not a mapping of names to tensors")
    for name, tensor in state.items():
        _refuse_unstored(path, name, tensor)
    return {name: tensor.detach() for name, tensor in state.items()}  # parameters that are still to be trained


def _refuse_unstored(path: Path, name: str, tensor: Tensor) -> None:
    """Raises WeightsError for a tensor whose numbers are not all in the file: sparse, quantised, nested, on no
    device, or one number repeated by a stride of 0."""
    import torch

    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if (
        not plain
        or tensor.is_quantized
        or tensor.is_nested
        or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        raise WeightsError(f"{path}: {name} has {tensor.numel():,} numbers, which are not all stored in the file")


def _reason(error: Exception) -> str:
    """The reason in torch's message, without its advice to load unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (telling or lines or [type(error).__name__])[0]


def fitted(
    state: dict[str, Tensor], wanted: Iterable[tuple[str, tuple[int, ...]]], folder: Path, unused: re.Pattern[str]
) -> dict[str, Tensor]:
    """Those tensors of `state` that a model has parameters for, in the order of `wanted` (names and shapes).

    Names that match `unused` are optional. Raises WeightsError that lists every missing name, every unknown one, and
    every tensor of another shape than config.json describes.
    """
    shapes = dict(wanted)
    wrong = []
    if missing := shapes.keys() - state.keys():
        wrong.append(f"missing: {_listed(missing)}")
    if unknown := {name for name in state.keys() - shapes.keys() if not unused.fullmatch(name)}:
        wrong.append(f"unknown: {_listed(unknown)}")
    different = [
        f"{name} is {tuple(state[name].shape)}, not {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if different:
        wrong.append(f"shapes: {'; '.join(different)}")
    if cast := [f"{name} is {dtype}" for name in shapes if (dtype := _other_dtype(state.get(name)))]:
        wrong.append(f"number formats: {'; '.join(cast)}; weights are {', '.join(FLOATS)}")
    if wrong:
        raise WeightsError(f"{folder}: the weights do not fit the model that config.json describes; {'; '.join(wrong)}")
    return {name: state[name] for name in shapes}


def _other_dtype(tensor: Tensor | None) -> str:
    """The number format of a tensor that is none of FLOATS, else ''. Integers and truth values are other things than
    weights, and a complex number would lose its second half."""
    dtype = "" if tensor is None else str(tensor.dtype).removeprefix("torch.")
    return "" if dtype in FLOATS else dtype


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
