"""A tokenizer.json from elsewhere: what the tokenizers library may be told to do with a sequence.

Enters: the file's bytes. Leaves: the same description, with steps only that make no text longer and take no time out of
proportion. The library itself runs any: a Replace or Prepend of a few KB makes terabytes of tokens from one chunk, and
the pattern of a Split may be searched for without an end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vpdist.errors import WeightsError

NORMALIZERS = frozenset(
    {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Sequence", "Strip", "StripAccents"}
)
PRE_TOKENIZERS = frozenset(
    {"BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Sequence"}
    | {"UnicodeScripts", "Whitespace", "WhitespaceSplit"}
)
INNER = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
"""Where a Sequence has its steps."""
STEP_LETTERS = 1 << 13
"""Letters of a step's description at most. A template repeats its special tokens, each of which may be many ids."""
AFFIX_LETTERS = 16
"""Letters at most of what a model puts before or after every piece of a word."""


def checked(path: Path, content: bytes) -> str:
    """The description in a tokenizer.json, as it is to be given to the library: a key that was there twice has one
    value.

    Raises WeightsError for steps that are not in the lists above, and for a model that draws its tokens at random.
    """
    try:
        description = json.loads(content.decode())
        written = json.dumps(description)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is not a tokenizer that the tokenizers library reads: {error}") from error
    model = description.get("model") if isinstance(description, dict) else None
    if not isinstance(model, dict):
        raise WeightsError(f"{path}: is not a tokenizer: it has no model")
    for name in ("normalizer", "pre_tokenizer", "post_processor"):
        if len(json.dumps(description.get(name))) > STEP_LETTERS:
            raise WeightsError(f"{path}: refused: its {name} has more than {STEP_LETTERS:,} letters")
    _refuse_other_steps(path, "normalizer", description.get("normalizer"), NORMALIZERS)
    _refuse_other_steps(path, "pre_tokenizer", description.get("pre_tokenizer"), PRE_TOKENIZERS)
    if model.get("dropout"):
        raise WeightsError(f"{path}: refused: its model draws tokens at random (dropout)")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if isinstance(affix := model.get(name), str) and len(affix) > AFFIX_LETTERS:
            raise WeightsError(f"{path}: refused: its {name} has more than {AFFIX_LETTERS} letters")
    return written


def _refuse_other_steps(path: Path, kind: str, step: Any, known: frozenset[str]) -> None:
    """Raises WeightsError unless a step, and each that it is made of, is one of `known`."""
    if step is None:
        return
    name = step.get("type") if isinstance(step, dict) else None
    if not isinstance(name, str) or name not in known:
        raise WeightsError(f"{path}: refused: the {kind} {name!r} is none of {', '.join(sorted(known))}")
    if name == "Sequence":
        inner = step.get(INNER[kind])
        for each in inner if isinstance(inner, list) else [inner or {}]:
            _refuse_other_steps(path, kind, each, known)
