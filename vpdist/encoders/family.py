"""The table of encoder families: which model a folder holds, told from its config.json, and how it is computed.

Enters: the content of a config.json. Leaves: the row of the model that it describes. A family serves one kind of
encoder or several (`encoder_kinds.KINDS`). Nothing here needs torch; rows refer to what does by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from vpdist.encoder_kinds import NUCLEOTIDE, PROTEIN
from vpdist.errors import WeightsError

Reference = str | Callable[..., Any]
"""`module:name` of a function or class, or the object itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFamily:
    """One family of encoders."""

    name: str
    """The model's own name."""
    kinds: tuple[str, ...]
    """Kinds of encoder that it may be, by name."""
    matches: Callable[[Mapping[str, Any]], bool]
    """Whether the content of a config.json is that of such a model; its values may be of any type."""
    recognised_by: str
    """By what, for a message."""
    shape: Reference = "vpdist.encoders.shape:transformer_shape"
    """(path of config.json, its content, this row) -> EncoderShape: sizes and cost. Imports no torch."""
    tokenizer: Reference
    """(folder, EncoderKind) -> its tokenizer for that kind; see sequences.tokenizers.FragmentTokenizer."""
    loader: Reference
    """(folder, dtype, device) -> nn.Module with `forward(tokens_T, packing)`: (T,) int32 ids of a packed batch and its
    layout (packing.Packing) -> (T, width) of the tokens or, where `pools` is given, (B, width) of the sequences.

    A sequence's vectors depend on that sequence and on the longest of the batch's lengths at most."""
    gated: bool = False
    """Whether the first product of its feed-forward layers has two halves (a gate and a value)."""
    attention_bias: bool = False
    """Whether its attention carries a bias, which the variable-length kernel does not support."""
    special_per_end: int = 0
    """Special tokens at either end of every sequence."""
    not_pooled: int = 0
    """Tokens at either end that are left out of the embedding, a mean over tokens."""
    token: str = "token"
    """What one of the other tokens represents."""
    pools: str = ""
    """The pooling in words, where the model itself pools; '' where its tokens' mean is the embedding."""
    has_weights: bool = True
    """Whether its folders hold weights (weights.weight_files); else all of it is in config.json and `files`."""
    files: tuple[str, ...] = ()
    """Further files of the folder that it reads, if they are there, besides weights.DESCRIPTION_FILES and weights."""
    fingerprint: str = ""
    """What its embeddings depend on besides the files: a text that enters the fingerprint of its folders. Of a plug-in
    that says nothing, its package and version."""
    plugin: str = ""
    """Name and version of the package that plugs it in; filled in when that is loaded."""
    pinned: Mapping[str, str] = field(default_factory=dict)
    """Commit of each public checkpoint, used unless `owner/name@revision` names another."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A child process takes its own row of this name: rules and references may be local functions."""
        return family_named, (self.name,)

    @property
    def pooling(self) -> str:
        """The pooling in words. Parts record it; those with another are redone."""
        if self.pools:
            return self.pools
        if self.not_pooled == 0:
            return "mean over all tokens"
        if self.not_pooled == self.special_per_end:
            return f"mean over {self.token}s"
        return f"mean over tokens but {self.not_pooled} at either end"

    @property
    def fewest_tokens(self) -> int:
        """The smallest length of a sequence in tokens, special ones included: one must be left to pool."""
        return max(1, 2 * self.special_per_end, 2 * self.not_pooled + 1)


def has_field(name: str) -> Callable[[Mapping[str, Any]], bool]:
    """A rule for `matches`: config.json has this field."""
    return lambda config: name in config


def has_type(model_type: str) -> Callable[[Mapping[str, Any]], bool]:
    """A rule for `matches`: config.json has this `model_type`."""
    return lambda config: bool(config.get("model_type") == model_type)


