"""What the checks work with: a device, a folder, sizes; encoders with random weights made on the device; contigs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from scripts.bench.encoders import fragment_lengths
from scripts.demo.make_models import describe_dnabert_s, describe_esm2, dnabert_s_shapes, esm2_shapes
from vpdist.commands.resolve_config import token_budget
from vpdist.encoders import weights
from vpdist.encoders.encoder import DTYPES, Encoder, choose_dtype, load_encoder
from vpdist.encoders.shape import EncoderShape, encoder_shape
from vpdist.planning.plan import batches
from vpdist.ragged import Ragged

BASES = "TCAG"
SENSE_CODONS = np.array(
    [
        list(codon.encode())
        for codon in (a + b + c for a in BASES for b in BASES for c in BASES)
        if codon not in ("TAA", "TAG", "TGA")
    ],
    dtype=np.uint8,
)
TRYPTOPHAN = b"TGG"


@dataclass(frozen=True, slots=True)
class Size:
    """An encoder's kind, layers and width."""

    kind: str
    layers: int
    width: int

    @property
    def name(self) -> str:
        return f"{'DNABERT-S' if self.kind == 'nucleotide' else 'ESM-2'} {self.layers}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large everything is that is measured."""

    nucleotide: Size = Size("nucleotide", 12, 768)
    proteins: tuple[Size, ...] = (Size("protein", 33, 1280), Size("protein", 36, 2560))
    """ESM-2 650M and 3B."""
    small: tuple[Size, Size] = (Size("nucleotide", 2, 768), Size("protein", 2, 480))
    """Encoders of the runs whose results are compared: of few layers, with heads of 64 and 24 numbers."""
    contigs: int = 200
    """Of the runs that are compared."""
    fragments: int = 6000
    """Of the runs that have to fill a device."""
    product: int = 8192
    """Rows and columns of the matrices whose product's rate is the ceiling."""
    operations: float = 2e14
    """Of one pass over fragments that is timed."""
    tokens: int | None = None
    """Of a batch; None: as `vpdist predict` chooses."""


TINY = Sizes(
    nucleotide=Size("nucleotide", 2, 48),
    proteins=(Size("protein", 2, 32), Size("protein", 3, 64)),
    small=(Size("nucleotide", 1, 48), Size("protein", 1, 32)),
    contigs=40,
    fragments=40,
    product=64,
    operations=1e7,
    tokens=512,
)
"""For a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a check is given."""

    device: torch.device
    work: Path
    """A folder for its files, which exists; other checks may have left theirs."""
    sizes: Sizes = Sizes()

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def memory(self) -> int | None:
        """Bytes of the device's memory, None on a CPU."""
        return int(torch.cuda.get_device_properties(self.device).total_memory) if self.on_cuda else None

    @property
    def dtype(self) -> str:
        """The number format that `--dtype auto` takes here."""
        return choose_dtype("auto", self.device)

    def budget(self, shape: EncoderShape, dtype: str) -> int:
        """Tokens of a batch."""
        return self.sizes.tokens or token_budget({shape.kind: shape}, dtype, self.memory, chunk_length=500)

    def encoder(self, size: Size, dtype: str) -> Encoder:
        """An encoder with random weights."""
        folder = described(size, self.work / "random" / size.name.replace(" ", "-"))
        with random_weights_on(self.device):
            return load_encoder(folder, size.kind, DTYPES[dtype], self.device)

    def batch(self, encoder: Encoder, lengths: np.ndarray | None = None) -> Ragged:
        """The fullest batch of random sequences, by default as long as fragments of 500 bases are."""
        budget = self.budget(encoder_shape(encoder.folder), str(encoder.dtype).removeprefix("torch."))
        rng = np.random.default_rng(0)
        if lengths is None:
            lengths = np.sort(fragment_lengths(encoder.kind, max(14, 3 * budget // 100), rng))
        rows = max(batches(lengths, budget), key=lambda rows: int(lengths[rows].sum()))
        return random_sequences(lengths[rows], rng)


def random_sequences(lengths: np.ndarray, rng: np.random.Generator) -> Ragged:
    """Sequences of these lengths, of tokens that both encoders have."""
    return Ragged.from_lengths(rng.integers(5, 24, int(lengths.sum())).astype(np.uint16), lengths)


def described(size: Size, folder: Path) -> Path:
    """The folder of an encoder that has all but its weights, in whose place is an empty file of weights."""
    if not (folder / "model.safetensors").exists():
        if size.kind == "nucleotide":
            describe_dnabert_s(folder, size.layers, size.width, np.random.default_rng(0))
        else:
            describe_esm2(folder, size.layers, size.width)
        save_file({"none": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@contextmanager
def random_weights_on(device: torch.device) -> Iterator[None]:
    """Meanwhile every encoder that is loaded gets random weights, which are made on the device and never on disk."""
    with mock.patch.object(weights, "load_state_dict", lambda folder: random_weights(folder, device)):
        yield


def random_weights(folder: Path, device: torch.device) -> dict[str, Tensor]:
    """Weights by their published names for the config.json in `folder`, float16 on `device`, at every call the same:
    matrices that keep their input's scale, norms near 1, biases near 0."""
    shape = encoder_shape(folder)
    shapes = (dnabert_s_shapes if shape.kind == "nucleotide" else esm2_shapes)(shape.layers, shape.width)
    generator = torch.Generator(device).manual_seed(zlib.crc32(json.dumps([shape.kind, shape.width]).encode()))
    state = {}
    for name, size in shapes:
        if name.endswith("inv_freq"):
            state[name] = 10_000.0 ** -(torch.arange(size[0], device=device) / size[0])
            continue
        values = torch.empty(size, device=device).normal_(generator=generator)
        if len(size) == 2:
            values /= size[1] ** 0.5
        else:
            values.mul_(0.05).add_(float(name.endswith(".weight")))
        state[name] = values.half()
    return state


def write_contigs(path: Path, lengths: np.ndarray, seed: int = 0, *, without_tryptophan: int = 0) -> Path:
    """A FASTA file of random codons, none of them a stop: every chunk that begins with a codon is a fragment.

    `lengths` are in bases; the first `without_tryptophan` contigs have no TGG in the frame in which they were written.
    """
    rng = np.random.default_rng(seed)
    allowed = SENSE_CODONS[[codon.tobytes() != TRYPTOPHAN for codon in SENSE_CODONS]]
    with open(path, "wb") as file:
        for number, length in enumerate(lengths.tolist()):
            codons = allowed if number < without_tryptophan else SENSE_CODONS
            bases = codons[rng.integers(0, len(codons), length // 3 + 1)].tobytes()[:length]
            file.write(b">contig_%06d\n%s\n" % (number, bases))
    return path


def with_layers(size: Size, layers: int) -> Size:
    return replace(size, layers=layers)
