"""Blocks of the token store: the columns of a block's records, chunks and fragments.

`is_sound` checks a block that was read from a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import xxhash

from vpdist.encoder_kinds import KINDS, in_files
from vpdist.ragged import Ragged
from vpdist.sequences.six_frames import FRAMES
from vpdist.storage import hdf5_files

OK, TOO_SHORT, FILTERED = 0, 1, 2
STATUS_NAMES = ("ok", "too_short", "filtered")
"""Names of the statuses known after reading; no_open_frame and failed follow when tables are built."""

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Texts(Ragged):
    """A column of texts, as UTF-8 bytes (uint8)."""

    @classmethod
    def pack(cls, texts: Sequence[str]) -> Texts:
        encoded = [text.encode() for text in texts]
        return cls.from_lengths(np.frombuffer(b"".join(encoded), np.uint8), [len(text) for text in encoded])

    def are_printable(self, n: int) -> bool:
        """Whether these are n texts in UTF-8 without control characters."""
        if self.flat.dtype != np.uint8 or not self.is_sound(n=n):
            return False
        try:
            text = self.flat.tobytes().decode()
        except UnicodeDecodeError:
            return False
        starts = self.offsets[:-1][self.offsets[:-1] < len(self.flat)]
        return not (_CONTROL.search(text) or (self.flat[starts] & 0xC0 == 0x80).any())

    def __iter__(self) -> Iterator[str]:
        return (text.decode() for text in self.strings())


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecords:
    """The columns of all blocks: for the r records that begin in the block, and for its c chunks."""

    index: int
    """Number of the block, from 0."""
    chunk_length: int
    first_record: int
    """Number of records (of the whole input) that begin in earlier blocks."""
    names: Texts
    """(r,) as read; unique_names.resolve_names numbers repeated ones."""
    descriptions: Texts
    sources: np.ndarray
    """(r,) uint32, index of the input file."""
    lengths: np.ndarray
    """(r,) int64, bases."""
    n_chunks: np.ndarray
    """(r,) int64, chunks of the record in all blocks."""
    statuses: np.ndarray
    """(r,) int8, index into STATUS_NAMES."""
    chunk_record: np.ndarray
    """(c,) int64, the chunk's record, counted over the whole input."""
    chunk_number: np.ndarray
    """(c,) int32, the chunk's number in its record, from 0."""
    chunk_start: np.ndarray
    """(c,) int64, on the sequence, 0-based."""
    chunk_end: np.ndarray
    """(c,) int64, exclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBlock(BlockRecords):
    """A block before translation, as the reading rank writes it for the others."""

    bases: Ragged
    """(c,) uint8, the chunks' bases (upper-case ASCII)."""

    def digest(self) -> str:
        """xxh3_128 (hex) of all columns and attributes."""
        datasets, attributes = content(self)
        digest = xxhash.xxh3_128(repr(attributes).encode())
        for name, array in datasets.items():
            digest.update(f"{name} {hdf5_files.array_digest(array)}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTable(BlockRecords):
    """Records, chunks and the f fragments of a block, in the order chunk, frame."""

    fragment_chunk: np.ndarray
    """(f,) int32, index into the block's chunks."""
    fragment_frame: np.ndarray
    """(f,) int8, index into six_frames.FRAMES."""
    fragment_residues: np.ndarray
    """(f,) int32, length of the whole protein."""
    nucleotide_hash: np.ndarray
    """(f,) uint64, xxh3_64 of the nucleotide string."""
    protein_hash: np.ndarray
    """(f,) uint64, xxh3_64 of the whole protein."""
    raw_digest: str
    """Digest of the raw block that it was made from."""
    tokenizers: dict[str, str]
    """Fingerprint of each encoder's tokenizer, by kind."""
    chunk_other_bases: np.ndarray | None = None
    """(c,) int32, letters of the chunk that are not A, C, G, T; None in stores of versions that did not count them."""
    chunk_low_complexity: np.ndarray | None = None
    """(c,) int32, bases of the chunk in windows of low complexity (plain_bases)."""


COUNTED_LATER = ("chunk_other_bases", "chunk_low_complexity")
"""Columns that stores of earlier versions lack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBlock(BlockTable):
    """A block of the token store, with the tokens of every encoder of the run."""

    tokens: dict[str, Ragged]
    """(f,) token ids of each kind, special tokens included."""


OFFSETS = {"names": "names_offsets", "descriptions": "descriptions_offsets", "bases": "base_offsets"}
"""The ragged columns, whose items are in the dataset of the column's name, and the dataset of each one's offsets."""


def content(block: BlockRecords) -> tuple[dict[str, np.ndarray], dict[str, str | int | float]]:
    """A block as the datasets and attributes of its file."""
    datasets: dict[str, np.ndarray] = {}
    attributes: dict[str, str | int | float] = {}
    for field in fields(block):
        value = getattr(block, field.name)
        if isinstance(value, Ragged):
            datasets |= {field.name: value.flat, OFFSETS[field.name]: value.offsets}
        elif isinstance(value, np.ndarray):
            datasets[field.name] = value
        elif not isinstance(value, dict) and value is not None:
            attributes[field.name] = value
    if isinstance(block, TokenBlock):
        attributes |= {f"{kind}_tokenizer": value for kind, value in in_files(block.tokenizers, "").items()}
        for kind, tokens in block.tokens.items():
            datasets |= zip(KINDS[kind].token_datasets, (tokens.flat, tokens.offsets), strict=True)
    return datasets, attributes


_TYPES = {
    "sources": np.uint32,
    "statuses": np.int8,
    "chunk_number": np.int32,
    "bases": np.uint8,
    **dict.fromkeys(COUNTED_LATER, np.int32),
    "fragment_chunk": np.int32,
    "fragment_frame": np.int8,
    "fragment_residues": np.int32,
    "nucleotide_hash": np.uint64,
    "protein_hash": np.uint64,
}
"""Number formats of columns; all others are int64."""
LONGEST_PROTEIN = 1 << 20
"""Residues, exclusive; a limit of the plan's sort key."""


def is_sound(block: BlockRecords) -> bool:
    """Whether a block from an untrusted file has matching columns and valid indices.

    References from one block to another (records, sources) are checked where tables are built.
    """
    return all(_checks(block))


def _checks(block: BlockRecords) -> Iterator[bool]:
    """In order: each check relies on those before it."""
    for field in fields(block):
        value = getattr(block, field.name)
        if field.type == "int":
            yield type(value) is int and 0 <= value < 1 << 48
        elif isinstance(value, np.ndarray):
            yield value.ndim == 1 and value.dtype == _TYPES.get(field.name, np.int64)
        elif isinstance(value, Texts):
            yield value.are_printable(len(block.lengths))
        elif isinstance(value, Ragged):
            yield value.flat.dtype == _TYPES[field.name]
    n_chunks = len(block.chunk_record)
    yield _fit(len(block.lengths), block.lengths, block.n_chunks, block.sources, block.statuses)
    yield _fit(n_chunks, block.chunk_record, block.chunk_number, block.chunk_start, block.chunk_end)
    yield _below(len(STATUS_NAMES), block.statuses)
    if isinstance(block, RawBlock):
        yield block.bases.is_sound(n=n_chunks)
    if isinstance(block, BlockTable):
        n = len(block.fragment_chunk)
        yield _fit(n, block.fragment_chunk, block.fragment_frame, block.fragment_residues)
        yield all(_fit(n_chunks, column) for name in COUNTED_LATER if (column := getattr(block, name)) is not None)
        yield len(block.nucleotide_hash) == len(block.protein_hash) == n
        yield _below(n_chunks, block.fragment_chunk) and _below(len(FRAMES), block.fragment_frame)
        yield _below(LONGEST_PROTEIN, block.fragment_residues)
    if isinstance(block, TokenBlock):
        for kind, tokens in block.tokens.items():
            yield tokens.flat.dtype == KINDS[kind].token_type and tokens.is_sound(n=n)


def _fit(n: int, *columns: np.ndarray) -> bool:
    """Whether columns have n numbers, none negative."""
    return all(len(column) == n and (n == 0 or int(column.min()) >= 0) for column in columns)


def _below(end: int, column: np.ndarray) -> bool:
    return len(column) == 0 or int(column.max()) < end
