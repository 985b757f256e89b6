"""The model types that the transformers library computes for us: what is read of their config.json, and their cost.

Enters: a config.json. Leaves: the values for the library's configuration, all of them checked, and the encoder's shape.
A type is added here, with a test against the library's own class; no other is loaded. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpdist.encoders import shape as shapes
from vpdist.encoders.family import EncoderFamily
from vpdist.encoders.shape import EncoderShape
from vpdist.errors import WeightsError

Values = dict[str, Any]
ACTIVATIONS = ("gelu", "relu", "silu", "gelu_new", "gelu_pytorch_tanh")
THETA = (1.0, 1e12)
"""Least and most of the base of rotary frequencies."""
OF_BERT = {"hidden_size": 0, "num_hidden_layers": 0, "num_attention_heads": 0, "intermediate_size": 0, "vocab_size": 0}
"""Sizes by their usual names. Here and below 0 is the default of a size that must be given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeType:
    """One `model_type`."""

    configuration: str
    """Name of the library's class."""
    model: str
    """Name of the library's class of the encoder without heads."""
    sizes: Mapping[str, int]
    """Whole numbers that are read, with their defaults."""
    numbers: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """Other numbers: default, least, most."""
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values of which one is taken; the first is the default."""
    further: Callable[[Path, Mapping[str, Any], Values], Values] = lambda path, config, values: {}
    """What follows from several of them."""
    gated: bool = False
    prefixes: tuple[str, ...] = ()
    """What names of tensors may begin with that are the encoder's own."""
    unused: str
    """Tensors that embeddings do not need, as a pattern."""
    causal: bool = False
    """Whether a token sees only those before it; it is a decoder, whose cache is off."""


def values_of(path: Path, config: Mapping[str, Any]) -> Values:
    """The values for the library's configuration. Raises WeightsError for one out of range, or that is not computed."""
    known = TYPES[config["model_type"]]
    values: Values = {}
    for name, default in known.sizes.items():
        given = config if config.get(name) is not None or not default else {name: default}
        values[name] = shapes.whole_number(path, given, name)
    for name, (usual, least, most) in known.numbers.items():
        values[name] = shapes.real_number(path, config, name, usual, least, most)
    for name, choices in known.choices.items():
        values[name] = choices[0] if config.get(name) is None else config[name]
        if not any(type(values[name]) is type(choice) and values[name] == choice for choice in choices):
            raise WeightsError(f"{path}: {name} is {values[name]!r}, vpdist computes {', '.join(map(repr, choices))}")
    return values | known.further(path, config, values)


