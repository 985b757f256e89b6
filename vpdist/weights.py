"""Where encoders come from: a local folder in the Hugging Face layout, or a hub id at a pinned revision.

Enters: a folder or id. Leaves: its shape (for planning), its digest, its tensors by their published names. Only the
tensors need torch. Weights are safetensors, or pickles that torch reads in its weights-only mode; nothing else is
ever tried, and no code that comes with a model is run.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from vpdist.encoder_kinds import KINDS
from vpdist.errors import WeightsError
from vpdist.files import JSON_LIMIT, read_limited

if TYPE_CHECKING:
    from torch import Tensor

PINNED_REVISIONS = {name: commit for kind in KINDS.values() for name, commit in kind.pinned.items()}
"""Commit of each public checkpoint that a run uses unless `owner/name@revision` names another."""

DESCRIPTION_FILES = ("config.json", "tokenizer.json", "vocab.txt")
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

LARGEST_SIZE, MOST_LAYERS = 1 << 20, 1 << 10
"""No size in a config.json exceeds these: a model is built from it before its weights are compared with it."""

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """The size of an encoder, which tells what a sequence costs before any weight is read."""

    kind: str
    """Its name in encoder_kinds.KINDS."""
    layers: int
    """Transformer layers."""
    width: int
    """Numbers per token, and per embedding."""
    heads: int
    """Attention heads per layer."""
    intermediate: int
    """Width of the feed-forward's inner layer, of one half where it is gated."""
    gated: bool
    """Whether the feed-forward's first product has two halves (a gate and a value)."""
    vocabulary: int
    """Number of token ids the embedding table has."""

    @property
    def linear_flops_per_token(self) -> int:
        """Floating-point operations of all linear layers for one token (two per multiply-add)."""
        feed_forward_products = 3 if self.gated else 2
        return self.layers * (8 * self.width**2 + 2 * feed_forward_products * self.width * self.intermediate)

    @property
    def attention_flops_per_token_pair(self) -> int:
        """Operations of all attention layers for one (query, key) pair: a sequence of t tokens has t * t of them."""
        return self.layers * 4 * self.width


def resolve_model(model: str, offline: bool = False) -> Path:
    """The local folder of `model`: the folder itself, or a download of the hub id `owner/name[@revision]`.

    A known id without a revision is taken at its pinned one. With `offline` only the local cache is read. Raises
    WeightsError that says what to do when the folder or the id is missing, unknown, or cannot be downloaded.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise WeightsError(f"{model}: is a file; a model is a folder with config.json and weights, or a hub id")
    if not HUB_ID.fullmatch(model):
        raise WeightsError(f"{model}: no such folder, and not a hub id of the form owner/name or owner/name@revision")
    name, _, revision = model.partition("@")
    revision = revision or PINNED_REVISIONS.get(name, "")
    if not revision:
        known = ", ".join(PINNED_REVISIONS)
        raise WeightsError(
            f"{model}: no such folder, and as a hub id it has no pinned revision here: give {name}@<commit>, so that "
            f"every run uses the same weights (pinned: {known})"
        )
    return _snapshot(name, revision, offline)


def _snapshot(name: str, revision: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    transport_error = HfHubHTTPError.__bases__[0]  # of the HTTP library that this huggingface_hub is built on

    def fetch(patterns: Iterable[str], *, local: bool) -> Path:
        return Path(snapshot_download(name, revision=revision, local_files_only=local, allow_patterns=list(patterns)))

    try:
        if offline or COMMIT.fullmatch(revision):  # a commit never changes: what is here needs no question to the hub
            try:
                folder = fetch(["*"], local=True)
                if offline or _is_complete(folder):
                    return folder
            except LocalEntryNotFoundError:
                if offline:
                    raise
        folder = fetch([*DESCRIPTION_FILES, "tokenizer_config.json", *SAFETENSORS, "model-*.safetensors"], local=False)
        if not any((folder / file).is_file() for file in SAFETENSORS):
            folder = fetch([*PICKLES, "pytorch_model-*.bin"], local=False)
    except LocalEntryNotFoundError as error:
        advice = "run once without --offline, or `vpdist download`" if offline else "check the network, or copy it here"
        raise WeightsError(f"{name}@{revision}: not in the local cache and not downloaded: {advice}") from error
    except (HfHubHTTPError, HFValidationError, transport_error, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{name}@{revision}: cannot be downloaded: {reason}") from error
    return folder


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot has all that vpdist reads; an interrupted download leaves some of it out."""
    try:
        weight_files(folder)
    except WeightsError:
        return False
    present = [(folder / name).is_file() for name in DESCRIPTION_FILES]
    return present[0] and any(present[1:])


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json. Raises WeightsError when it is absent or not a JSON object."""
    path = folder / "config.json"
    config = _read_json(path)
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: is not a JSON object")
    return config


def encoder_shape(folder: Path) -> EncoderShape:
    """The shape that config.json describes. Raises WeightsError for any other kind of model, or a nonsensical size."""
    path = folder / "config.json"
    config = read_config(folder)
    kind = next((kind for kind in KINDS.values() if kind.is_described_by(config)), None)
    if kind is None:
        known = " nor ".join(f"{kind.model} ({kind.told_by_text})" for kind in KINDS.values())
        raise WeightsError(f"{path}: neither {known}: model_type {config.get('model_type')!r}")

    def size(name: str) -> int:
        value = config.get(name)
        if type(value) is not int or value < 1:
            raise WeightsError(f"{path}: {name} must be a positive number, not {value!r}")
        if value > LARGEST_SIZE:
            raise WeightsError(f"{path}: {name} is larger than {LARGEST_SIZE:,}, which no encoder's is")
        return value

    shape = EncoderShape(
        kind=kind.name,
        layers=size("num_hidden_layers"),
        width=size("hidden_size"),
        heads=size("num_attention_heads"),
        intermediate=size("intermediate_size"),
        gated=kind.gated,
        vocabulary=size("vocab_size"),
    )
    if shape.layers > MOST_LAYERS:
        raise WeightsError(f"{path}: {shape.layers} layers are more than any encoder has")
    if shape.width % shape.heads:
        raise WeightsError(f"{path}: hidden_size {shape.width} is not a multiple of {shape.heads} attention heads")
    return shape


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in order: safetensors where there are any, else pytorch_model.bin; sharded
    or not (the index file first). Raises WeightsError when there are none, or a shard is missing."""
    for single, index in (SAFETENSORS, PICKLES):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return [folder / index, *_shards(folder / index)]
    raise WeightsError(f"{folder}: no weights: neither model.safetensors nor pytorch_model.bin (nor a shard index)")


