"""The token store: blocks cut by the input alone, complete or absent files, and the parity set end to end."""

from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny_models import ESM2_VOCABULARY, nucleotide_tokenizer
from vpdist.errors import InputError
from vpdist.ragged import Ragged
from vpdist.sequences import blocks as block_module
from vpdist.sequences import token_store
from vpdist.sequences.blocks import BlockTable, RawBlock, Texts, TokenBlock
from vpdist.sequences.six_frames import FRAMES
from vpdist.sequences.tokenizers import FragmentTokenizer, NucleotideTokenizer, ProteinTokenizer
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile

Tokenizers = dict[str, FragmentTokenizer]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    folder = tmp_path_factory.mktemp("tokenizers")
    nucleotide_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(ESM2_VOCABULARY))
    return {"nucleotide": NucleotideTokenizer(folder), "protein": ProteinTokenizer(folder)}


def small_blocks(monkeypatch: pytest.MonkeyPatch, bases: int, chunks: int, records: int) -> None:
    monkeypatch.setattr(token_store, "BLOCK_BASES", bases)
    monkeypatch.setattr(token_store, "BLOCK_CHUNKS", chunks)
    monkeypatch.setattr(token_store, "BLOCK_RECORDS", records)


def write_fasta(path: Path, sequences: list[str]) -> Path:
    path.write_text("".join(f">s{i} number {i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    return path


def random_sequences(lengths: list[int], seed: int = 3) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), length)) for length in lengths]


def bases_of(block: RawBlock) -> Iterator[str]:
    return (bases.decode() for bases in block.bases.strings())


def assert_same(one: object, other: object, kind: type) -> None:
    """Equal in every field of the dataclass `kind`, arrays in dtype too."""
    for field in fields(kind):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, Texts):
            assert list(left) == list(right), field.name
        elif isinstance(left, Ragged):
            assert left.flat.dtype == right.flat.dtype, field.name
            assert np.array_equal(left.flat, right.flat), field.name
            assert np.array_equal(left.offsets, right.offsets), field.name
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            assert np.array_equal(left, right), field.name
        elif field.name == "tokens":
            assert left.keys() == right.keys()
            for encoder, tokens in left.items():
                assert tokens.flat.dtype == right[encoder].flat.dtype, encoder
                assert np.array_equal(tokens.flat, right[encoder].flat), encoder
                assert np.array_equal(tokens.offsets, right[encoder].offsets), encoder
        else:
            assert left == right, field.name


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    lengths=st.lists(st.integers(0, 120), max_size=12),
    chunk_length=st.integers(5, 40),
    min_length=st.sampled_from([0, 3, 30]),
    bases=st.integers(1, 300),
    chunks=st.integers(1, 12),
    records=st.integers(1, 6),
)
def test_blocks_hold_every_record_and_every_chunk_once_and_in_order(
    tmp_path: Path, lengths: list[int], chunk_length: int, min_length: int, bases: int, chunks: int, records: int
) -> None:
    sequences = random_sequences(lengths)
    path = write_fasta(tmp_path / "in.fa", sequences)
    unsplit = list(token_store.read_blocks([path], chunk_length, min_length))
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_blocks(monkeypatch, bases, chunks, records)
        blocks = list(token_store.read_blocks([path], chunk_length, min_length))
    if not lengths:
        assert unsplit == blocks == []
        return
    [whole] = unsplit
    assert [block.index for block in blocks] == list(range(len(blocks)))
    assert [name for block in blocks for name in block.names] == [f"s{i}" for i in range(len(lengths))]
    for name in (
        "sources",
        "lengths",
        "n_chunks",
        "statuses",
        "chunk_record",
        "chunk_number",
        "chunk_start",
        "chunk_end",
    ):
        joined = np.concatenate([getattr(block, name) for block in blocks])
        assert np.array_equal(joined, getattr(whole, name)), name
    assert [text for block in blocks for text in bases_of(block)] == [
        sequences[record][start:end]
        for record, start, end in zip(whole.chunk_record, whole.chunk_start, whole.chunk_end, strict=True)
    ]
    n_before = 0
    for block in blocks:
        assert block.first_record == n_before
        n_before += len(block.names)
        # full when it ended, and not a chunk or a record before
        full = (len(block.bases.flat) >= bases, len(block.chunk_record) >= chunks, len(block.names) >= records)
        assert any(full) or block is blocks[-1]
        assert len(block.chunk_record) <= chunks
        assert len(block.names) <= records
        assert len(block.bases.flat) < bases + chunk_length
    expected = [
        block_module.TOO_SHORT if n < 3 else block_module.FILTERED if n < min_length else block_module.OK
        for n in lengths
    ]
    assert whole.statuses.tolist() == expected
    assert np.array_equal(np.bincount(whole.chunk_record, minlength=len(lengths)), whole.n_chunks)
    assert ((whole.n_chunks > 0) == (whole.statuses == block_module.OK)).all()


