"""An encoder's config.json: its kind and sizes, read within limits, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpdist.encoder_kinds import KINDS, WIDEST
from vpdist.errors import WeightsError
from vpdist.storage.atomic_files import JSON_LIMIT, read_limited
from vpdist.storage.lfs_pointer import IS_LFS_POINTER, LFS_POINTER

LARGEST_SIZE, MOST_LAYERS = 1 << 20, 1 << 10
"""No size in a config.json exceeds these: a model is built from it before its weights are compared with it."""
EPS = (0.0, 1.0)
"""What a LayerNorm adds to the variance: least and most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """The size of an encoder, from which a sequence's cost follows before any weight is read."""

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


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json. Raises WeightsError when it is absent or not a JSON object."""
    path = folder / "config.json"
    config = read_model_json(path)
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: is not a JSON object")
    return config


def encoder_shape(folder: Path) -> EncoderShape:
    """The shape that config.json describes. Raises WeightsError for any other kind of model, or a size out of range."""
    path = folder / "config.json"
    config = read_config(folder)
    kinds = [kind for kind in KINDS.values() if kind.is_described_by(config)]
    if len(kinds) > 1:
        raise WeightsError(f"{path}: describes {' and '.join(kind.model for kind in kinds)} at once")
    if not kinds:
        known = " nor ".join(f"{kind.model} ({kind.recognised_by_text})" for kind in KINDS.values())
        raise WeightsError(f"{path}: describes neither {known}: model_type is {config.get('model_type')!r}")

    kind = kinds[0]

    def size(name: str) -> int:
        return whole_number(path, config, name)

    shape = EncoderShape(
        kind=kind.name,
        layers=size("num_hidden_layers"),
        width=size("hidden_size"),
        heads=size("num_attention_heads"),
        intermediate=size("intermediate_size"),
        gated=kind.gated,
        vocabulary=size("vocab_size"),
    )
    if shape.width > WIDEST:
        raise WeightsError(f"{path}: hidden_size is {shape.width:,}, more than the limit of {WIDEST:,}")
    if shape.layers > MOST_LAYERS:
        raise WeightsError(f"{path}: has {shape.layers:,} layers, more than the limit of {MOST_LAYERS:,}")
    if shape.width % shape.heads:
        raise WeightsError(f"{path}: hidden_size {shape.width} is not a multiple of {shape.heads} attention heads")
    return shape


def whole_number(path: Path, config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A size in the config.json `path`. Raises WeightsError unless it is from 1 to LARGEST_SIZE."""
    value = config.get(name, default)
    if type(value) is not int or value < 1:
        raise WeightsError(f"{path}: {name} must be a positive integer, not {value!r}")
    if value > LARGEST_SIZE:
        raise WeightsError(f"{path}: {name} is {value:,}, more than the limit of {LARGEST_SIZE:,}")
    return value


def real_number(path: Path, config: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """A number in the config.json `path`. Raises WeightsError unless it is from `least` to `most`, as NaN is not."""
    value = config.get(name, default)
    if type(value) not in (int, float) or not least <= value <= most:
        raise WeightsError(f"{path}: {name} must be a number from {least:g} to {most:g}, not {value!r}")
    return float(value)


def read_model_json(path: Path) -> Any:
    """The content of a JSON file of a model folder. Raises WeightsError."""
    try:
        content = read_limited(path, JSON_LIMIT, follow=True)
        if content.startswith(LFS_POINTER):
            raise WeightsError(f"{path}: {IS_LFS_POINTER}")
        return json.loads(content.decode())
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; is this a model in the Hugging Face layout?") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON: {error}") from error
