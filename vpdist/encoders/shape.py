"""An encoder's config.json: its family and sizes, read within limits, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpdist.encoder_kinds import WIDEST, resolve
from vpdist.encoders.family import EncoderFamily, family_of
from vpdist.errors import WeightsError
from vpdist.storage.atomic_files import JSON_LIMIT, read_limited
from vpdist.storage.lfs_pointer import IS_LFS_POINTER, LFS_POINTER

LARGEST_SIZE, MOST_LAYERS = 1 << 20, 1 << 10
"""No size in a config.json exceeds these: a model is built from it before its weights are compared with it."""
EPS = (0.0, 1.0)
"""What a LayerNorm adds to the variance: least and most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """The size of an encoder, from which a sequence's cost follows before any weight is read.

    An encoder that is no transformer has neither layers nor heads.
    """

    family: EncoderFamily
    """Which model it is."""
    width: int
    """Numbers per token, and per embedding."""
    vocabulary: int
    """Number of token ids the embedding table has; ids are below it."""
    layers: int = 0
    """Transformer layers."""
    heads: int = 0
    """Attention heads per layer."""
    intermediate: int = 0
    """Width of the feed-forward's inner layer, of one half where it is gated."""
    gated: bool = False
    """Whether the feed-forward's first product has two halves (a gate and a value)."""
    query_width: int | None = None
    """Numbers of a token's queries in all heads of a layer, where that is not the width."""
    key_width: int | None = None
    """Numbers of its keys, and of its values, where that is not the width."""
    longest: int | None = None
    """Most tokens of a sequence, special ones included, where its positions have an end."""
    other_flops_per_token: int = 0
    """Operations per token outside of transformer layers."""

    @property
    def kind(self) -> str:
        """The kind of encoder that it is, the first one where it may be several."""
        return self.family.kinds[0]

    @property
    def head_size(self) -> int:
        """Numbers of a head, 0 without heads."""
        return self._query_width // self.heads if self.heads else 0

    @property
    def linear_flops_per_token(self) -> int:
        """Floating-point operations of all linear layers for one token (two per multiply-add)."""
        feed_forward_products = 3 if self.gated else 2
        key_width = self.width if self.key_width is None else self.key_width
        attention = 4 * self.width * (self._query_width + key_width)  # queries and output; keys and values
        feed_forward = 2 * feed_forward_products * self.width * self.intermediate
        return self.layers * (attention + feed_forward) + self.other_flops_per_token

    @property
    def attention_flops_per_token_pair(self) -> int:
        """Operations of all attention layers for one (query, key) pair: a sequence of t tokens has t * t of them."""
        return self.layers * 4 * self._query_width

    def operations(self, lengths: np.ndarray) -> int:
        """Operations of linear layers and attention for sequences of these many tokens."""
        tokens = lengths.astype(np.int64)
        attention = self.attention_flops_per_token_pair * int((tokens * tokens).sum())
        return self.linear_flops_per_token * int(tokens.sum()) + attention

    @property
    def parameters(self) -> int:
        """Numbers of its weights, about: those of linear layers and of the embedding table."""
        return self.linear_flops_per_token // 2 + self.vocabulary * self.width

    @property
    def _query_width(self) -> int:
        return self.width if self.query_width is None else self.query_width


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json. Raises WeightsError when it is absent or not a JSON object."""
    path = folder / "config.json"
    config = read_model_json(path)
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: is not a JSON object")
    return config


def encoder_shape(folder: Path) -> EncoderShape:
    """The shape that config.json describes, its family included.

    Raises WeightsError for what is no encoder that vpdist knows, or for a size out of range.
    """
    path = folder / "config.json"
    config = read_config(folder)
    family = family_of(path, config)
    shape: EncoderShape = resolve(family.shape)(path, config, family)
    if shape.width > WIDEST:
        raise WeightsError(f"{path}: hidden_size is {shape.width:,}, more than the limit of {WIDEST:,}")
    return shape


def transformer_shape(path: Path, config: Mapping[str, Any], family: EncoderFamily) -> EncoderShape:
    """The shape of a transformer by the usual names of its sizes. Raises WeightsError for a size out of range."""

    def size(name: str) -> int:
        return whole_number(path, config, name)

    shape = EncoderShape(
        family=family,
        layers=size("num_hidden_layers"),
        width=size("hidden_size"),
        heads=size("num_attention_heads"),
        intermediate=size("intermediate_size"),
        gated=family.gated,
        vocabulary=size("vocab_size"),
    )
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