DNABERT_S = EncoderFamily(
    name="DNABERT-S",
    kinds=(NUCLEOTIDE.name,),
    matches=has_field("alibi_starting_size"),  # unique among the models of type 'bert'
    recognised_by="alibi_starting_size",
    tokenizer="vpdist.sequences.tokenizers:NucleotideTokenizer",
    loader="vpdist.encoders.dnabert_s:load",
    gated=True,
    attention_bias=True,
    special_per_end=1,
    not_pooled=0,  # the original counts [CLS] and [SEP]
    token="piece",
    pinned={"zhihan1996/DNABERT-S": "00e47f96cdea35e4b6f5df89e5419cbe47d490c6"},
)
ESM2 = EncoderFamily(
    name="ESM-2",
    kinds=(PROTEIN.name,),
    matches=lambda config: config.get("model_type") == "esm" and config.get("position_embedding_type") != "absolute",
    recognised_by="model_type 'esm'",
    tokenizer="vpdist.sequences.tokenizers:ProteinTokenizer",
    loader="vpdist.encoders.esm2:load",
    special_per_end=1,
    not_pooled=1,  # the original leaves <cls> and <eos> out
    token="residue",
    pinned={
        "facebook/esm2_t6_8M_UR50D": "c731040fcd8d73dceaa04b0a8e6329b345b0f5df",
        "facebook/esm2_t12_35M_UR50D": "6fbf070e65b0b7291e7bbcd451118c216cff79d8",
        "facebook/esm2_t30_150M_UR50D": "a695f6045e2e32885fa60af20c13cb35398ce30c",
        "facebook/esm2_t33_650M_UR50D": "08e4846e537177426273712802403f7ba8261b6c",
        "facebook/esm2_t36_3B_UR50D": "476b639933c8baad5ad09a60ac1a87f987b656fc",
        "facebook/esm2_t48_15B_UR50D": "5fbca39631164edc1d402a5aa369f982f72ee282",
    },
)
ESMC = EncoderFamily(
    name="ESM C",
    kinds=(PROTEIN.name,),
    matches=has_type("esmc"),
    recognised_by="model_type 'esmc'",
    tokenizer="vpdist.sequences.tokenizers:ProteinTokenizer",
    loader="vpdist.encoders.esmc:load",
    gated=True,
    special_per_end=1,
    not_pooled=1,
    token="residue",
)
NATIVE_TYPES = ("esm", "bert", "modernbert", "llama", "mistral", "t5")
"""Model types that the transformers library's own classes compute, where no other family matches."""
NATIVE = EncoderFamily(
    name="transformers",
    kinds=(NUCLEOTIDE.name, PROTEIN.name),
    matches=lambda config: config.get("model_type") in NATIVE_TYPES,
    recognised_by=f"model_type {', '.join(NATIVE_TYPES)}",
    shape="vpdist.encoders.native_types:native_shape",
    tokenizer="vpdist.sequences.library_tokenizer:LibraryTokenizer",
    loader="vpdist.encoders.native:load",
    attention_bias=True,  # T5 has one, others a mask of what comes later
    pools="mean over tokens but special ones",
)

FAMILIES = {family.name: family for family in (DNABERT_S, ESM2, ESMC)}
"""Those that are asked first, by name."""


GROUP = "vpdist.encoders"
"""Entry points of this group are rows of other packages."""


@cache
def plugged_in() -> Mapping[str, EncoderFamily]:
    """The rows that installed packages plug in, by name; their modules are imported at the first call.

    Raises WeightsError for one that cannot be loaded, is no EncoderFamily, or has the name of another.
    """
    found: dict[str, EncoderFamily] = {}
    for entry in entry_points(group=GROUP):
        package = "a package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
        here = f"the plug-in {entry.name} = {entry.value} of {package}"
        try:
            family = entry.load()
        except Exception as error:  # code of others may raise anything
            raise WeightsError(f"{here}: cannot be loaded: {error!r}") from error
        if not isinstance(family, EncoderFamily):
            raise WeightsError(f"{here}: is no vpdist.encoders.family.EncoderFamily")
        if family.name in {*FAMILIES, NATIVE.name, *found}:
            raise WeightsError(f"{here}: there is another encoder of the name {family.name!r}")
        found[family.name] = replace(family, plugin=package, fingerprint=family.fingerprint or package)
    return found


def family_named(name: str) -> EncoderFamily:
    """A row by its name. Raises KeyError, WeightsError."""
    if name in (*FAMILIES, NATIVE.name):
        return {**FAMILIES, NATIVE.name: NATIVE}[name]
    return plugged_in()[name]


def family_of(path: Path, config: Mapping[str, Any]) -> EncoderFamily:
    """The family of the model that the config.json `path` describes: one of FAMILIES, else one that is plugged in,
    else NATIVE. Raises WeightsError for none, or for several."""
    found = [family for family in FAMILIES.values() if family.matches(config)]
    if not found:
        found = [family for family in plugged_in().values() if family.matches(config)]
    if len(found) > 1:
        raise WeightsError(f"{path}: describes {' and '.join(family.name for family in found)} at once")
    if not found and NATIVE.matches(config):
        return NATIVE
    if not found:
        known = " nor ".join(
            f"{family.name} ({family.recognised_by})" for family in (*FAMILIES.values(), *plugged_in().values(), NATIVE)
        )
        raise WeightsError(f"{path}: describes neither {known}: model_type is {config.get('model_type')!r}")
    return found[0]
