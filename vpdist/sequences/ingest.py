"""Reads to token store: rank 0 reads the input once and writes raw blocks, all ranks translate and tokenise them.

Reading takes about 5 µs a record, tokenising 120 µs a fragment, so one reader feeds dozens of ranks, and an input that
cannot be split (gz, standard input) is no special case. A block does not depend on the rank that computes it.
store.json is written last and makes the store complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import BinaryIO

import numpy as np

from vpdist.errors import StorageError
from vpdist.sequences import token_store
from vpdist.sequences.blocks import OFFSETS, Texts
from vpdist.sequences.input_files import call_while_waiting, input_size
from vpdist.sequences.input_report import InputReport
from vpdist.sequences.store_summary import (
    StoreSummary,
    block_paths,
    check_digest,
    load_summary,
    names_key,
    new_names,
    store_digest,
)
from vpdist.sequences.tokenizers import FragmentTokenizer
from vpdist.sequences.unique_names import name_hashes, resolve_names
from vpdist.session.coordination import Control
from vpdist.storage import hdf5_files
from vpdist.storage.atomic_files import write_json
from vpdist.storage.run_folder import RunFolder
from vpdist.urls import InputPath, Url

logger = logging.getLogger(__name__)

READ, TOTAL, KEPT, DONE = "ingest/read", "ingest/total", "ingest/kept", "ingest/done"
"""Keys: blocks read so far, blocks in all once that is known; of each block whether it was kept, or is done."""


def _is_complete(folder: RunFolder, provenance_key: str) -> bool:
    """Whether undamaged store.json and names.h5 with this provenance key exist, and the blocks that they belong to."""
    summary = load_summary(folder, provenance_key)
    if summary is None:
        return False
    try:
        check_digest(folder, summary)
        new_names(folder, summary)
    except hdf5_files.DamagedFile as error:
        logger.warning("the token store is not reused: %s", error)
        return False
    return True


def reuse_existing(control: Control, folder: RunFolder, provenance_key: str) -> StoreSummary | None:
    """The token store of an earlier run, if it has this provenance key and every block is valid; else None.

    Raises StorageError when this rank cannot read the store.json that rank 0 has read.
    """
    if control.broadcast_from_rank_0("store/have", lambda: str(_is_complete(folder, provenance_key))) == "False":
        return None
    summary = load_summary(folder, provenance_key)
    if summary is None:
        raise StorageError(f"{folder.store}: rank {control.runtime.rank} reads another version of it than rank 0")
    paths = block_paths(folder, summary)

    def validate(block: int) -> None:
        try:
            token_store.read_block(paths[block])
        except hdf5_files.DamagedFile as error:
            logger.warning("the token store is not reused: %s", error)
            control.runtime.keys.add("store/bad")

    control.share_dynamically("store/check", len(paths), validate)
    return summary if control.runtime.keys.add("store/bad", 0) == 0 else None


def ingest(
    control: Control,
    folder: RunFolder,
    paths: Sequence[InputPath],
    provenance_key: str,
    *,
    chunk_length: int,
    min_length: int,
    tokenizers: Mapping[str, FragmentTokenizer],
    replace_unknown: bool = False,
    refuse_changed_input: Callable[[], None] = lambda: None,
) -> StoreSummary:
    """Fill the token store with all ranks. Valid blocks of an earlier run of the same input are kept.
    `refuse_changed_input` is called on rank 0 when all input is read.

    Raises InputError naming file, record and position, and StorageError.
    """
    digests: list[str] = []
    report = InputReport()
    fingerprints = {kind: tokenizer.fingerprint for kind, tokenizer in tokenizers.items()}

    def read() -> None:
        position = InputPosition(paths, control)
        blocks = partial(token_store.read_blocks, replace_unknown=replace_unknown, opened=position.opened)
        for raw in blocks(paths, chunk_length, min_length, report):
            digests.append(raw.digest())
            path = token_store.block_path(folder.tokens, raw.index)
            if token_store.block_is_valid(path, digests[-1], fingerprints):
                control.publish(f"{KEPT}/{raw.index}", "1")
            else:
                token_store.write_raw(token_store.raw_path(folder.tokens, raw.index), raw)
            control.publish(READ, str(len(digests)))
            _count(control, records=len(raw.names), steps=position.advance())
            control.raise_if_ending()
        refuse_changed_input()
        control.publish(TOTAL, str(len(digests)))

    def tokenise(index: int) -> None:
        if control.runtime.keys.get(f"{KEPT}/{index}") is not None:
            return
        raw_path = token_store.raw_path(folder.tokens, index)
        control.wait_for_file(raw_path)
        raw = token_store.read_raw(raw_path)
        block = token_store.tokenise_block(raw, tokenizers)
        size = token_store.write_block(token_store.block_path(folder.tokens, index), block)
        raw_path.unlink()
        _count(control, bases=len(raw.bases.flat), bytes_written=size)

    if control.is_first:
        read()
    while _wait_for_block(control, index := control.next_index("ingest")):
        tokenise(index)
        control.publish(f"{DONE}/{index}", "1")
    control.broadcast_from_rank_0(
        "store", lambda: _summarise(control, folder, provenance_key, digests, fingerprints, report)
    )
    summary = load_summary(folder, provenance_key)
    if summary is None:
        raise hdf5_files.DamagedFile(f"{folder.store}: is not the one that rank 0 has written")
    return summary


class InputPosition:
    """How many bytes of the input's files have been read."""

    def __init__(self, paths: Sequence[InputPath], control: Control) -> None:
        self._sizes = [input_size(path) if isinstance(path, Url) or path.is_file() else 0 for path in paths]
        if control.progress is not None:
            control.progress.plan_steps(sum(self._sizes))
        self._raise_if_ending = control.raise_if_ending
        self._file: BinaryIO | None = None
        self._files_before, self._told = -1, 0

    def opened(self, file: BinaryIO) -> None:
        """The next file is read from now on."""
        call_while_waiting(file, self._raise_if_ending)
        self._file = file
        self._files_before += 1

    def advance(self) -> int:
        """Bytes that have been read since the last call."""
        if self._file is None:
            return 0
        here = self._sizes[self._files_before] if self._file.closed else self._file.tell()
        position = max(self._told, sum(self._sizes[: self._files_before]) + here)
        advanced, self._told = position - self._told, position
        return advanced


