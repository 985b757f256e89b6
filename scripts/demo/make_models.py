"""`python -m scripts.demo.make_models FOLDER`: make encoders with random weights, in the published layouts.

    python -m scripts.demo.make_models models --nucleotide 12x768 --protein 12x480        # full size, for benchmarks

Writes FOLDER/dnabert-s and FOLDER/esm-2. They are not trained: their embeddings are random projections of composition
and order. Weights come from numpy's generator, so the same seed gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from vpdist.encoders.shape import encoder_shape
from vpdist.results.classifier import Classifier, save_classifier

Shapes = Iterator[tuple[str, tuple[int, ...]]]

DNABERT_S_HEADS = 12
SPECIAL_TOKENS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
VOCABULARY = 4096
ESM2_TOKENS = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>"
ESM2_POSITIONS = 1026


def layers_and_width(text: str) -> tuple[int, int]:
    """'12x768' as (12, 768)."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not LAYERSxWIDTH, such as 12x768")
    return int(match[1]), int(match[2])


def esm2_heads(width: int) -> int:
    """Heads of the published sizes (20, or 40 from 2560 on); heads of 16 numbers for smaller ones."""
    return 40 if width >= 2560 else 20 if width >= 320 else width // 16


def dnabert_s_shapes(layers: int, width: int) -> Shapes:
    """Parameter names and shapes of the published checkpoint, which has no prefix."""
    yield "embeddings.word_embeddings.weight", (VOCABULARY, width)
    yield "embeddings.token_type_embeddings.weight", (2, width)
    yield from norm("embeddings.LayerNorm", width)
    for layer in (f"encoder.layer.{number}" for number in range(layers)):
        yield from linear(f"{layer}.attention.self.Wqkv", width, 3 * width)
        yield from linear(f"{layer}.attention.output.dense", width, width)
        yield from norm(f"{layer}.attention.output.LayerNorm", width)
        yield f"{layer}.mlp.gated_layers.weight", (8 * width, width)
        yield from linear(f"{layer}.mlp.wo", 4 * width, width)
        yield from norm(f"{layer}.mlp.layernorm", width)
    yield from linear("pooler.dense", width, width)


