"""A third kind of encoder, as small as one can be: a vector per codon. What it takes is in this file, its row included.

    python -m tests.codon_encoder INPUT RUN CODON_MODEL|- PROTEIN_MODEL|-

computes a run in a process in which the table has this row.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vpdist.config import Settings
from vpdist.encoder_kinds import KINDS, EncoderKind
from vpdist.encoders import shape as shapes
from vpdist.encoders import weights
from vpdist.encoders.checkpoint import filled
from vpdist.encoders.packing import Packing
from vpdist.ragged import Ragged

CODONS = {"".join(bases): number for number, bases in enumerate(product("ACGT", repeat=3))}
BEGIN, END, OTHER = 64, 65, 66
WIDTH = 12

CODON = EncoderKind(
    name="codon",
    model="codon vectors",
    recognised_by="model_type=codon",
    reads="nucleotide",
    tokenizer="tests.codon_encoder:CodonTokenizer",
    token_type="uint8",
    loader="tests.codon_encoder:load",
    gated=False,
    attention_bias=False,
    not_pooled=1,
    token="codon",
    pinned={},
)


class CodonTokenizer:
    def __init__(self, folder: Path) -> None:
        self.fingerprint = "codons"

    def encode(self, texts: Ragged) -> Ragged:
        sequences = []
        for text in texts.strings():
            codons = [CODONS.get(text[i : i + 3].decode(), OTHER) for i in range(0, len(text) - 2, 3)]
            sequences.append([BEGIN, *codons, END])
        flat = np.array([token for sequence in sequences for token in sequence], np.uint8)
        return Ragged.from_lengths(flat, [len(sequence) for sequence in sequences])


class CodonVectors(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.codons = nn.Embedding(vocabulary, width)

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        return self.codons(tokens_T)


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    shape = shapes.encoder_shape(folder)
    with torch.device("meta"):
        model = CodonVectors(shape.vocabulary, shape.width)
    wanted = {name: (name,) for name, _ in model.named_parameters()}
    return filled(model, weights.load_state_dict(folder), wanted, dtype, device, folder, re.compile("no other name"))


def write_codon_vectors(folder: Path) -> Path:
    folder.mkdir()
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 1}
    (folder / "config.json").write_text(json.dumps({"model_type": "codon", "vocab_size": OTHER + 1, **sizes}))
    vectors = np.random.default_rng(0).normal(size=(OTHER + 1, WIDTH)).astype(np.float32)
    save_file({"codons.weight": torch.from_numpy(vectors)}, folder / "model.safetensors")
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class CodonSettings(Settings):
    codon_model: str | None = None


def main(source: str, run: str, *models: str) -> int:
    KINDS[CODON.name] = CODON
    from vpdist.commands.predict import predict  # the modules that ask the table what counters there are come only now
    from vpdist.commands.verify import verify

    codon_model, protein_model = (None if model == "-" else model for model in models)
    settings = CodonSettings(
        inputs=(source,),
        output=Path(run),
        codon_model=codon_model,
        protein_model=protein_model,
        threads=1,
        progress="none",
        dtype="float32",
    )
    code = predict(settings)
    print(*verify(settings.output), sep="\n", end="")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
