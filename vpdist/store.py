"""The token store: a run's records, chunks, fragments and their tokens, in blocks.

Enter: records. Leave: raw blocks (bases per chunk), cut by the one rank that reads, and token blocks made of them by
any rank. Where a block ends depends on the input and the chunk length only, never on ranks; a sequence may span blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash

from vpdist import hdf5
from vpdist.fragments import chunk_bounds, offsets_of, six_frames
from vpdist.hdf5 import DamagedFile
from vpdist.records import Record, read_records
from vpdist.tokens import NucleotideTokenizer, ProteinTokenizer

OK, TOO_SHORT, FILTERED = 0, 1, 2
STATUS_NAMES = ("ok", "too_short", "filtered")
"""Names of the statuses that reading decides; no_open_frame and failed are decided when tables are built."""

SHORTEST = 3
"""Bases in a codon: shorter sequences have no chunks."""

BLOCK_BASES = 1 << 22
BLOCK_CHUNKS = 1 << 14
BLOCK_RECORDS = 1 << 16
"""A block ends as soon as it holds so many bases, chunks or records, whichever comes first."""

_TEXTS = ("names", "descriptions")


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of texts: UTF-8 bytes one after the other, with offsets."""

    flat: np.ndarray
    """uint8."""
    offsets: np.ndarray
    """(n + 1,) int64."""

    @classmethod
    def pack(cls, texts: Sequence[str]) -> Texts:
        encoded = [text.encode() for text in texts]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets_of([len(text) for text in encoded]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[str]:
        return (text.decode() for text in _pieces(self.flat, self.offsets))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecords:
    """What both kinds of block know about the r records that begin in a block, and about its c chunks."""

    index: int
    """Number of the block, from 0."""
    chunk_length: int
    first_record: int
    """Number of records (of the whole input) that begin in earlier blocks."""
    names: Texts
    """(r,) as read; repeats are numbered by names.resolve_names."""
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
    """What the reading rank hands on."""

    bases: np.ndarray
    """uint8, the chunks' bases one after the other (upper-case ASCII)."""
    base_offsets: np.ndarray
    """(c + 1,) int64."""

    def digest(self) -> str:
        """xxh3_128 (hex) of everything in the block."""
        datasets, attributes = _content(self)
        digest = xxhash.xxh3_128(repr(attributes).encode())
        for name, array in datasets.items():
            digest.update(f"{name} {hdf5.array_digest(array)}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTable(BlockRecords):
    """Records, chunks and the f fragments of a block, in the order chunk, frame."""

    fragment_chunk: np.ndarray
    """(f,) int32, index into the block's chunks."""
    fragment_frame: np.ndarray
    """(f,) int8, index into fragments.FRAMES."""
    fragment_residues: np.ndarray
    """(f,) int32, length of the whole protein."""
    nucleotide_hash: np.ndarray
    """(f,) uint64, xxh3_64 of the nucleotide string."""
    protein_hash: np.ndarray
    """(f,) uint64, xxh3_64 of the whole protein."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBlock(BlockTable):
    """A block of the token store. Token arrays are None where the run has no such encoder."""

    raw_digest: str
    nucleotide_tokenizer: str
    """Fingerprint, empty where there is none."""
    protein_tokenizer: str
    """Fingerprint, empty where there is none."""
    nucleotide_tokens: np.ndarray | None
    """uint16, with [CLS] and [SEP], fragment after fragment."""
    nucleotide_token_offsets: np.ndarray | None
    """(f + 1,) int64."""
    protein_tokens: np.ndarray | None
    """uint8, with <cls> and <eos>, fragment after fragment."""
    protein_token_offsets: np.ndarray | None
    """(f + 1,) int64."""


Block = TypeVar("Block", bound=BlockRecords)


def read_blocks(paths: Sequence[Path], chunk_length: int, min_length: int = 0) -> Iterator[RawBlock]:
    """Read all files and cut them into blocks; memory for one record and one block.

    Records under 3 bases (too_short) and, of the others, those under `min_length` bases (filtered) have no chunks.
    No records, no blocks. Raises InputError.
    """
    source_of: dict[str, int] = {}
    for number, path in enumerate(paths):
        source_of.setdefault(str(path), number)
    block = _OpenBlock(0, chunk_length, 0)
    number = 0
    for record in read_records(paths):
        if block.is_full:
            yield block.close()
            block = _OpenBlock(block.index + 1, chunk_length, number)
        sequence, source = record.sequence, source_of[record.source]
        length = len(sequence)
        if length < SHORTEST or length < min_length:
            block.add_record(record, source, 0, TOO_SHORT if length < SHORTEST else FILTERED)
        elif length <= chunk_length:
            block.add_record(record, source, 1, OK)
            block.add_chunk(number, 0, 0, length, sequence)
        else:
            starts, ends = chunk_bounds(length, chunk_length)
            block.add_record(record, source, len(starts), OK)
            for k, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
                if block.is_full:
                    yield block.close()
                    block = _OpenBlock(block.index + 1, chunk_length, number + 1)
                block.add_chunk(number, k, start, end, sequence[start:end])
        number += 1  # noqa: SIM113 - enumerate would hold the record as well
        del record, sequence  # it may be a chromosome, and the next one is about to be read
    if not block.is_empty:
        yield block.close()


class _OpenBlock:
    """A block that is being filled."""

    def __init__(self, index: int, chunk_length: int, first_record: int) -> None:
        self.index, self._chunk_length, self._first_record = index, chunk_length, first_record
        self._names: list[str] = []
        self._descriptions: list[str] = []
        self._record_numbers: list[int] = []  # source, length, n_chunks, status of each record
        self._chunk_numbers: list[int] = []  # record, number, start, end of each chunk
        self._bases: list[bytes] = []
        self._n_bases = 0

    @property
    def is_full(self) -> bool:
        return self._n_bases >= BLOCK_BASES or len(self._bases) >= BLOCK_CHUNKS or len(self._names) >= BLOCK_RECORDS

    @property
    def is_empty(self) -> bool:
        return not self._names and not self._bases

    def add_record(self, record: Record, source: int, n_chunks: int, status: int) -> None:
        self._names.append(record.name)
        self._descriptions.append(record.description)
        self._record_numbers += (source, len(record.sequence), n_chunks, status)

    def add_chunk(self, record: int, number: int, start: int, end: int, bases: bytes) -> None:
        self._chunk_numbers += (record, number, start, end)
        self._bases.append(bases)
        self._n_bases += end - start

    def close(self) -> RawBlock:
        source, length, n_chunks, status = np.array(self._record_numbers, np.int64).reshape(-1, 4).T
        record, number, start, end = np.array(self._chunk_numbers, np.int64).reshape(-1, 4).T
        return RawBlock(
            index=self.index,
            chunk_length=self._chunk_length,
            first_record=self._first_record,
            names=Texts.pack(self._names),
            descriptions=Texts.pack(self._descriptions),
            sources=source.astype(np.uint32),
            lengths=length.copy(),
            n_chunks=n_chunks.copy(),
            statuses=status.astype(np.int8),
            chunk_record=record.copy(),
            chunk_number=number.astype(np.int32),
            chunk_start=start.copy(),
            chunk_end=end.copy(),
            bases=np.frombuffer(b"".join(self._bases), np.uint8),
            base_offsets=offsets_of([len(bases) for bases in self._bases]),
        )


def tokenise_block(
    raw: RawBlock, nucleotide_tokenizer: NucleotideTokenizer | None, protein_tokenizer: ProteinTokenizer | None
) -> TokenBlock:
    """Translate a raw block's chunks and tokenise the fragments; a pure function of its arguments."""
    found = six_frames(raw.bases, raw.base_offsets[:-1], raw.base_offsets[1:])
    nucleotides = list(_pieces(found.nucleotide, found.nucleotide_offsets))
    nucleotide_tokens = nucleotide_token_offsets = protein_tokens = protein_token_offsets = None
    if nucleotide_tokenizer is not None:
        nucleotide_tokens, nucleotide_token_offsets = nucleotide_tokenizer.encode(
            [nucleotide.decode("ascii") for nucleotide in nucleotides]
        )
    if protein_tokenizer is not None:
        protein_tokens, protein_token_offsets = protein_tokenizer.encode(found.protein, found.protein_offsets)
    return TokenBlock(
        **{field.name: getattr(raw, field.name) for field in fields(BlockRecords)},
        fragment_chunk=found.chunk,
        fragment_frame=found.frame,
        fragment_residues=found.residues,
        nucleotide_hash=_hashes(nucleotides),
        protein_hash=_hashes(_pieces(found.protein, found.protein_offsets)),
        raw_digest=raw.digest(),
        nucleotide_tokenizer=nucleotide_tokenizer.fingerprint if nucleotide_tokenizer is not None else "",
        protein_tokenizer=protein_tokenizer.fingerprint if protein_tokenizer is not None else "",
        nucleotide_tokens=nucleotide_tokens,
        nucleotide_token_offsets=nucleotide_token_offsets,
        protein_tokens=protein_tokens,
        protein_token_offsets=protein_token_offsets,
    )


def raw_path(folder: Path, index: int) -> Path:
    return folder / f"raw-{index:06d}.h5"


def block_path(folder: Path, index: int) -> Path:
    return folder / f"block-{index:06d}.h5"


def write_raw(path: Path, raw: RawBlock) -> int:
    """Write a raw block; returns its size in bytes. Raises StorageError."""
    datasets, attributes = _content(raw)
    return hdf5.write_atomic(path, datasets, attributes | {"digest": raw.digest()})


def read_raw(path: Path) -> RawBlock:
    """A raw block, its digests checked. Raises DamagedFile."""
    return _read(path, RawBlock)


def write_block(path: Path, block: TokenBlock) -> int:
    """Write a block of the token store; returns its size in bytes. Raises StorageError."""
    return hdf5.write_atomic(path, *_content(block))


def read_block(path: Path) -> TokenBlock:
    """A whole block of the token store, its digests checked. Raises DamagedFile."""
    return _read(path, TokenBlock)


def read_table(path: Path) -> BlockTable:
    """A block of the token store without its tokens, the digests of what is read checked. Raises DamagedFile."""
    return _read(path, BlockTable)


def block_is_valid(path: Path, raw_digest: str, nucleotide_tokenizer: str, protein_tokenizer: str) -> bool:
    """Whether `path` is an undamaged block made of that raw block by tokenizers with these fingerprints."""
    try:
        block = read_block(path)
    except DamagedFile:
        return False
    made_of = (block.raw_digest, block.nucleotide_tokenizer, block.protein_tokenizer)
    return made_of == (raw_digest, nucleotide_tokenizer, protein_tokenizer)


def _hashes(texts: Iterable[bytes]) -> np.ndarray:
    return np.fromiter((xxhash.xxh3_64_intdigest(text) for text in texts), np.uint64)


def _pieces(flat: np.ndarray, offsets: np.ndarray) -> Iterator[bytes]:
    content, bounds = flat.tobytes(), offsets.tolist()
    return (content[start:end] for start, end in pairwise(bounds))


def _content(block: BlockRecords) -> tuple[dict[str, np.ndarray], dict[str, str | int | float]]:
    """A block as the datasets and attributes of its file; a column of texts takes two datasets."""
    datasets: dict[str, np.ndarray] = {}
    attributes: dict[str, str | int | float] = {}
    for field in fields(block):
        value = getattr(block, field.name)
        if isinstance(value, Texts):
            datasets |= {field.name: value.flat, f"{field.name}_offsets": value.offsets}
        elif isinstance(value, np.ndarray):
            datasets[field.name] = value
        elif value is not None:
            attributes[field.name] = value
    return datasets, attributes


def _read(path: Path, kind: type[Block]) -> Block:
    values: dict[str, Any] = {}
    with hdf5.opened(path) as file:
        attributes = hdf5.attributes(file)
        for field in fields(kind):
            name = field.name
            if name in attributes:
                values[name] = attributes[name]
            elif name in _TEXTS:
                values[name] = Texts(hdf5.read(file, name), hdf5.read(file, f"{name}_offsets"))
            elif "_token" in name and not attributes[f"{name.split('_')[0]}_tokenizer"]:
                values[name] = None
            else:
                values[name] = hdf5.read(file, name)
    return kind(**values)