def _shards(index: Path) -> list[Path]:
    described = _read_json(index)
    weight_map = described.get("weight_map") if isinstance(described, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise WeightsError(f"{index}: names the shard {name!r}, which is not a file of its folder")
    return [index.parent / name for name in names]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_limited(path, JSON_LIMIT, follow=True).decode())
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; is this a model in the Hugging Face layout?") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON: {error}") from error


def model_fingerprint(folder: Path) -> str:
    """xxh3_128 (hex) over names, sizes and bytes of config, tokenizer and weight files; the folder's path and files
    that vpdist does not read (other formats, model cards) do not enter. Raises WeightsError."""
    described = [folder / name for name in DESCRIPTION_FILES if (folder / name).is_file()]
    digest = xxhash.xxh3_128()
    for path in [*described, *weight_files(folder)]:
        try:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            for block in _blocks(path):
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

    Raises WeightsError for a damaged file, one that needs more than torch's weights-only unpickler allows (never
    tried in another way), or a name that two shards give.
    """
    state: dict[str, Tensor] = {}
    for path in weight_files(folder):
        if path.suffix == ".json":
            continue
        part = _read_safetensors(path) if path.suffix == ".safetensors" else _read_weights_only(path)
        if twice := state.keys() & part.keys():
            raise WeightsError(f"{path}: {_listed(twice)} also in another shard")
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
    # Whatever torch's reader runs into where a file is not what it expects.
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise WeightsError(f"{path}: cannot be read as PyTorch weights (zip format): {_reason(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise WeightsError(f"{path}: is not a mapping of names to tensors")
    return dict(state)


def _reason(error: Exception) -> str:
    """What torch's message says was wrong, without its advice to load unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (telling or lines or [type(error).__name__])[0]


def fitted(
    state: dict[str, Tensor], wanted: Iterable[tuple[str, tuple[int, ...]]], folder: Path, unused: re.Pattern[str]
) -> dict[str, Tensor]:
    """Those tensors of `state` that a model has parameters for, in the order of `wanted` (names and shapes).

    Names that match `unused` may be there or not. Raises WeightsError listing every missing name, every surprising
    one, and every tensor of another shape than config.json describes.
    """
    shapes = dict(wanted)
    wrong = []
    if missing := shapes.keys() - state.keys():
        wrong.append(f"missing: {_listed(missing)}")
    if surprising := {name for name in state.keys() - shapes.keys() if not unused.fullmatch(name)}:
        wrong.append(f"not known: {_listed(surprising)}")
    different = [
        f"{name} is {tuple(state[name].shape)}, not {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if different:
        wrong.append(f"shapes: {'; '.join(different)}")
    if wrong:
        raise WeightsError(f"{folder}: the weights do not fit the model that config.json describes; {'; '.join(wrong)}")
    return {name: state[name] for name in shapes}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
