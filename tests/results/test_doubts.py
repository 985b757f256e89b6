"""Flags of chunks and sequences, at their thresholds and across blocks; scores of short chunks withheld."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vpdist.errors import StorageError
from vpdist.results.doubts import WORDS, find_doubts, short_below, withhold_short
from vpdist.results.flags import flag_cells
from vpdist.results.scores import Scores
from vpdist.sequences.blocks import BlockTable, Texts

Chunk = tuple[int, int, int, list[tuple[float, float, float]]]
"""Bases, other letters, bases of low complexity, and (virus score, non-virus score, distance) of each fragment."""


def plain(*fragments: tuple[float, float, float], bases: int = 500, other: int = 0, low: int = 0) -> Chunk:
    return bases, other, low, list(fragments)


V, H, NONE = (0.7, 0.3, 0.5), (0.3, 0.7, 0.5), (np.nan, np.nan, np.nan)


def tables_of(records: list[list[Chunk]], per_block: int) -> tuple[list[BlockTable], Scores]:
    """The blocks, of `per_block` chunks each, and the scores of all fragments."""
    chunks = [(number, k, chunk) for number, each in enumerate(records) for k, chunk in enumerate(each)]
    blocks, first_record = [], 0
    for index, start in enumerate(range(0, max(1, len(chunks)), per_block)):
        mine = chunks[start : start + per_block]
        last = start + per_block >= len(chunks)
        end = len(records) if last else max(first_record, mine[-1][0] + 1)
        begun = records[first_record:end]
        of = [i for i, (*_, (*_, fragments)) in enumerate(mine) for _ in fragments]
        blocks.append(
            BlockTable(
                index=index,
                chunk_length=500,
                first_record=first_record,
                names=Texts.pack([f"s{n}" for n in range(first_record, end)]),
                descriptions=Texts.pack([""] * len(begun)),
                sources=np.zeros(len(begun), np.uint32),
                lengths=np.array([sum(chunk[0] for chunk in each) for each in begun], np.int64),
                n_chunks=np.array([len(each) for each in begun], np.int64),
                statuses=np.array([0 if each else 1 for each in begun], np.int8),
                chunk_record=np.array([number for number, *_ in mine], np.int64),
                chunk_number=np.array([k for _, k, _ in mine], np.int32),
                chunk_start=np.zeros(len(mine), np.int64),
                chunk_end=np.array([chunk[0] for *_, chunk in mine], np.int64),
                fragment_chunk=np.array(of, np.int32),
                fragment_frame=np.zeros(len(of), np.int8),
                fragment_residues=np.ones(len(of), np.int32),
                nucleotide_hash=np.zeros(len(of), np.uint64),
                protein_hash=np.zeros(len(of), np.uint64),
                raw_digest="",
                tokenizers={},
                chunk_other_bases=np.array([chunk[1] for *_, chunk in mine], np.int32),
                chunk_low_complexity=np.array([chunk[2] for *_, chunk in mine], np.int32),
            )
        )
        first_record = end
    numbers = [fragment for *_, (*_, fragments) in chunks for fragment in fragments]
    virus, nonvirus, distance = np.array(numbers, np.float32).reshape(-1, 3).T
    return blocks, Scores(virus.copy(), nonvirus.copy(), np.isnan(virus), distance.copy())


def doubts(records: list[list[Chunk]], per_block: int = 3, shortest: int = 0) -> tuple[list[str], list[str]]:
    """The cells of sequences, and of chunks."""
    blocks, scores = tables_of(records, per_block)
    found = find_doubts(blocks, withhold_short(blocks, scores, shortest), len(records), shortest)
    return flag_cells(found.words, found.records), flag_cells(found.words, found.chunks)


SEVERAL = [plain(V)] * 3
CASES = {
    "nothing": (SEVERAL, "none", "none"),
    "just long enough": ([plain(V, bases=300)], "few_chunks", "none"),
    "short": ([plain(V, bases=299)], "short,few_chunks", "short"),
    "two chunks": ([plain(V)] * 2, "few_chunks", "none"),
    "a frame in none": ([plain(), plain()], "no_open_frame", "no_open_frame"),
    "a frame in one of four": ([plain(), *SEVERAL], "none", "no_open_frame"),
    "some ambiguous letters": ([plain(V, other=25)] * 3, "none", "none"),
    "ambiguous": ([plain(V, other=26), plain(V, other=26), plain(V)], "ambiguous_bases", "ambiguous_bases"),
    "one of three ambiguous": ([plain(V, other=26), plain(V), plain(V)], "none", "ambiguous_bases"),
    "half of low complexity": ([plain(V, low=250)] * 3, "none", "none"),
    "low complexity": ([plain(V, low=251)] * 3, "low_complexity", "low_complexity"),
    "at the limit": ([plain((0.7, 0.3, 1.0))] * 3, "none", "none"),
    "unlike": ([plain((0.7, 0.3, 1.1))] * 3, "out_of_distribution", "out_of_distribution"),
    "one frame is alike": ([plain((0.7, 0.3, 1.1), (0.6, 0.4, 0.9))] * 3, "none", "none"),
    "distance not known": ([plain((0.7, 0.3, np.nan))] * 3, "none", "none"),
    "frames disagree": ([plain((0.95, 0.05, 0.5), (0.08, 0.92, 0.5))] * 3, "disagreement", "disagreement"),
    "frames are not sure": ([plain((0.95, 0.05, 0.5), (0.15, 0.85, 0.5))] * 3, "none", "none"),
    "chunks disagree": ([plain(V), plain(V), plain(H)], "disagreement", "none"),
    "most agree": ([plain(V)] * 3 + [plain(H)], "none", "none"),
    "two chunks disagree": ([plain(V), plain(H)], "few_chunks", "none"),
    "failed": ([plain(NONE)] * 3, "none", "none"),
    "filtered": ([], "none", None),
}


@pytest.mark.parametrize("per_block", [1, 2, 100])
def test_each_flag_at_its_threshold(per_block: int) -> None:
    """All cases in one run, wherever blocks end."""
    of_records, of_chunks = doubts([records for records, *_ in CASES.values()], per_block)
    assert of_records == [expected for _, expected, _ in CASES.values()]
    first = np.cumsum([0, *(len(records) for records, *_ in CASES.values())])
    for (records, _, expected), at in zip(CASES.values(), first.tolist(), strict=False):
        if records:
            assert of_chunks[at] == expected


def test_a_model_says_what_is_short() -> None:
    assert short_below(500, 0) == 300
    assert short_below(500, 150) == 150
    records = [[plain(V, bases=149)], [plain(V, bases=150)], SEVERAL]
    of_records, of_chunks = doubts(records, shortest=150)
    assert of_records == ["short", "few_chunks", "none"]  # it has no score, hence no few ones
    assert of_chunks == ["short", "none", "none", "none", "none"]
    blocks, scores = tables_of(records, 2)
    withheld = withhold_short(blocks, scores, 150)
    assert np.isnan(withheld.virus).tolist() == np.isnan(withheld.nonvirus).tolist() == [True] + [False] * 4
    assert not np.isnan(scores.virus).any()
    assert withhold_short(blocks, scores, 0) is scores


def test_what_an_earlier_store_does_not_know_is_not_flagged() -> None:
    blocks, scores = tables_of([[plain(V, other=400, low=400)] * 3], 3)
    blocks = [replace(block, chunk_other_bases=None, chunk_low_complexity=None) for block in blocks]
    scores = replace(scores, distance=None)
    assert find_doubts(blocks, scores, 1, 0).records.tolist() == [0]


def test_nothing_in_nothing_out() -> None:
    assert doubts([]) == ([], [])
    assert len(set(WORDS)) == len(WORDS) < 32


@pytest.mark.parametrize("column", ["chunk_record", "fragment_chunk"])
def test_a_block_of_another_run_is_refused(column: str) -> None:
    """Blocks come from files that may be anybody's."""
    blocks, scores = tables_of([[plain(V)], [plain(V), plain(V)]], 3)
    other = {
        "chunk_record": np.array([0, 1, 9]),
        "fragment_chunk": np.array([0, 2, 1], np.int32),
    }
    with pytest.raises(StorageError, match="not those of its records"):
        find_doubts([replace(blocks[0], **{column: other[column]})], scores, 2, 0)
    with pytest.raises(StorageError, match="1 records were read"):
        find_doubts(blocks, scores, 1, 0)
    few = replace(scores, virus=scores.virus[:2], nonvirus=scores.nonvirus[:2], failed=scores.failed[:2])
    for use in (lambda: find_doubts(blocks, few, 2, 0), lambda: withhold_short(blocks, few, 100)):
        with pytest.raises(StorageError, match="not those of its records"):
            use()
