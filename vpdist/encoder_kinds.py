"""The table of encoder kinds: what each reads, how its embeddings are pooled, which model computes them.

Datasets, attributes, counters and options are named after a kind. A further encoder is a file with its tokenizer and
its model, a row here, and the option that names its folder (`config.Settings`).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")

WIDEST = 1 << 15
"""Numbers of an embedding at most; the widest published encoder has 5,120."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderKind:
    """One kind of encoder."""

    name: str
    """What its dataset is called, and what `{name}_tokens`, `{name}_model` and `--{name}-model` begin with."""
    model: str
    """The model's own name."""
    recognised_by: str
    """The field of config.json that only this model has; with `=value` where the value identifies it."""
    reads: str
    """The string of a fragment that it reads: nucleotide or protein (fields of six_frames.Fragments)."""
    tokenizer: str
    """`module:class` of its tokenizer; see sequences.tokenizers.FragmentTokenizer."""
    token_type: str
    """Number format of its tokens (numpy's name)."""
    loader: str
    """`module:function` that loads the model of a folder; see encoder.load_encoder."""
    gated: bool
    """Whether the first product of its feed-forward layers has two halves (a gate and a value)."""
    attention_bias: bool
    """Whether its attention carries a bias, which the variable-length kernel does not support."""
    special_per_end: int = 1
    """Special tokens at either end of every sequence."""
    not_pooled: int
    """Tokens at either end that are left out of the embedding, a mean over tokens."""
    token: str
    """What one of the other tokens represents."""
    pinned: Mapping[str, str]
    """Commit of each public checkpoint, used unless `owner/name@revision` names another."""
    in_every_file: bool = False
    """Whether files name this kind in every run, also where it does not run. True for the method's own kinds; false for
    a row added later, so that files of runs without it stay the same."""

    @property
    def pooling(self) -> str:
        """The pooling in words, which follows from `not_pooled`. Parts record it; those with another are redone."""
        if self.not_pooled == 0:
            return "mean over all tokens"
        if self.not_pooled == self.special_per_end:
            return f"mean over {self.token}s"
        return f"mean over tokens but {self.not_pooled} at either end"

    @property
    def fewest_tokens(self) -> int:
        """The smallest length of a sequence in tokens, special ones included: one must be left to pool."""
        return max(2 * self.special_per_end, 2 * self.not_pooled + 1)

    @property
    def token_datasets(self) -> tuple[str, str]:
        """Names of the datasets with its tokens: the ids of all sequences, and the offsets."""
        return f"{self.name}_tokens", f"{self.name}_token_offsets"

    @property
    def option(self) -> str:
        return f"--{self.name}-model"

    @property
    def recognised_by_text(self) -> str:
        """`recognised_by` for a message."""
        field, _, value = self.recognised_by.partition("=")
        return f"{field} {value!r}" if value else field

    def is_described_by(self, config: Mapping[str, Any]) -> bool:
        """Whether a config.json is that of such a model."""
        field, _, value = self.recognised_by.partition("=")
        return config.get(field) == value if value else field in config


NUCLEOTIDE = EncoderKind(
    name="nucleotide",
    model="DNABERT-S",
    recognised_by="alibi_starting_size",  # unique among the models of type 'bert'
    reads="nucleotide",
    tokenizer="vpdist.sequences.tokenizers:NucleotideTokenizer",
    token_type="uint16",
    loader="vpdist.encoders.dnabert_s:load",
    gated=True,
    attention_bias=True,
    not_pooled=0,  # the original counts [CLS] and [SEP]
    token="piece",
    pinned={"zhihan1996/DNABERT-S": "00e47f96cdea35e4b6f5df89e5419cbe47d490c6"},
    in_every_file=True,
)
PROTEIN = EncoderKind(
    name="protein",
    model="ESM-2",
    recognised_by="model_type=esm",
    reads="protein",
    tokenizer="vpdist.sequences.tokenizers:ProteinTokenizer",
    token_type="uint8",
    loader="vpdist.encoders.esm2:load",
    gated=False,
    attention_bias=False,
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
    in_every_file=True,
)

KINDS = {kind.name: kind for kind in (NUCLEOTIDE, PROTEIN)}
"""By name. Their order is that in which they run and in which files list them."""

CLASSIFIED = (NUCLEOTIDE.name, PROTEIN.name)
"""The kinds whose embeddings the classifier takes, concatenated in this order (Li et al. 2025)."""


def options(names: Iterable[str]) -> str:
    """The options of some kinds, for a message."""
    return " and ".join(KINDS[name].option for name in names)


def in_files(by_kind: Mapping[str, Value], nothing: Value) -> dict[str, Value]:
    """A value for each kind that files name, in the table's order: `nothing` for those that do not run."""
    return {name: by_kind.get(name, nothing) for name, kind in KINDS.items() if kind.in_every_file or name in by_kind}


def pooling_text(names: Mapping[str, object]) -> str:
    """The pooling of every kind that the files of a run with these kinds name."""
    return "; ".join(f"{name}: {KINDS[name].pooling}" for name in in_files(names, None))


def resolve(reference: str) -> Any:
    """The object that a row's `module:name` refers to. Some modules import torch."""
    return pkgutil.resolve_name(reference)
