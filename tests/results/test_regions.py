"""Regions: runs of virus chunks, and how far their ends lie from those of simulated prophages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpdist.results import regions
from vpdist.results.regions import ChunkCall, Region, regions_of
from vpdist.results.table_files import opened_table
from vpdist.sequences.six_frames import chunk_bounds
from vpdist.storage.atomic_files import DamagedFile

CHUNK_LENGTH = 500
NO_FRAME, WRONG = 0.4, 0.01
"""Shares of chunks without a score, and of wrong calls."""


def calls(pattern: str) -> list[ChunkCall]:
    """Chunks of 100 bases: v virus, n non-virus, - without a score."""
    scores = {"v": (0.75, 0.25), "n": (0.25, 0.75), "-": None}
    return [ChunkCall(100 * k, 100 * k + 100, scores[letter], letter == "v") for k, letter in enumerate(pattern)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", []),
        ("---", []),
        ("nnn", []),
        ("v", [(0, 100)]),
        ("-v-", [(100, 200)]),
        ("nvvn", [(100, 300)]),
        ("v--v", [(0, 400)]),
        ("v-n-v", [(0, 100), (400, 500)]),
        ("nvnvv-", [(100, 200), (300, 500)]),
    ],
)
def test_a_run_goes_on_over_chunks_without_a_score_and_ends_at_one_called_non_virus(
    pattern: str, found: list[tuple[int, int]]
) -> None:
    assert [(region.start, region.end) for region in regions_of("s", calls(pattern))] == found


@given(st.text(st.sampled_from("vn-"), max_size=30))
def test_every_virus_chunk_is_in_one_region_and_no_other_call_is(pattern: str) -> None:
    covered = "".join(
        "v" if any(region.start <= 100 * k < region.end for region in regions_of("s", calls(pattern))) else " "
        for k in range(len(pattern))
    )
    for letter, inside in zip(pattern, covered, strict=True):
        assert letter == "-" or (inside == "v") == (letter == "v")
    found = list(regions_of("s", calls(pattern)))
    assert sum(region.virus_chunks for region in found) == pattern.count("v")
    assert [region.whole for region in found] == (
        [True] if "v" in pattern and "n" not in pattern else [False] * len(found)
    )
    assert all(region.length == 100 * len(pattern) for region in found)


def test_the_scores_of_a_region_are_the_means_of_its_virus_chunks() -> None:
    chunks = [
        ChunkCall(0, 100, (0.5, 0.5), True),
        ChunkCall(100, 200, None, False),
        ChunkCall(200, 300, (1.0, 0.25), True),
    ]
    (region,) = regions_of("s", chunks)
    assert (region.virus_score, region.nonvirus_score, region.chunks, region.virus_chunks) == (0.75, 0.375, 3, 2)


def simulated(rng: np.random.Generator) -> tuple[list[ChunkCall], tuple[int, int]]:
    """The chunks of a genome with one prophage, and where that lies. A chunk is called by what most of it is."""
    length, prophage = int(rng.integers(60_000, 120_000)), int(rng.integers(8_000, 40_000))
    begin = int(rng.integers(5_000, length - prophage - 5_000))
    starts, ends = chunk_bounds(length, CHUNK_LENGTH)
    share = (np.minimum(ends, begin + prophage) - np.maximum(starts, begin)).clip(0) / (ends - starts)
    wrong, absent = (rng.random((2, len(starts))).T < (WRONG, NO_FRAME)).T
    virus = (share > 0.5) != wrong
    chunks = [
        ChunkCall(s, e, None if none else ((0.9, 0.1) if called else (0.1, 0.9)), bool(called) and not none)
        for s, e, called, none in zip(starts.tolist(), ends.tolist(), virus, absent, strict=True)
    ]
    return chunks, (begin, begin + prophage)


def test_the_ends_of_regions_lie_within_a_chunk_of_those_of_simulated_prophages() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(60):
        chunks, borders = simulated(rng)
        found = list(regions_of("genome", chunks))
        ends = np.array([(region.start, region.end) for region in found if region.virus_chunks > 1])
        errors += [int(np.abs(ends[:, side] - border).min()) for side, border in enumerate(borders)]
    assert float(np.median(errors)) <= CHUNK_LENGTH
    assert max(errors) > 0


REGION = Region(
    seq_name="s",
    length=400,
    start=100,
    end=300,
    chunks=2,
    virus_chunks=2,
    virus_score=0.98765432,
    nonvirus_score=0.25,
    whole=False,
)


def test_bed_counts_from_0_and_gff3_from_1() -> None:
    assert regions.bed_line(REGION, 7) == "s\t100\t300\tregion_7\t988\t.\t0.987654\t2\t0\n"
    attributes = "ID=region_7;n_chunks=2;n_virus_chunks=2;nonvirus_score=0.25;whole_sequence=false"
    assert regions.gff3_line(REGION, 7) == f"s\tvpdist\tviral_sequence\t101\t300\t0.987654\t.\t.\t{attributes}\n"


@pytest.mark.parametrize(
    ("name", "written"),
    [("NC_1.1|x", "NC_1.1|x"), (">a;b=c,d&e%", "%3Ea%3Bb%3Dc%2Cd%26e%25"), ("ä", "%C3%A4"), ("#s", "%23s")],
)
def test_gff3_escapes_what_it_does_not_allow(name: str, written: str) -> None:
    assert regions.gff3_line(replace(REGION, seq_name=name), 1).split("\t")[0] == written


def test_columns_are_found_by_name_and_a_row_that_does_not_fit_is_named(tmp_path: Path) -> None:
    header = "flags\tseq_name\tchunk\tend\tstart\tn_fragments\tnonvirus_score\tvirus_score\tprediction\n"
    row = "short\ta\t1\t90\t1\t2\t0.1\t0.9\tvirus\n"
    (tmp_path / "chunks.tsv").write_text(header + row)
    with opened_table(tmp_path, "chunks") as table:
        (region,) = regions.regions(table)
    assert (region.seq_name, region.start, region.end, region.virus_score) == ("a", 0, 90, 0.9)
    (tmp_path / "chunks.tsv").write_text(header + row + "short\ta\n")
    with pytest.raises(DamagedFile, match="row 2 has 2 cells"), opened_table(tmp_path, "chunks") as table:
        list(table)
    (tmp_path / "chunks.tsv").write_text(header.replace("prediction", "verdict") + row)
    with pytest.raises(DamagedFile, match="no column prediction"), opened_table(tmp_path, "chunks") as table:
        list(regions.regions(table))