def test_the_cut_follows_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, bases=100, chunks=4, records=3)
    path = write_fasta(tmp_path / "in.fa", random_sequences([20, 0, 0, 100, 10, 10, 10, 10, 95]))
    blocks = list(token_store.read_blocks([path], 20))
    assert [list(block.names) for block in blocks] == [["s0", "s1", "s2"], ["s3"], ["s4", "s5", "s6"], ["s7", "s8"], []]
    assert [block.chunk_record.tolist() for block in blocks] == [[0], [3, 3, 3, 3], [3, 4, 5, 6], [7, 8, 8, 8], [8, 8]]
    assert [block.chunk_number.tolist() for block in blocks] == [[0], [0, 1, 2, 3], [4, 0, 0, 0], [0, 0, 1, 2], [3, 4]]
    assert [block.first_record for block in blocks] == [0, 3, 4, 7, 9]


def test_an_empty_input_has_no_blocks_and_a_bad_one_raises(tmp_path: Path) -> None:
    empty, bad = tmp_path / "empty.fa", tmp_path / "bad.fa"
    empty.write_bytes(b"")
    bad.write_bytes(b">a\nMKVLE\n")
    assert list(token_store.read_blocks([empty], 500)) == []
    with pytest.raises(InputError, match=r"bad\.fa, record a, letter 4"):
        list(token_store.read_blocks([empty, bad], 500))


def peak_bytes(path: Path) -> int:
    """Python's largest memory while the blocks of a file pass by."""
    tracemalloc.start()
    try:
        deque(token_store.read_blocks([path], 500), maxlen=0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_reads_take_the_memory_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, bases=1 << 30, chunks=500, records=1 << 30)
    path = write_fasta(tmp_path / "reads.fa", random_sequences([100]) * 20_000)
    assert path.stat().st_size > 2_000_000
    assert peak_bytes(path) < 1_000_000


def test_chromosomes_take_the_memory_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, bases=10_000, chunks=500, records=500)
    one, three = tmp_path / "one.fa", tmp_path / "three.fa"
    lines = "\n".join(["ACGTTGCA" * 10] * 25_000)
    one.write_text(f">a\n{lines}\n")
    three.write_text(f">a\n{lines}\n>b\n{lines}\n>c\n{lines}\n")
    peak = peak_bytes(one)
    assert peak < 5 * 2_000_000  # bytes per base: 1.6 for dnaio's lines, 1 for its text, 1 for the record
    assert peak_bytes(three) < 1.1 * peak


def test_sources_say_which_file_a_record_is_from(tmp_path: Path) -> None:
    one = write_fasta(tmp_path / "one.fa", ["ACGT", "ACGT"])
    two = write_fasta(tmp_path / "two.fa", ["ACGT"])
    [block] = token_store.read_blocks([one, two], 500)
    assert block.sources.tolist() == [0, 0, 1]
    assert list(block.descriptions) == ["number 0", "number 1", "number 0"]


@pytest.fixture
def raw(tmp_path: Path) -> RawBlock:
    path = tmp_path / "in.fa"
    lengths = [0, 2, 3, 60, 1300]
    sequences = random_sequences(lengths)
    path.write_text(
        "".join(f">ß{i} é\n{s}\n" for i, s in enumerate(sequences)) + ">open\n" + "GCC" * 300 + "\n>gaps\n" + "N" * 50
    )
    [block] = token_store.read_blocks([path], 500)
    return block


def test_a_raw_block_comes_back_as_it_was_written(tmp_path: Path, raw: RawBlock) -> None:
    path = token_store.raw_path(tmp_path, 7)
    assert path.name == "raw-000007.h5"
    assert token_store.write_raw(path, raw) == path.stat().st_size
    assert_same(token_store.read_raw(path), raw, RawBlock)
    assert token_store.read_raw(path).digest() == raw.digest()


def test_the_digest_of_a_raw_block_follows_every_field(raw: RawBlock) -> None:
    moved = raw.bases.offsets.copy()
    moved[1] -= 1
    digests = {raw.digest(), replace(raw, bases=Ragged(raw.bases.flat, moved)).digest()}
    for field in fields(RawBlock):
        value = getattr(raw, field.name)
        other: Any
        if isinstance(value, Texts):
            other = Texts.pack([*list(value)[:-1], "changed"])
        elif isinstance(value, Ragged):
            other = Ragged(value.flat[::-1], value.offsets)
        elif isinstance(value, np.ndarray):
            other = value.copy()
            other[-1] += 1
        else:
            other = value + 1
        digests.add(replace(raw, **{field.name: other}).digest())
    assert len(digests) == 2 + len(fields(RawBlock))


def test_tokenising_is_pure_and_hashes_are_those_of_the_strings(raw: RawBlock, tokenizers: Tokenizers) -> None:
    block = token_store.tokenise_block(raw, tokenizers)
    assert_same(token_store.tokenise_block(raw, tokenizers), block, TokenBlock)
    assert_same(raw, block, block_module.BlockRecords)
    opened = [i for i, chunk in enumerate(block.fragment_chunk) if block.chunk_record[chunk] == 5]
    assert [FRAMES[block.fragment_frame[i]] for i in opened] == ["F1", "F2", "F3", "R1", "R2", "R3"] * 2
    first = opened[0]
    assert block.fragment_residues[first] == 166
    assert block.protein_hash[first] == xxhash.xxh3_64_intdigest(b"A" * 166)
    assert block.nucleotide_hash[first] == xxhash.xxh3_64_intdigest((b"GCC" * 167)[:499])
    text = Ragged.from_lengths(np.frombuffer((b"GCC" * 167)[:499], np.uint8), [499])
    plain = tokenizers["nucleotide"].encode(text)
    assert block.tokens["nucleotide"][first].tolist() == plain.flat.tolist()
    assert np.array_equal(block.tokens["protein"].lengths, block.fragment_residues + 2)


