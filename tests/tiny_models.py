"""Tiny seeded models in the published layouts, for every test that needs weights.

Weights come from PCG64's raw bits, a stream that numpy keeps as it is, so that values computed from these models
hold on any machine and version. They are not trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from vpdist.config import Settings
from vpdist.results.classifier import Classifier, save_classifier

NUCLEOTIDE_WIDTH, PROTEIN_WIDTH = 48, 32

SPECIAL_TOKENS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]

ESM2_VOCABULARY = [
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
]


@dataclass(frozen=True, slots=True)
class TinyModels:
    """Encoders and a classifier for their embeddings."""

    nucleotide: Path
    protein: Path
    classifier: Path

    def settings(self, source: Path, output: Path, **changes: Any) -> Settings:
        """Of a run with these models: one thread, float32, no display."""
        settings = Settings(
            inputs=(str(source),),
            output=output,
            nucleotide_model=str(self.nucleotide),
            protein_model=str(self.protein),
            classifier=self.classifier,
            threads=1,
            dtype="float32",
            progress="none",
        )
        return replace(settings, **changes)


def write_models(folder: Path) -> TinyModels:
    """DNABERT-S, ESM-2 and a classifier for their embeddings, in `folder`."""
    return TinyModels(
        nucleotide=write_dnabert_s(folder / "dnabert_s"),
        protein=write_esm2(folder / "esm2"),
        classifier=write_classifier(folder / "classifier.safetensors"),
    )


class Draw:
    """Uniform random tensors from raw bits: `draw(*shape, spread)` lies in [-spread, spread)."""

    def __init__(self, seed: int) -> None:
        self.bits = np.random.PCG64(seed)

    def __call__(self, *shape: int, spread: float, centre: float = 0.0) -> torch.Tensor:
        raw = self.bits.random_raw(int(np.prod(shape)))
        unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return torch.from_numpy((centre + spread * (2 * unit - 1)).astype(np.float32).reshape(shape))

    def linear(self, name: str, outputs: int, inputs: int, *, bias: bool = True) -> dict[str, torch.Tensor]:
        weights = {f"{name}.weight": self(outputs, inputs, spread=1.5 * inputs**-0.5)}
        return weights | ({f"{name}.bias": self(outputs, spread=0.1)} if bias else {})

    def layer_norm(self, name: str, width: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": self(width, spread=0.2, centre=1.0), f"{name}.bias": self(width, spread=0.1)}


def write_dnabert_s(
    folder: Path,
    *,
    width: int = NUCLEOTIDE_WIDTH,
    layers: int = 2,
    heads: int = 6,
    intermediate: int = 96,
    seed: int = 1,
    prefix: str = "",
    safetensors: bool = False,
) -> Path:
    """A DNABERT-S folder: config.json, tokenizer.json, pytorch_model.bin (or model.safetensors). 6 heads are no power
    of two, as the public checkpoint's 12 are not. `prefix='bert.'` names weights as in checkpoints with a head."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = nucleotide_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "alibi_starting_size": 512,
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "layer_norm_eps": 1e-12,
        "model_type": "bert",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": tokenizer.get_vocab_size(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    state = dnabert_s_state(width, layers, intermediate, tokenizer.get_vocab_size(), Draw(seed))
    state = {prefix + name: tensor for name, tensor in state.items()}
    if safetensors:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    else:
        torch.save(state, folder / "pytorch_model.bin")
    return folder


def dnabert_s_state(width: int, layers: int, intermediate: int, vocabulary: int, draw: Draw) -> dict[str, torch.Tensor]:
    """Weights by DNABERT-S's published names, pooler included."""
    state = {
        "embeddings.word_embeddings.weight": draw(vocabulary, width, spread=1.0),
        "embeddings.token_type_embeddings.weight": draw(2, width, spread=0.5),
        **draw.layer_norm("embeddings.LayerNorm", width),
    }
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        state |= draw.linear(f"{name}.attention.self.Wqkv", 3 * width, width)
        state |= draw.linear(f"{name}.attention.output.dense", width, width)
        state |= draw.layer_norm(f"{name}.attention.output.LayerNorm", width)
        state |= draw.linear(f"{name}.mlp.gated_layers", 2 * intermediate, width, bias=False)
        state |= draw.linear(f"{name}.mlp.wo", width, intermediate)
        state |= draw.layer_norm(f"{name}.mlp.layernorm", width)
    return state | draw.linear("pooler.dense", width, width)


