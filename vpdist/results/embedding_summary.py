"""What embeddings of the training side are like, and how far a row is from them: by this the unlike are told.

The summary is a Gaussian under probabilistic principal components (Tipping & Bishop 1999, J. R. Stat. Soc. B 61:611):
the directions of largest variance with a variance each, and one for all others. The distance is Mahalanobis's under it,
as Lee et al. (2018, NeurIPS) use it to tell inputs that a classifier has not been trained for. It is divided by the
threshold of the row's length: 1 is the limit, whatever the length. Short pieces vary more, so a common threshold
would call all of them unlike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import xxhash
from safetensors import SafetensorError

from vpdist.encoder_kinds import KINDS
from vpdist.errors import WeightsError
from vpdist.results.classifier import in_order
from vpdist.results.row_lengths import class_of_bases
from vpdist.storage.atomic_files import read_limited, write_file

FORMAT = "vpdist-summary-1"
FILE_LIMIT = 1 << 26
"""Most bytes of the file: 256 directions of 32,768 numbers are 32 MiB."""
UNLIKE = 1.0
"""Distances above this are out of distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSummary:
    """Of embeddings of d numbers, all encoders side by side: k directions, c classes of lengths. Arrays are float32 but
    for `begins`."""

    kinds: tuple[str, ...]
    """Of the encoders, in the order of concatenation."""
    mean: np.ndarray
    """(d,)"""
    scale: np.ndarray
    """(d,) standard deviations, by which each number is divided first."""
    directions: np.ndarray
    """(k, d), orthonormal."""
    variances: np.ndarray
    """(k,) along each of them."""
    noise: np.ndarray
    """(1,) variance along every other direction."""
    begins: np.ndarray
    """(c,) int32, ascending: bases of the shortest chunk of each class."""
    thresholds: np.ndarray
    """(c,) distance that is the limit in each class; NaN where nothing is known of it."""

    @property
    def fingerprint(self) -> str:
        """xxh3_128 (hex) of kinds and arrays."""
        digest = xxhash.xxh3_128(",".join(self.kinds).encode())
        for name, array in self.arrays().items():
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "kinds"}

    def distances(self, embedded: Mapping[str, np.ndarray]) -> np.ndarray:
        """(m,) float32: of embeddings (m, d) by kind, per number, not yet divided by a threshold. NaN for rows that are
        not finite. Raises WeightsError for other widths."""
        rows = np.concatenate([embedded[kind].astype(np.float32) for kind in self.kinds], axis=1)
        if rows.shape[1] != len(self.mean):
            raise WeightsError(f"the summary is of {len(self.mean)} numbers, the encoders give {rows.shape[1]}")
        with torch.inference_mode():
            apart = (torch.from_numpy(rows) - torch.from_numpy(self.mean)) / torch.from_numpy(self.scale)
            along = apart @ torch.from_numpy(self.directions).T
            inside = (along.square() / torch.from_numpy(self.variances)).sum(dim=1)
            left = (apart.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0)
            found = ((inside + left / float(self.noise[0])) / len(self.mean)).sqrt().numpy()
        found[~np.isfinite(rows).all(axis=1)] = np.nan
        return found

    def relative(self, embedded: Mapping[str, np.ndarray], bases: np.ndarray) -> np.ndarray:
        """(m,) float32 distances over the threshold of their length: UNLIKE is the limit. NaN where that is not known.
        `bases`: (m,) of the rows' nucleotide strings."""
        return self.distances(embedded) / self.thresholds[class_of_bases(self.begins, bases)]


def save_summary(summary: EmbeddingSummary, path: Path) -> None:
    """Write it as safetensors, the same bytes for the same summary. Raises StorageError."""
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in summary.arrays().items()}
    metadata = {"format": FORMAT, "kinds": ",".join(summary.kinds)}
    write_file(path, in_order(safetensors.torch.save(tensors, metadata)))


def load_summary(path: Path) -> EmbeddingSummary:
    """The summary in `path`. Raises WeightsError for anything else, and for shapes or values that do not fit."""
    try:
        content = read_limited(path, FILE_LIMIT, follow=True)
        tensors = safetensors.torch.load(content)
        described = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        kinds = tuple(str(described["kinds"]).split(","))
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        if described["format"] != FORMAT or kinds != tuple(kind for kind in KINDS if kind in kinds):
            raise ValueError(f"its format is not {FORMAT}, or its encoders are not known")
        summary = EmbeddingSummary(kinds=kinds, **arrays)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as a summary of embeddings: {error}") from error
    if reason := _unsound(summary):
        raise WeightsError(f"{path}: cannot be read as a summary of embeddings: {reason}")
    return summary


def _unsound(summary: EmbeddingSummary) -> str | None:
    """What is wrong with a summary from an untrusted file."""
    d, k, c = summary.mean.size, summary.variances.size, summary.begins.size
    shapes = {"mean": (d,), "scale": (d,), "directions": (k, d), "variances": (k,), "noise": (1,)}
    shapes |= {"begins": (c,), "thresholds": (c,)}
    for name, array in summary.arrays().items():
        if array.dtype != (np.int32 if name == "begins" else np.float32) or array.shape != shapes[name]:
            return f"{name} is {array.dtype} {array.shape}"
        if name != "thresholds" and not np.isfinite(array).all():
            return f"{name} has values that are not finite"
    positive = (summary.scale, summary.variances, summary.noise, summary.thresholds[~np.isnan(summary.thresholds)])
    if any((array <= 0).any() for array in positive) or not c or (np.diff(summary.begins) <= 0).any():
        return "a variance or a threshold is not above 0, or its classes do not ascend"
    return None
