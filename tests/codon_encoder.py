"""A third kind of encoder, as small as one can be: a vector per codon. What it takes is in this file, its rows included.

    python -m tests.codon_encoder INPUT RUN CODON_MODEL|- PROTEIN_MODEL|-

computes a run in a process in which the table has this row.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vpdist.config import Settings
from vpdist.encoder_kinds import KINDS, EncoderKind
from vpdist.encoders import family as families
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
    reads="nucleotide",
    token_type="uint8",
    pooling="mean over codons",
)
CODON_VECTORS = families.EncoderFamily(
    name="codon vectors",
    kinds=(CODON.name,),
    matches=families.has_type("codon"),
    recognised_by="model_type 'codon'",
    shape="tests.codon_encoder:shape",
    tokenizer="tests.codon_encoder:CodonTokenizer",
    loader="tests.codon_encoder:load",
    special_per_end=1,
    not_pooled=1,
    token="codon",
)


class CodonTokenizer:
    def __init__(self, folder: Path, kind: EncoderKind) -> None:
        self.fingerprint = "codons"

    def encode(self, texts: Ragged) -> Ragged:
        sequences = []
        for text in texts.strings():
            codons = [CODONS.get(text[i : i + 3].decode(), OTHER) for i in range(0, len(text) - 2, 3)]
            sequences.append([BEGIN, *codons, END])
        flat = np.array([token for sequence in sequences for token in sequence], np.uint8)
        return Ragged.from_lengths(flat, [len(sequence) for sequence in sequences])


def shape(path: Path, config: Mapping[str, Any], family: families.EncoderFamily) -> shapes.EncoderShape:
    return shapes.EncoderShape(
        family=family,
        width=shapes.whole_number(path, config, "hidden_size"),
        vocabulary=shapes.whole_number(path, config, "vocab_size"),
    )


class CodonVectors(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.codons = nn.Embedding(vocabulary, width)

    def forward(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        return self.codons(tokens_T)


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    size = shapes.encoder_shape(folder)
    with torch.device("meta"):
        model = CodonVectors(size.vocabulary, size.width)
    wanted = {name: (name,) for name, _ in model.named_parameters()}
    return filled(model, weights.load_state_dict(folder), wanted, dtype, device, folder, re.compile("no other name"))


def write_codon_vectors(folder: Path) -> Path:
    folder.mkdir()
    config = {"model_type": "codon", "vocab_size": OTHER + 1, "hidden_size": WIDTH}
    (folder / "config.json").write_text(json.dumps(config))
    vectors = np.random.default_rng(0).normal(size=(OTHER + 1, WIDTH)).astype(np.float32)
    save_file({"codons.weight": torch.from_numpy(vectors)}, folder / "model.safetensors")
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class CodonSettings(Settings):
    codon_model: str | None = None


def main(source: str, run: str, *models: str) -> int:
    KINDS[CODON.name] = CODON
    families.FAMILIES[CODON_VECTORS.name] = CODON_VECTORS
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
