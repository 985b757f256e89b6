"""The token store: a run's records, chunks, fragments and their tokens, in blocks.

Enter: records. Leave: raw blocks (bases per chunk), made by the one rank that reads, and token blocks made from them by
any rank. Where a block ends depends on the input and the chunk length only, never on ranks; a sequence may span blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import xxhash

from vpdist.encoder_kinds import KINDS, in_files
from vpdist.ragged import Ragged
from vpdist.sequences import plain_bases
from vpdist.sequences.blocks import (
    COUNTED_LATER,
    FILTERED,
    OFFSETS,
    OK,
    TOO_SHORT,
    BlockRecords,
    BlockTable,
    RawBlock,
    Texts,
    TokenBlock,
    content,
    is_sound,
)
from vpdist.sequences.input_report import InputReport
from vpdist.sequences.records import Record, read_records
from vpdist.sequences.six_frames import chunk_bounds, six_frames
from vpdist.sequences.tokenizers import FragmentTokenizer
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile

SHORTEST = 3
"""Bases in a codon: shorter sequences have no chunks."""

DATASET_BYTES = 1 << 28
"""Bytes of a dataset of a block at most: four times what one holds whose limits are these."""
BLOCK_BASES, BLOCK_CHUNKS, BLOCK_RECORDS, BLOCK_TEXT = 1 << 22, 1 << 14, 1 << 16, 1 << 24
"""A block ends as soon as it holds this many bases, chunks, records, or characters of names and descriptions."""

Block = TypeVar("Block", bound=BlockRecords)


def read_blocks(
    paths: Sequence[Path],
    chunk_length: int,
    min_length: int = 0,
    report: InputReport | None = None,
    *,
    replace_unknown: bool = False,
    opened: Callable[[BinaryIO], None] = lambda file: None,
    before: tuple[int, int, int] = (0, 0, 0),
) -> Iterator[RawBlock]:
    """Read all files into blocks, in memory for one record and one block. What must be told is added to `report`;
    `opened` is given each file. `before`: numbers of blocks, records and files that have been read before these.

    Records under 3 bases (too_short) and, of the others, those under `min_length` bases (filtered) have no chunks.
    An input without records has no blocks. Raises InputError.
    """
    first_block, number, first_source = before
    source_of: dict[str, int] = {}
    for source, path in enumerate(paths, first_source):
        source_of.setdefault(str(path), source)
    block = _OpenBlock(first_block, chunk_length, number)
    for record in read_records(paths, report, replace_unknown=replace_unknown, opened=opened):
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
        number += 1
        del record, sequence  # free the memory of a chromosome before the next one is read
    if not block.is_empty:
        yield block.close()


class _OpenBlock:
    """A raw block to which records and chunks are added."""

    def __init__(self, index: int, chunk_length: int, first_record: int) -> None:
        self.index, self._chunk_length, self._first_record = index, chunk_length, first_record
        self._names: list[str] = []
        self._descriptions: list[str] = []
        self._record_numbers: list[int] = []  # source, length, n_chunks, status of each record
        self._chunk_numbers: list[int] = []  # record, number, start, end of each chunk
        self._bases: list[bytes] = []
        self._n_bases = self._n_text = 0

    @property
    def is_full(self) -> bool:
        return (
            self._n_bases >= BLOCK_BASES
            or len(self._bases) >= BLOCK_CHUNKS
            or len(self._names) >= BLOCK_RECORDS
            or self._n_text >= BLOCK_TEXT
        )

    @property
    def is_empty(self) -> bool:
        return not self._names and not self._bases

    def add_record(self, record: Record, source: int, n_chunks: int, status: int) -> None:
        self._names.append(record.name)
        self._descriptions.append(record.description)
        self._n_text += len(record.name) + len(record.description)
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
            bases=Ragged.from_lengths(
                np.frombuffer(b"".join(self._bases), np.uint8), [len(bases) for bases in self._bases]
            ),
        )


def tokenise_block(raw: RawBlock, tokenizers: Mapping[str, FragmentTokenizer]) -> TokenBlock:
    """Translate a raw block's chunks and tokenise the fragments with the tokenizer of each kind of encoder."""
    frames = six_frames(raw.bases.flat, raw.bases.offsets[:-1], raw.bases.offsets[1:])
    return TokenBlock(
        **{field.name: getattr(raw, field.name) for field in fields(BlockRecords)},
        fragment_chunk=frames.chunk,
        fragment_frame=frames.frame,
        fragment_residues=frames.residues,
        nucleotide_hash=_hashes(frames.nucleotide.strings()),
        protein_hash=_hashes(frames.protein.strings()),
        raw_digest=raw.digest(),
        chunk_other_bases=plain_bases.other_bases(raw.bases),
        chunk_low_complexity=plain_bases.low_complexity_bases(raw.bases),
        tokenizers={kind: tokenizer.fingerprint for kind, tokenizer in tokenizers.items()},
        tokens={kind: tokenizer.encode(getattr(frames, KINDS[kind].reads)) for kind, tokenizer in tokenizers.items()},
    )