def native_shape(path: Path, config: Mapping[str, Any], family: EncoderFamily) -> EncoderShape:
    """The shape of such an encoder. Raises WeightsError."""
    known, values = TYPES[config["model_type"]], values_of(path, config)
    named = values | (_usual_names(values) if "d_model" in values else {})
    heads, width = named["num_attention_heads"], named["hidden_size"]
    if "head_dim" not in named and width % heads:
        raise WeightsError(f"{path}: hidden_size {width} is not a multiple of {heads} attention heads")
    if named["num_hidden_layers"] > shapes.MOST_LAYERS:
        raise WeightsError(f"{path}: has {named['num_hidden_layers']:,} layers, more than {shapes.MOST_LAYERS:,}")
    head_size = named.get("head_dim", width // heads)
    return EncoderShape(
        family=family,
        width=width,
        vocabulary=named["vocab_size"],
        layers=named["num_hidden_layers"],
        heads=heads,
        intermediate=named["intermediate_size"],
        gated=known.gated or values.get("feed_forward_proj", "").startswith("gated"),
        query_width=heads * head_size,
        key_width=named.get("num_key_value_heads", heads) * head_size,
        longest=_positions(values),
    )


def _positions(values: Values) -> int | None:
    """Most tokens of a sequence: a table of positions has an end. ESM's begins after the id of padding."""
    if "max_position_embeddings" not in values:
        return None
    longest: int = values["max_position_embeddings"]
    return longest - values["pad_token_id"] - 1 if "pad_token_id" in values else longest


def _usual_names(values: Values) -> Values:
    usual = {"d_model": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
    usual |= {"d_ff": "intermediate_size", "d_kv": "head_dim"}
    return {new: values[old] for old, new in usual.items()}


def _theta(path: Path, config: Mapping[str, Any], rope: Any, name: str, usual: float) -> float:
    """The base of rotary frequencies: in `rope`, or under `name` in config.json as older versions have it."""
    rope = {} if rope is None else rope
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise WeightsError(f"{path}: rotates by {rope!r}; vpdist computes the default rule only")
    if "rope_theta" in rope:
        return shapes.real_number(path, rope, "rope_theta", usual, *THETA)
    return shapes.real_number(path, config, name, usual, *THETA)


def _of_llama(path: Path, config: Mapping[str, Any], values: Values) -> Values:
    heads, width = values["num_attention_heads"], values["hidden_size"]
    sizes = {
        name: shapes.whole_number(path, config, name) if config.get(name) is not None else usual
        for name, usual in (("num_key_value_heads", heads), ("head_dim", width // heads))
    }
    if heads % sizes["num_key_value_heads"] or sizes["head_dim"] % 2 or not sizes["head_dim"]:
        raise WeightsError(
            f"{path}: {heads} attention heads of {sizes['head_dim']} numbers do not share "
            f"{sizes['num_key_value_heads']} keys evenly, or have no even width"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    theta = _theta(path, config, rope, "rope_theta", 10_000.0)
    return {**sizes, "rope_parameters": {"rope_type": "default", "rope_theta": theta}, "pad_token_id": None}


def _of_mistral(path: Path, config: Mapping[str, Any], values: Values) -> Values:
    window = config.get("sliding_window")
    near = None if window is None else shapes.whole_number(path, config, "sliding_window")
    usual = {} if config.get("num_key_value_heads") is not None else {"num_key_value_heads": 8}
    return {**_of_llama(path, {**config, **usual}, values), "sliding_window": near}


def _of_modernbert(path: Path, config: Mapping[str, Any], values: Values) -> Values:
    layers, width, heads = (values[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    if width % (2 * heads):
        raise WeightsError(f"{path}: hidden_size {width} gives {heads} attention heads no even width")
    every = shapes.whole_number(path, config, "global_attn_every_n_layers", 3)
    full, near = "full_attention", "sliding_attention"
    kinds = config.get("layer_types") or [near if layer % every else full for layer in range(min(layers, 1 << 10))]
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in (full, near) for kind in kinds):
        raise WeightsError(f"{path}: layer_types are not {layers} of {full}, {near}")
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise WeightsError(f"{path}: rope_parameters are {rope!r}, not an object")
    thetas = {
        full: _theta(path, config, rope.get(full), "global_rope_theta", 160_000.0),
        near: _theta(path, config, rope.get(near), "local_rope_theta", 10_000.0),
    }
    rotation = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()}
    ids = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
    return {"layer_types": kinds, "rope_parameters": rotation, **ids}


def _of_esm(path: Path, config: Mapping[str, Any], values: Values) -> Values:
    if values["max_position_embeddings"] < values["pad_token_id"] + 4:
        raise WeightsError(f"{path}: max_position_embeddings {values['max_position_embeddings']} leave no room")
    return {}


HEADS = r"cls\..*|lm_head\..*|pooler\..*|classifier\..*|score\..*|head\..*|decoder\..*|contact_head\..*"
DERIVED = r".*position_ids|.*token_type_ids|.*inv_freq|encoder\.embed_tokens\.weight"
UNUSED = f"{HEADS}|{DERIVED}"
OF_LLAMA: dict[str, Any] = {
    "sizes": OF_BERT,
    "numbers": {"rms_norm_eps": (1e-6, *shapes.EPS)},
    "gated": True,
    "prefixes": ("model.",),
    "unused": UNUSED,
    "causal": True,
}

TYPES: Mapping[str, NativeType] = {
    "bert": NativeType(
        configuration="BertConfig",
        model="BertModel",
        sizes={**OF_BERT, "max_position_embeddings": 512, "type_vocab_size": 2},
        numbers={"layer_norm_eps": (1e-12, *shapes.EPS)},
        choices={
            "hidden_act": ACTIVATIONS,
            "position_embedding_type": ("absolute",),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
        },
        prefixes=("bert.",),
        unused=UNUSED,
    ),
    "esm": NativeType(
        configuration="EsmConfig",
        model="EsmModel",
        sizes={**OF_BERT, "max_position_embeddings": 1026, "pad_token_id": 1, "mask_token_id": 32},
        numbers={"layer_norm_eps": (1e-12, *shapes.EPS)},
        choices={
            "position_embedding_type": ("absolute",),
            "emb_layer_norm_before": (False, True),
            "token_dropout": (False, True),
            "is_decoder": (False,),
            "is_folding_model": (False,),
        },
        further=_of_esm,
        prefixes=("esm.",),
        unused=UNUSED,
    ),
    "modernbert": NativeType(
        configuration="ModernBertConfig",
        model="ModernBertModel",
        sizes={**OF_BERT, "local_attention": 128},
        numbers={"norm_eps": (1e-5, *shapes.EPS)},
        choices={
            "hidden_activation": ACTIVATIONS,
            **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias"), (False, True)),
        },
        further=_of_modernbert,
        gated=True,
        prefixes=("model.",),
        unused=UNUSED,
    ),
    "llama": NativeType(
        configuration="LlamaConfig",
        model="LlamaModel",
        choices={"hidden_act": ("silu", *ACTIVATIONS), "attention_bias": (False, True), "mlp_bias": (False, True)},
        further=_of_llama,
        **OF_LLAMA,
    ),
    "mistral": NativeType(
        configuration="MistralConfig",
        model="MistralModel",
        choices={"hidden_act": ("silu", *ACTIVATIONS)},
        further=_of_mistral,
        **OF_LLAMA,
    ),
    "t5": NativeType(
        configuration="T5Config",
        model="T5EncoderModel",
        sizes={
            **dict.fromkeys(("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size"), 0),
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
        },
        numbers={"layer_norm_epsilon": (1e-6, *shapes.EPS)},
        choices={"feed_forward_proj": ("relu", "gelu", "gated-gelu", "gated-silu")},
        unused=rf"{UNUSED}|decoder\..*",
    ),
}
"""By `model_type`. `esm` with rotary positions is ESM-2, `esmc` is ESM C; both have families of their own."""
