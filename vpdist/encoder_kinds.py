"""The table of encoder kinds: what each reads, and what files, counters and options are named after.

A kind is a place in a run, filled by one encoder at most; which model that is, its folder tells (encoders.family). A
further kind is a row here, a model that serves it, and the option that names its folder (`config.Settings`).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
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
    reads: str
    """The string of a fragment that it reads: nucleotide or protein (fields of six_frames.Fragments)."""
    token_type: str
    """Number format of its tokens (numpy's name)."""
    pooling: str
    """Pooling of the method's own encoder, in words. Files name another one where it is used."""
    in_every_file: bool = False
    """Whether files name this kind in every run, also where it does not run. True for the method's own kinds; false for
    a row added later, so that files of runs without it stay the same."""

    @property
    def token_datasets(self) -> tuple[str, str]:
        """Names of the datasets with its tokens: the ids of all sequences, and the offsets."""
        return f"{self.name}_tokens", f"{self.name}_token_offsets"

    @property
    def option(self) -> str:
        return f"--{self.name}-model"


NUCLEOTIDE = EncoderKind(
    name="nucleotide",
    reads="nucleotide",
    token_type="uint16",
    pooling="mean over all tokens",
    in_every_file=True,
)
PROTEIN = EncoderKind(
    name="protein",
    reads="protein",
    token_type="uint8",
    pooling="mean over residues",
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


def pooling_text(names: Mapping[str, object], poolings: Mapping[str, str]) -> str:
    """The pooling of every kind that the files of a run with these kinds name; `poolings` has those that are not the
    method's own."""
    return "; ".join(f"{name}: {poolings.get(name, KINDS[name].pooling)}" for name in in_files(names, None))


def resolve(reference: str | Callable[..., Any]) -> Callable[..., Any]:
    """What a table's `module:name` refers to. Some modules import torch."""
    found: Callable[..., Any] = pkgutil.resolve_name(reference) if isinstance(reference, str) else reference
    return found