def _wait_for_block(control: Control, index: int) -> bool:
    """Wait until rank 0 has read this block, or all input; returns whether there is such a block."""
    control.wait_until(lambda: index < (_number(control, READ) or 0) or _number(control, TOTAL) is not None)
    total = _number(control, TOTAL)
    return total is None or index < total


def _number(control: Control, key: str) -> int | None:
    value = control.runtime.keys.get(key)
    return None if value is None else int(value)


def _count(control: Control, **counters: int) -> None:
    if control.progress is not None:
        control.progress.add(**counters)


def _summarise(
    control: Control,
    folder: RunFolder,
    provenance_key: str,
    digests: Sequence[str],
    tokenizers: Mapping[str, str],
    report: InputReport,
) -> str:
    """Write names.h5 and store.json once all blocks are done; returns the store's digest.

    Raises DamagedFile for a block that was not made from what this rank has read, whoever says that it is done.
    """
    n_records = n_chunks = n_bases = 0
    fragments: list[int] = []
    hashes: list[np.ndarray] = []
    paths = [token_store.block_path(folder.tokens, index) for index in range(len(digests))]
    for index, (path, raw_digest) in enumerate(zip(paths, digests, strict=True)):
        control.wait_for(f"{DONE}/{index}")
        table = token_store.read_table(path)
        if (table.raw_digest, table.tokenizers) != (raw_digest, tokenizers):
            raise hdf5_files.DamagedFile(f"{path}: was not made from this run's input")
        n_records += len(table.names)
        n_chunks += len(table.chunk_record)
        n_bases += int(table.lengths.sum())
        fragments.append(len(table.fragment_chunk))
        hashes.append(name_hashes(table.names))
        control.raise_if_ending()
    renamed = resolve_names(hashes, lambda: (token_store.read_table(path).names for path in paths))
    names = Texts.pack(list(renamed.values()))
    datasets = {"record": np.array(list(renamed), np.int64), "names": names.flat, OFFSETS["names"]: names.offsets}
    hdf5_files.write_atomic(folder.names, datasets, {"basis": names_key(provenance_key)})
    summary = StoreSummary(
        basis=provenance_key,
        digest=store_digest(provenance_key, digests),
        n_records=n_records,
        n_chunks=n_chunks,
        n_bases=n_bases,
        fragments_per_block=tuple(fragments),
        n_renamed=len(renamed),
        example_renamed=next(iter(renamed.values()), ""),
        report=report,
    )
    fields = asdict(summary)
    if report == InputReport():
        del fields["report"]  # nothing to tell
    write_json(folder.store, fields)
    return summary.digest
