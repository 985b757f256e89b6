"""Tiny random models of the transformers library, saved as the library saves them, with a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PretrainedConfig, PreTrainedModel


def saved(
    folder: Path, model: type[PreTrainedModel], config: PretrainedConfig, *, seed: int = 5, spread: float = 0.3
) -> PreTrainedModel:
    """A random model, written to `folder` and returned. All parameters are random, norms near 1."""
    torch.manual_seed(seed)
    made = model(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            values = torch.empty_like(parameter).uniform_(-spread, spread, generator=generator)
            parameter.copy_(values + 1 if parameter.ndim == 1 and name.endswith("weight") else values)
    made.save_pretrained(folder)
    return made


def letters_tokenizer(folder: Path, vocabulary: list[str], first: str | None, last: str | None) -> None:
    """tokenizer.json: a token per letter, with one special token before and after, where there is one."""
    ids = {token: number for number, token in enumerate(vocabulary)}
    unknown = next(token for token in vocabulary if "unk" in token.lower())
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [token for token in (first, last) if token is not None]
    tokenizer.add_special_tokens(special)
    if special:
        template = " ".join(part for part in (first, "$A", last) if part is not None)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(token, ids[token]) for token in special]
        )
    tokenizer.save(str(folder / "tokenizer.json"))


def change_config(folder: Path, **values: Any) -> None:
    """Other values in config.json; those that are ... are left out."""
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