def esm2_shapes(layers: int, width: int) -> Shapes:
    """Parameter names and shapes of the published checkpoints: a masked-language model's, so with head and prefix."""
    yield "esm.embeddings.word_embeddings.weight", (len(ESM2_TOKENS.split()), width)
    yield "esm.embeddings.position_embeddings.weight", (ESM2_POSITIONS, width)
    for layer in (f"esm.encoder.layer.{number}" for number in range(layers)):
        yield from norm(f"{layer}.attention.LayerNorm", width)
        for part in ("query", "key", "value"):
            yield from linear(f"{layer}.attention.self.{part}", width, width)
        yield f"{layer}.attention.self.rotary_embeddings.inv_freq", (width // esm2_heads(width) // 2,)
        yield from linear(f"{layer}.attention.output.dense", width, width)
        yield from norm(f"{layer}.LayerNorm", width)
        yield from linear(f"{layer}.intermediate.dense", width, 4 * width)
        yield from linear(f"{layer}.output.dense", 4 * width, width)
    yield from norm("esm.encoder.emb_layer_norm_after", width)
    yield from linear("esm.contact_head.regression", layers * esm2_heads(width), 1)
    yield from linear("lm_head.dense", width, width)
    yield from norm("lm_head.layer_norm", width)
    yield "lm_head.bias", (len(ESM2_TOKENS.split()),)


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def random_weights(rng: np.random.Generator, shapes: Shapes) -> dict[str, torch.Tensor]:
    """Matrices that keep their input's scale, norms near 1, biases near 0."""
    weights = {}
    for name, shape in shapes:
        if name.endswith("inv_freq"):
            values = 10_000.0 ** -(np.arange(shape[0]) / shape[0])
        elif len(shape) == 2:
            values = rng.standard_normal(shape) / np.sqrt(shape[1])
        else:
            values = name.endswith(".weight") + 0.05 * rng.standard_normal(shape)
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def nucleotide_tokenizer(rng: np.random.Generator) -> Tokenizer:
    """Byte-pair encoding like DNABERT-S's, trained on random bases: tokens of about five bases."""
    strings = ["".join(bases) for bases in rng.choice(list("ACGT"), size=(1500, 300), p=(0.3, 0.2, 0.2, 0.3))]
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS, initial_alphabet=list("ACGTN"), show_progress=False
    )
    tokenizer.train_from_iterator(strings, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def describe_dnabert_s(folder: Path, layers: int, width: int, rng: np.random.Generator) -> None:
    """Write all files of the nucleotide encoder but its weights."""
    if width % DNABERT_S_HEADS:
        raise typer.BadParameter(f"DNABERT-S has {DNABERT_S_HEADS} heads: {width} is not divisible by that")
    folder.mkdir(parents=True, exist_ok=True)
    nucleotide_tokenizer(rng).save(str(folder / "tokenizer.json"), pretty=False)
    special = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    config = {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "alibi_starting_size": 512,
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": DNABERT_S_HEADS,
        "num_hidden_layers": layers,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "vocab_size": VOCABULARY,
    }
    write_json(folder / "config.json", config)


def make_dnabert_s(folder: Path, layers: int, width: int, seed: int, *, safetensors: bool) -> int:
    """Write the nucleotide encoder; returns its number of parameters."""
    rng = np.random.default_rng(seed)
    describe_dnabert_s(folder, layers, width, rng)
    weights = random_weights(rng, dnabert_s_shapes(layers, width))
    if safetensors:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return sum(weight.numel() for weight in weights.values())


def describe_esm2(folder: Path, layers: int, width: int) -> None:
    """Write all files of the protein encoder but its weights."""
    if width % esm2_heads(width) or width // esm2_heads(width) % 2:
        raise typer.BadParameter(f"ESM-2 of width {width}: {esm2_heads(width)} heads of even size do not fit")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(ESM2_TOKENS.split()))
    special = {"cls_token": "<cls>", "eos_token": "<eos>", "mask_token": "<mask>", "pad_token": "<pad>"}
    special["unk_token"] = "<unk>"
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "EsmTokenizer", **special})
    config = {
        "model_type": "esm",
        "architectures": ["EsmForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "emb_layer_norm_before": False,
        "esmfold_config": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,
        "is_folding_model": False,
        "layer_norm_eps": 1e-05,
        "mask_token_id": 32,
        "max_position_embeddings": ESM2_POSITIONS,
        "num_attention_heads": esm2_heads(width),
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_list": None,
        "vocab_size": len(ESM2_TOKENS.split()),
    }
    write_json(folder / "config.json", config)


def make_esm2(folder: Path, layers: int, width: int, seed: int) -> int:
    """Write the protein encoder; returns its number of parameters."""
    describe_esm2(folder, layers, width)
    weights = random_weights(np.random.default_rng(seed), esm2_shapes(layers, width))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(weight.numel() for weight in weights.values())


def make_classifier(path: Path, models: Path, hidden: int) -> Path:
    """Write a classifier with random weights for the encoders in `models`."""
    torch.manual_seed(0)
    width = sum(encoder_shape(models / name).width for name in ("dnabert-s", "esm-2"))
    save_classifier(Classifier(width, hidden).eval(), path, {"chunk_length": "500"})
    return path


def model_options(models: Path, classifier: Path) -> list[str]:
    """Options of `vpdist predict` for the encoders in `models` and a classifier."""
    encoders = ["--nucleotide-model", str(models / "dnabert-s"), "--protein-model", str(models / "esm-2")]
    return [*encoders, "--classifier", str(classifier)]


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def main(
    folder: Annotated[Path, typer.Argument(help="Folder to write dnabert-s and esm-2 to.")],
    nucleotide: Annotated[str, typer.Option(help="LAYERSxWIDTH of DNABERT-S; the published one has 12x768.")] = "3x96",
    protein: Annotated[str, typer.Option(help="LAYERSxWIDTH of ESM-2; published: 6x320 ... 36x2560.")] = "4x64",
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 2026,
    safetensors: Annotated[bool, typer.Option(help="DNABERT-S in safetensors too; published: .bin.")] = False,
) -> None:
    """Make encoders with random weights, in the published layouts of DNABERT-S and ESM-2."""
    nucleotide_size, protein_size = layers_and_width(nucleotide), layers_and_width(protein)
    sizes = {
        folder / "dnabert-s": make_dnabert_s(folder / "dnabert-s", *nucleotide_size, seed, safetensors=safetensors),
        folder / "esm-2": make_esm2(folder / "esm-2", *protein_size, seed + 1),
    }
    for path, parameters in sizes.items():
        print(f"{path}: {parameters:,} parameters, all random")


if __name__ == "__main__":
    typer.run(main)
