"""Fragments to token ids by any tokenizer.json that is allowed (encoders.tokenizer_json).

Enter: nucleotide strings, or proteins, as ASCII bytes. Leave: token ids between the special tokens of the file, in the
number format of the encoder's kind. Proteins are truncated to 1,024 residues, and all to what the encoder takes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xxhash

from vpdist.encoder_kinds import EncoderKind
from vpdist.encoders.shape import encoder_shape
from vpdist.encoders.special_tokens import end_tokens
from vpdist.errors import WeightsError
from vpdist.ragged import Ragged
from vpdist.sequences.tokenizers import MAX_RESIDUES, STRINGS_PER_CALL, refuse_large_ids

LETTERS = {"nucleotide": "ACGT", "protein": "ACDEFGHIKLMNPQRSTVWY"}
"""What every tokenizer of a kind must know, by what the kind reads."""


class LibraryTokenizer:
    """The tokenizer.json of an encoder's folder.

    Letters are written with spaces between them where the tokenizer does not know them otherwise (as ProtBERT's and
    ProtT5's). Raises WeightsError without a usable file, for letters that it does not know, and for ids that are too
    large.
    """

    def __init__(self, folder: Path, kind: EncoderKind) -> None:
        ends = end_tokens(folder)
        self._tokenizer, self._token_type = ends.tokenizer, np.dtype(kind.token_type)
        self._first, self._last = (np.array(each, self._token_type) for each in (ends.first, ends.last))
        refuse_large_ids(ends.path, max(self._tokenizer.get_vocab().values()), kind)
        self._most_letters = MAX_RESIDUES if kind.reads == "protein" else None
        longest = encoder_shape(folder).longest
        self._most_tokens = None if longest is None else longest - len(ends.first) - len(ends.last)
        letters = LETTERS[kind.reads]
        knows = [separator for separator in ("", " ") if self._knows(separator.join(letters))]
        if not knows:
            raise WeightsError(f"{ends.path}: does not know all of the letters {letters}")
        self._separator = knows[0]
        rules = f"{kind.reads} {self._separator!r} {self._most_letters} {self._most_tokens}\0".encode()
        self.fingerprint = xxhash.xxh3_128_hexdigest(rules + ends.content)

    def _knows(self, text: str) -> bool:
        """Whether all of a text becomes tokens, none of them the one for what is unknown."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        covered = {place for a, b in encoding.offsets for place in range(a, b)}
        whole = covered >= {place for place, letter in enumerate(text) if letter != " "}
        return whole and not any(token in (unknown, "<unk>", "[UNK]") for token in encoding.tokens)

    def encode(self, texts: Ragged) -> Ragged:
        """Token ids of each text (ASCII, uint8)."""
        strings = [self._separator.join(text[: self._most_letters].decode("ascii")) for text in texts.strings()]
        pieces: list[np.ndarray] = []
        lengths = np.zeros(len(strings), np.int64)
        ends = len(self._first) + len(self._last)
        for start in range(0, len(strings), STRINGS_PER_CALL):
            some = strings[start : start + STRINGS_PER_CALL]
            encodings = self._tokenizer.encode_batch_fast(some, add_special_tokens=False)
            for row, encoding in enumerate(encodings):
                ids = np.array(encoding.ids[: self._most_tokens], self._token_type)
                pieces += (self._first, ids, self._last)
                lengths[start + row] = len(ids) + ends
        flat = np.concatenate(pieces) if pieces else np.zeros(0, self._token_type)
        return Ragged.from_lengths(flat, lengths)