def raw_path(folder: Path, index: int) -> Path:
    return folder / f"raw-{index:06d}.h5"


def block_path(folder: Path, index: int) -> Path:
    return folder / f"block-{index:06d}.h5"


def write_raw(path: Path, raw: RawBlock) -> int:
    """Write a raw block, which only this run reads; returns its size in bytes. Raises StorageError."""
    datasets, attributes = content(raw)
    return hdf5_files.write_atomic(path, datasets, attributes | {"digest": raw.digest()}, durable=False)


def read_raw(path: Path) -> RawBlock:
    """A raw block, its digests checked. Raises DamagedFile."""
    return _read(path, RawBlock)


def write_block(path: Path, block: TokenBlock) -> int:
    """Write a block of the token store; returns its size in bytes. Raises StorageError."""
    return hdf5_files.write_atomic(path, *content(block))


def read_block(path: Path) -> TokenBlock:
    """A whole block of the token store, its digests checked. Raises DamagedFile."""
    return _read(path, TokenBlock)


def read_table(path: Path) -> BlockTable:
    """A block of the token store without its tokens, the digests of what is read checked. Raises DamagedFile."""
    return _read(path, BlockTable)


def raw_digest(path: Path) -> str:
    """What the block in `path` says it was made from. Raises DamagedFile."""
    with hdf5_files.opened(path) as file:
        digest = hdf5_files.attributes(file).get("raw_digest")
    if not isinstance(digest, str):
        raise DamagedFile(f"{path}: does not name the raw block that it was made from")
    return digest


def block_is_valid(path: Path, raw_digest: str, tokenizers: Mapping[str, str]) -> bool:
    """Whether `path` is an undamaged block made from that raw block by tokenizers with these fingerprints, by kind."""
    try:
        block = read_block(path)
    except DamagedFile:
        return False
    return (block.raw_digest, block.tokenizers) == (raw_digest, tokenizers)


def _hashes(texts: Iterable[bytes]) -> np.ndarray:
    return np.fromiter((xxhash.xxh3_64_intdigest(text) for text in texts), np.uint64)


def _read(path: Path, kind: type[Block]) -> Block:
    values: dict[str, Any] = {}
    read = functools.partial(hdf5_files.read, most_bytes=DATASET_BYTES)
    with hdf5_files.opened(path) as file:
        attributes = hdf5_files.attributes(file)
        for field in fields(kind):
            name = field.name
            if field.type in ("int", "str"):
                values[name] = attributes[name]
            elif name in COUNTED_LATER and not hdf5_files.has(file, name):
                continue
            elif name in OFFSETS:
                column = Texts if field.type == "Texts" else Ragged
                values[name] = column(read(file, name), read(file, OFFSETS[name]))
            elif name == "tokenizers":
                values[name] = _tokenizers(path, attributes)
            elif name == "tokens":
                values[name] = {
                    encoder: Ragged(*(read(file, dataset) for dataset in KINDS[encoder].token_datasets))
                    for encoder in values["tokenizers"]
                }
            else:
                values[name] = read(file, name)
        block = kind(**values)
        if not is_sound(block):
            raise DamagedFile(f"{path}: is not a valid block of a token store")
    return block


def _tokenizers(path: Path, attributes: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprint of each encoder's tokenizer, by kind, from a block's attributes. Raises DamagedFile."""
    fingerprints = {kind: attributes[f"{kind}_tokenizer"] for kind in KINDS if f"{kind}_tokenizer" in attributes}
    if missing := in_files({}, "").keys() - fingerprints.keys():
        raise DamagedFile(f"{path}: does not name the tokenizer of {', '.join(sorted(missing))}")
    return {kind: fingerprint for kind, fingerprint in fingerprints.items() if fingerprint}