@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True), (False, False)])
def test_a_token_block_comes_back_as_it_was_written(
    tmp_path: Path, raw: RawBlock, tokenizers: Tokenizers, which: tuple[bool, bool]
) -> None:
    chosen = {kind: one for (kind, one), wanted in zip(tokenizers.items(), which, strict=True) if wanted}
    block = token_store.tokenise_block(raw, chosen)
    path = token_store.block_path(tmp_path, 0)
    token_store.write_block(path, block)
    assert path.name == "block-000000.h5"
    assert_same(token_store.read_block(path), block, TokenBlock)
    assert_same(token_store.read_table(path), block, BlockTable)
    with hdf5_files.opened(path) as file:
        assert ("nucleotide_tokens" in file, "protein_tokens" in file) == which
        for name in file:
            assert file[name].chunks is None  # contiguous, so that it can be mapped


def test_a_block_without_chunks_can_be_stored(tmp_path: Path, tokenizers: Tokenizers) -> None:
    path = tmp_path / "in.fa"
    path.write_text(">a\n>b\nAC\n")
    [raw] = token_store.read_blocks([path], 500)
    block = token_store.tokenise_block(raw, tokenizers)
    token_store.write_block(tmp_path / "block.h5", block)
    assert_same(token_store.read_block(tmp_path / "block.h5"), block, TokenBlock)
    assert len(block.fragment_chunk) == 0


def test_a_block_is_valid_only_for_its_raw_block_and_tokenizers(
    tmp_path: Path, raw: RawBlock, tokenizers: Tokenizers
) -> None:
    path = token_store.block_path(tmp_path, 0)
    made_by = {kind: tokenizer.fingerprint for kind, tokenizer in tokenizers.items()}
    assert not token_store.block_is_valid(path, raw.digest(), made_by)
    token_store.write_block(path, token_store.tokenise_block(raw, tokenizers))
    assert token_store.block_is_valid(path, raw.digest(), made_by)
    assert not token_store.block_is_valid(path, raw.digest(), {"nucleotide": made_by["nucleotide"]})
    assert not token_store.block_is_valid(path, raw.digest(), made_by | {"nucleotide": "other"})
    assert not token_store.block_is_valid(path, replace(raw, index=1).digest(), made_by)


def test_a_damaged_block_is_found(tmp_path: Path, raw: RawBlock, tokenizers: Tokenizers) -> None:
    path = token_store.block_path(tmp_path, 0)
    block = token_store.tokenise_block(raw, tokenizers)
    token_store.write_block(path, block)
    content = path.read_bytes()
    arguments = (raw.digest(), block.tokenizers)
    position = content.index(block.tokens["nucleotide"].flat.tobytes())
    for damaged in (content[:-100], content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :], b""):
        path.write_bytes(damaged)
        assert not token_store.block_is_valid(path, *arguments)
        with pytest.raises(DamagedFile, match=path.name):
            token_store.read_block(path)
    path.write_bytes(content)
    assert token_store.block_is_valid(path, *arguments)


def test_a_block_without_half_of_its_token_arrays_is_damaged(
    tmp_path: Path, raw: RawBlock, tokenizers: Tokenizers
) -> None:
    block = token_store.tokenise_block(raw, tokenizers)
    path = token_store.block_path(tmp_path, 0)
    token_store.write_block(path, replace(block, tokens={"protein": block.tokens["protein"]}))
    with pytest.raises(DamagedFile, match="nucleotide_tokens"):
        token_store.read_block(path)


@pytest.mark.parametrize("chunk_length", [300, 500])
def test_the_parity_set_passes_the_store_unchanged(
    shared: Path, chunk_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch, bases=30_000, chunks=100, records=50)
    stored = []
    names: list[str] = []
    for raw in token_store.read_blocks([shared / "parity" / "input.fa"], chunk_length):
        names += raw.names
        block = token_store.tokenise_block(raw, {})
        for chunk, frame, nucleotide, protein in zip(
            block.fragment_chunk, block.fragment_frame, block.nucleotide_hash, block.protein_hash, strict=True
        ):
            name, number = names[block.chunk_record[chunk]], block.chunk_number[chunk] + 1
            stored.append((f"{name}_chunk_{number}{FRAMES[frame]}", int(nucleotide), int(protein)))
    lines = (shared / "parity" / f"fragments.{chunk_length}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert stored == [
        (identifier, xxhash.xxh3_64_intdigest(nucleotide.encode()), xxhash.xxh3_64_intdigest(protein.encode()))
        for identifier, nucleotide, protein in (line.split("\t") for line in lines)
    ]
