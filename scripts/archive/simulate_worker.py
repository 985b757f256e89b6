"""`python -m scripts.archive.simulate_worker STEP N`: one step of simulate.py on N made items; prints JSON.

Prints seconds of a processor, which other programs slow less than those of a clock, and the peak of anonymous memory
beyond what the process had before the items were made.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xxhash

from scripts.bench.balance import COSTS, GPU_LIMITS
from scripts.bench.large_inputs import fragment_keys
from scripts.bench.memory import Peak, anonymous_bytes
from vpdist.planning import plan_file
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import build
from vpdist.results import doubts
from vpdist.results.scores import Scores
from vpdist.sequences.blocks import OK, BlockTable, Texts
from vpdist.sequences.manifest import read_manifest
from vpdist.sequences.store_summary import store_digest
from vpdist.sequences.unique_names import name_hashes, resolve_names
from vpdist.storage.run_folder import RunFolder

BLOCK = 25_000
"""Fragments, chunks or names of a block."""
CHUNKS_PER_RECORD = 5
Measured = Callable[[], object]


def made_keys(n: int) -> FragmentKeys:
    """Keys of n fragments, made block by block so that making them takes no more memory than they do."""
    rng = np.random.default_rng(1)
    keys = FragmentKeys(
        residues=np.zeros(n, np.int32),
        tokens={kind: np.zeros(n, np.int32) for kind in COSTS},
        nucleotide_hash=np.zeros(n, np.uint64),
        protein_hash=np.zeros(n, np.uint64),
    )
    for start in range(0, n, BLOCK):
        block, rows = fragment_keys(min(BLOCK, n - start), rng), slice(start, start + BLOCK)
        for name in ("residues", "nucleotide_hash", "protein_hash"):
            getattr(keys, name)[rows] = getattr(block, name)
        for kind, tokens in keys.tokens.items():
            tokens[rows] = block.tokens[kind]
    return keys


def plan(n: int, folder: Path) -> Measured:
    made = [made_keys(n)]

    def run() -> None:
        plan_file.write_plan(folder / "plan.h5", build(made.pop(), GPU_LIMITS, COSTS), "made")

    return run


def mapped(n: int, folder: Path) -> Measured:
    plan(n, folder)()
    return lambda: plan_file.map_plan(folder / "plan.h5", "made", n_fragments=n)


def scores(n: int, folder: Path) -> Measured:
    logits = np.random.default_rng(1).random((BLOCK, 2), np.float32)

    def run() -> None:
        found = Scores.empty(n, distances=True)
        for first in range(0, n, BLOCK):
            row = np.arange(min(BLOCK, n - first))
            found.set_unit(first + row, row, np.zeros(len(row), np.uint8), logits[row], logits[row, 0])

    return run


def names(n: int, folder: Path) -> Measured:
    def run() -> None:
        firsts = range(0, n, BLOCK)
        hashes = [name_hashes(f"contig_{number}" for number in range(first, first + BLOCK)) for first in firsts]
        assert resolve_names(hashes, lambda: ()) == {}

    return run


def flags(n: int, folder: Path) -> Measured:
    found = Scores.empty(n)
    return lambda: doubts.find_doubts(_made_blocks(n // BLOCK), found, n // CHUNKS_PER_RECORD, 0)


def _made_blocks(n_blocks: int) -> Iterator[BlockTable]:
    """Blocks of chunks of one fragment each."""
    r = BLOCK // CHUNKS_PER_RECORD
    for index in range(n_blocks):
        yield BlockTable(
            index=index,
            first_record=index * r,
            chunk_length=500,
            names=Texts.pack([]),
            descriptions=Texts.pack([]),
            sources=np.zeros(r, np.uint32),
            lengths=np.full(r, 500 * CHUNKS_PER_RECORD),
            n_chunks=np.full(r, CHUNKS_PER_RECORD),
            statuses=np.full(r, OK, np.int8),
            chunk_record=np.arange(BLOCK) // CHUNKS_PER_RECORD + index * r,
            chunk_number=np.arange(BLOCK, dtype=np.int32) % CHUNKS_PER_RECORD,
            chunk_start=np.zeros(BLOCK, np.int64),
            chunk_end=np.full(BLOCK, 500),
            fragment_chunk=np.arange(BLOCK, dtype=np.int32),
            fragment_frame=np.zeros(BLOCK, np.int8),
            fragment_residues=np.full(BLOCK, 166, np.int32),
            nucleotide_hash=np.zeros(BLOCK, np.uint64),
            protein_hash=np.zeros(BLOCK, np.uint64),
            raw_digest="",
            tokenizers={},
        )


def blocks(n: int, folder: Path) -> Measured:
    def run() -> tuple[str, tuple[int, ...]]:
        digests = [xxhash.xxh3_128_hexdigest(b"%d" % block) for block in range(n)]
        return store_digest("made", digests), tuple(1000 + block for block in range(n))

    return run


def manifest(n: int, folder: Path) -> Measured:
    path = folder / "manifest.tsv"
    with open(path, "w") as file:
        file.write("path\tsample\tsize\n")
        for number in range(n):
            file.write(
                f"s3://archive/c/SRR{number:08}/SRR{number:08}.contigs.fa.zst\tSRR{number:08}\t{17_000_000 + number}\n"
            )
    return lambda: read_manifest(path)


def listing(n: int, folder: Path) -> Measured:
    run = RunFolder(folder)
    run.parts.mkdir()
    for number in range(n):
        (run.parts / f"unit-{number:06}.h5").touch()
    return lambda: {path.name for path in run.parts.iterdir()}


STEPS: dict[str, Callable[[int, Path], Measured]] = {
    "plan": plan,
    "map": mapped,
    "scores": scores,
    "names": names,
    "flags": flags,
    "blocks": blocks,
    "manifest": manifest,
    "listing": listing,
}


def main() -> None:
    name, n = sys.argv[1], int(sys.argv[2])
    before = anonymous_bytes()
    with tempfile.TemporaryDirectory(prefix="vpdist-simulate-") as folder:
        step = STEPS[name](n, Path(folder))
        made = anonymous_bytes() - before
        with Peak() as peak:
            started = time.process_time()
            kept = step()
            seconds = time.process_time() - started
            peak.bytes = max(peak.bytes, anonymous_bytes() - before - made)  # what `kept` holds counts
        del kept
    print(json.dumps({"seconds": seconds, "bytes": made + peak.bytes}))


if __name__ == "__main__":
    main()
