"""Fragments to token ids, by the encoders' own tokenizers.

Enter: nucleotide strings, or proteins, as ASCII bytes. Leave: token ids, special tokens included: nucleotides as uint16
in [CLS] ... [SEP], never truncated; proteins as uint8 in <cls> ... <eos>, truncated to 1,024 residues.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash
from tokenizers import Tokenizer

from vpdist.encoder_kinds import KINDS, NUCLEOTIDE, PROTEIN, EncoderKind, resolve
from vpdist.encoders.shape import encoder_shape
from vpdist.encoders.special_tokens import usable
from vpdist.encoders.tokenizer_json import checked
from vpdist.errors import WeightsError
from vpdist.ragged import Ragged, offsets_of
from vpdist.storage.atomic_files import JSON_LIMIT
from vpdist.storage.lfs_pointer import model_content

MAX_RESIDUES = 1024
"""Residues of a protein that ESM-2 reads; the original method's limit."""

_EVERY_LETTER = "ACGTNRYSWKMBDHV-."
STRINGS_PER_CALL = 16
"""An encoding also keeps every token's text, 10 KB for 500 bases. Calls for 16 strings, freed while still in the cache,
take a fifth less time than calls for 4,096."""


class FragmentTokenizer(Protocol):
    """The tokenizer of one kind of encoder."""

    fingerprint: str
    """xxh3_128 (hex) of the file that defines it."""

    def encode(self, texts: Ragged) -> Ragged:
        """Token ids of each text (ASCII, uint8), in the number format of the encoder's kind; at least as many as the
        encoder's family needs (EncoderFamily.fewest_tokens)."""


def load_tokenizer(kind: str, folder: Path) -> FragmentTokenizer:
    """The tokenizer in the folder of an encoder. Raises WeightsError where its kind cannot use it."""
    tokenizer: FragmentTokenizer = resolve(encoder_shape(folder).family.tokenizer)(folder, KINDS[kind])
    return tokenizer


def refuse_large_ids(path: Path, largest: int, kind: EncoderKind) -> None:
    """Raises WeightsError where the tokenizer in `path` has ids that the tokens of a kind of encoder cannot hold."""
    if largest > (most := np.iinfo(kind.token_type).max):
        raise WeightsError(f"{path}: has token ids above {most}")


class NucleotideTokenizer:
    """The tokenizer of a DNABERT-S folder (tokenizer.json), with its truncation and padding off.

    Raises WeightsError when the folder has no usable tokenizer.json (see tokenizer_json.py), when it does not put its
    tokens between [CLS] and [SEP], or when its ids exceed the number format of the kind.
    """

    def __init__(self, folder: Path, kind: EncoderKind = NUCLEOTIDE) -> None:
        path = folder / "tokenizer.json"
        content = model_content(path, JSON_LIMIT)
        description = checked(path, content)
        with usable(path):
            self._tokenizer = Tokenizer.from_str(description)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            first, last = (self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
            ids = self._tokenizer.encode(_EVERY_LETTER).ids
            bare = self._tokenizer.encode(_EVERY_LETTER, add_special_tokens=False).ids
        if first is None or last is None or not bare or ids != [first, *bare, last]:
            raise WeightsError(f"{path}: does not put sequences between [CLS] and [SEP]")
        self._cls, self._sep = first, last
        refuse_large_ids(path, max(self._tokenizer.get_vocab().values()), kind)
        self._token_type = np.dtype(kind.token_type)
        self.fingerprint = xxhash.xxh3_128_hexdigest(content)

    def encode(self, texts: Ragged) -> Ragged:
        """Token ids of each nucleotide string (ASCII, uint8)."""
        pieces: list[np.ndarray] = []
        strings = [string.decode("ascii") for string in texts.strings()]
        lengths = np.zeros(len(strings), np.int64)
        for start in range(0, len(strings), STRINGS_PER_CALL):
            some = strings[start : start + STRINGS_PER_CALL]
            # the library would copy every encoding to add special tokens: 15 % of its time
            ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(some, add_special_tokens=False)]
            pieces.append(np.fromiter(chain.from_iterable(ids), self._token_type))
            lengths[start : start + len(ids)] = [len(one) for one in ids]
        flat = np.concatenate(pieces) if pieces else np.zeros(0, self._token_type)
        return _with_special_tokens(flat, lengths, self._cls, self._sep)


class ProteinTokenizer:
    """The tokenizer of an ESM-2 folder (vocab.txt, or tokenizer.json): one token per residue.

    Raises WeightsError when the folder has neither, when a special token is missing, or when ids exceed the number
    format of the kind.
    """

    def __init__(self, folder: Path, kind: EncoderKind = PROTEIN) -> None:
        path = folder / "vocab.txt"
        if not path.exists() and (folder / "tokenizer.json").exists():
            path = folder / "tokenizer.json"
        content = model_content(path, JSON_LIMIT)
        id_of = _vocabulary(path, content)
        missing = [token for token in ("<cls>", "<eos>", "<unk>", "A") if token not in id_of]
        if missing:
            raise WeightsError(f"{path}: is not an ESM-2 vocabulary: it lacks {', '.join(missing)}")
        if not all(isinstance(token, str) and type(number) is int and number >= 0 for token, number in id_of.items()):
            raise WeightsError(f"{path}: is not a vocabulary that vpdist reads: a token is no text, or an id no number")
        refuse_large_ids(path, max(id_of.values()), kind)
        self._cls, self._eos = id_of["<cls>"], id_of["<eos>"]
        self._id_of_letter = np.full(256, id_of["<unk>"], kind.token_type)
        for token, number in id_of.items():
            if len(token) == 1 and token.isascii():
                self._id_of_letter[ord(token)] = number
        self.fingerprint = xxhash.xxh3_128_hexdigest(content)

    def encode(self, texts: Ragged) -> Ragged:
        """Token ids of each protein (ASCII, uint8)."""
        residues, lengths = texts.flat, texts.lengths
        kept = np.minimum(lengths, MAX_RESIDUES)
        if (kept < lengths).any():
            begin = np.repeat(texts.offsets[:-1], lengths)
            residues = residues[np.arange(len(residues)) - begin < MAX_RESIDUES]
        return _with_special_tokens(self._id_of_letter[residues], kept, self._cls, self._eos)


def _with_special_tokens(flat: np.ndarray, lengths: np.ndarray, first: int, last: int) -> Ragged:
    """The ids of sequences of these lengths, `first` before and `last` after each."""
    offsets = offsets_of(lengths + 2)
    tokens = np.empty(offsets[-1], flat.dtype)
    is_inner = np.ones(len(tokens), bool)
    is_inner[offsets[:-1]] = is_inner[offsets[1:] - 1] = False
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = first, last
    tokens[is_inner] = flat
    return Ragged(tokens, offsets)


def _vocabulary(path: Path, content: bytes) -> dict[str, int]:
    try:
        if path.suffix == ".txt":
            return {token: number for number, token in enumerate(content.decode().split("\n")) if token}
        description = json.loads(content.decode())
        vocabulary = dict(description["model"]["vocab"])
        return vocabulary | {token["content"]: token["id"] for token in description.get("added_tokens", ())}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: is not a vocabulary that vpdist reads: {error!r}") from error