def nucleotide_tokenizer() -> Tokenizer:
    """A BPE tokenizer in DNABERT-S's layout: it merges all pairs of bases, and half of the pairs of pairs. Letters other
    than A, C, G, T, N become [UNK]."""
    bases = "ACGT"
    pairs = [a + b for a in bases for b in bases]
    merges = [(pair[0], pair[1]) for pair in pairs]
    merges += [(a, b) for i, a in enumerate(pairs) for j, b in enumerate(pairs) if (7 * i + 3 * j) % 2 == 0]
    words = [*SPECIAL_TOKENS, *bases, "N", *pairs, *(a + b for a, b in merges[len(pairs) :])]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def write_esm2(
    folder: Path,
    *,
    width: int = PROTEIN_WIDTH,
    layers: int = 2,
    heads: int = 2,
    intermediate: int = 64,
    seed: int = 2,
    masked_lm: bool = False,
) -> Path:
    """An ESM-2 folder: config.json, model.safetensors, vocab.txt, tokenizer_config.json. With `masked_lm` its weights
    are named as on the hub: `esm.` in front, a language-model head, rotary frequencies in every layer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["EsmForMaskedLM" if masked_lm else "EsmModel"],
        "attention_probs_dropout_prob": 0.0,
        "emb_layer_norm_before": False,
        "hidden_dropout_prob": 0.0,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "is_folding_model": False,
        "layer_norm_eps": 1e-05,
        "mask_token_id": 32,
        "max_position_embeddings": 1026,
        "model_type": "esm",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "vocab_size": len(ESM2_VOCABULARY),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "vocab.txt").write_text("\n".join(ESM2_VOCABULARY))
    special = {"cls_token": "<cls>", "eos_token": "<eos>", "mask_token": "<mask>", "pad_token": "<pad>"}
    tokenizer_config = {**special, "tokenizer_class": "EsmTokenizer", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2))
    state = esm2_state(width, layers, intermediate, Draw(seed))
    if masked_lm:
        state = _as_masked_lm(state, width, layers, heads)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def esm2_state(width: int, layers: int, intermediate: int, draw: Draw) -> dict[str, torch.Tensor]:
    """Weights by the names of the library's EsmModel, without its unused heads."""
    state = {"embeddings.word_embeddings.weight": draw(len(ESM2_VOCABULARY), width, spread=1.0)}
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            state |= draw.linear(f"{name}.attention.self.{part}", width, width)
        state |= draw.linear(f"{name}.attention.output.dense", width, width)
        state |= draw.layer_norm(f"{name}.attention.LayerNorm", width)
        state |= draw.linear(f"{name}.intermediate.dense", intermediate, width)
        state |= draw.linear(f"{name}.output.dense", width, intermediate)
        state |= draw.layer_norm(f"{name}.LayerNorm", width)
    return state | draw.layer_norm("encoder.emb_layer_norm_after", width)


def _as_masked_lm(state: dict[str, torch.Tensor], width: int, layers: int, heads: int) -> dict[str, torch.Tensor]:
    draw = Draw(99)
    named = {f"esm.{name}": tensor for name, tensor in state.items()}
    named["esm.embeddings.position_embeddings.weight"] = draw(1026, width, spread=1.0)
    named["esm.embeddings.position_ids"] = torch.arange(1026)[None]
    inv_freq = 1.0 / 10000 ** (torch.arange(0, width // heads, 2) / (width // heads))
    for layer in range(layers):
        named[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = inv_freq.clone()
    named |= draw.linear("esm.contact_head.regression", 1, layers * heads)
    named |= draw.linear("lm_head.dense", width, width)
    named |= draw.layer_norm("lm_head.layer_norm", width)
    return named | {"lm_head.bias": draw(len(ESM2_VOCABULARY), spread=0.1)}


def tiny_classifier(
    nucleotide_width: int = NUCLEOTIDE_WIDTH,
    protein_width: int = PROTEIN_WIDTH,
    *,
    hidden_width: int = 16,
    seed: int = 3,
) -> Classifier:
    """A classifier whose scores differ between fragments: about half of random fragments are called virus."""
    draw = Draw(seed)
    width = nucleotide_width + protein_width
    classifier = Classifier(width, hidden_width)
    state = {
        **draw.linear("hidden_layer", hidden_width, width),
        "bn1.weight": draw(hidden_width, spread=0.2, centre=1.0),
        "bn1.bias": draw(hidden_width, spread=0.1),
        "bn1.running_mean": draw(hidden_width, spread=0.3),
        "bn1.running_var": draw(hidden_width, spread=0.1, centre=0.4),
        **draw.linear("output_layer", 2, hidden_width),
    }
    classifier.load_state_dict(state, strict=False)  # all but the count of batches seen in training
    return classifier.eval()


def write_classifier(path: Path, **sizes: int) -> Path:
    """A safetensors file of `tiny_classifier(**sizes)`."""
    save_classifier(tiny_classifier(**sizes), path, {"chunk_length": "500"})
    return path
