"""Regions: runs of virus chunks, and how far their ends lie from those of simulated prophages."""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from itertools import groupby
from operator import add, itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpdist.results import call_files, regions, table_files
from vpdist.results.regions import Region, regions_of
from vpdist.results.table_files import opened_table
from vpdist.sequences.six_frames import chunk_bounds
from vpdist.storage.atomic_files import DamagedFile

CHUNK_LENGTH = 500
NO_FRAME, WRONG = 0.4, 0.01
"""Shares of chunks without a score, and of wrong calls."""


Chunk = tuple[str, ...]
"""As in `regions.COLUMNS`."""
CALLS = {"v": ("0.75", "0.25", "virus"), "n": ("0.25", "0.75", "non-virus"), "-": ("NA", "NA", "NA")}


def calls(pattern: str, name: str = "s") -> list[Chunk]:
    """Chunks of 100 bases: v virus, n non-virus, - without a score."""
    return [(name, f"{100 * k + 1}", f"{100 * k + 100}", *CALLS[letter]) for k, letter in enumerate(pattern)]


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
    assert [(region.start, region.end) for region in regions_of(calls(pattern))] == found


@given(st.text(st.sampled_from("vn-"), max_size=30))
def test_every_virus_chunk_is_in_one_region_and_no_other_call_is(pattern: str) -> None:
    covered = "".join(
        "v" if any(region.start <= 100 * k < region.end for region in regions_of(calls(pattern))) else " "
        for k in range(len(pattern))
    )
    for letter, inside in zip(pattern, covered, strict=True):
        assert letter == "-" or (inside == "v") == (letter == "v")
    found = list(regions_of(calls(pattern)))
    assert sum(region.virus_chunks for region in found) == pattern.count("v")
    assert [region.whole for region in found] == (
        [True] if "v" in pattern and "n" not in pattern else [False] * len(found)
    )
    assert all(region.length == 100 * len(pattern) for region in found)


def test_the_scores_of_a_region_are_the_means_of_its_virus_chunks() -> None:
    chunks = [
        ("s", "1", "100", "0.5", "0.5", "virus"),
        ("s", "101", "200", *CALLS["-"]),
        ("s", "201", "300", "1", "0.25", "virus"),
    ]
    (region,) = regions_of(chunks)
    assert (region.virus_score, region.nonvirus_score, region.chunks, region.virus_chunks) == (0.75, 0.375, 3, 2)


def simulated(rng: np.random.Generator) -> tuple[list[Chunk], tuple[int, int]]:
    """The chunks of a genome with one prophage, and where that lies. A chunk is called by what most of it is."""
    length, prophage = int(rng.integers(60_000, 120_000)), int(rng.integers(8_000, 40_000))
    begin = int(rng.integers(5_000, length - prophage - 5_000))
    starts, ends = chunk_bounds(length, CHUNK_LENGTH)
    share = (np.minimum(ends, begin + prophage) - np.maximum(starts, begin)).clip(0) / (ends - starts)
    wrong, absent = (rng.random((2, len(starts))).T < (WRONG, NO_FRAME)).T
    virus = (share > 0.5) != wrong
    chunks = [
        ("genome", f"{s + 1}", f"{e}", *CALLS["-" if none else "v" if called else "n"])
        for s, e, called, none in zip(starts.tolist(), ends.tolist(), virus, absent, strict=True)
    ]
    return chunks, (begin, begin + prophage)


def test_the_ends_of_regions_lie_within_a_chunk_of_those_of_simulated_prophages() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(60):
        chunks, borders = simulated(rng)
        found = list(regions_of(chunks))
        ends = np.array([(region.start, region.end) for region in found if region.virus_chunks > 1])
        errors += [int(np.abs(ends[:, side] - border).min()) for side, border in enumerate(borders)]
    assert float(np.median(errors)) <= CHUNK_LENGTH
    assert max(errors) > 0


REGION = Region("s", 2, 100, 300, 2, 2, 2 * 0.98765432, 0.5, 400, whole=False)


def test_bed_counts_from_0_and_gff3_from_1() -> None:
    bed, gff3, first = regions.lines(REGION, 7)
    assert bed == b"s\t100\t300\tregion_7\t988\t.\t0.987654\t2\t0\n"
    attributes = b"ID=region_7;n_chunks=2;n_virus_chunks=2;nonvirus_score=0.25;whole_sequence=false"
    assert gff3 == b"s\tvpdist\tviral_sequence\t101\t300\t0.987654\t.\t.\t%b\n" % attributes
    assert first == b"##sequence-region s 1 400\n"


@pytest.mark.parametrize(
    ("name", "written"),
    [("NC_1.1|x", b"NC_1.1|x"), (">a;b=c,d&e%", b"%3Ea%3Bb%3Dc%2Cd%26e%25"), ("ä", b"%C3%A4"), ("#s", b"%23s")],
)
def test_gff3_escapes_what_it_does_not_allow(name: str, written: bytes) -> None:
    assert regions.lines(replace(REGION, seq_name=name), 1)[1].split(b"\t")[0] == written


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


def written_plainly(chunks: list[Chunk], min_score: float) -> tuple[str, str]:
    """regions.bed and regions.gff3, each sequence and each run of its chunks gone through as the documents say it."""
    bed, gff3, number = "", "##gff-version 3\n", 0
    for name, rows in groupby(chunks, key=itemgetter(0)):
        sequence = list(rows)
        runs: list[list[int]] = [[]]
        for k, (*_, call) in enumerate(sequence):
            if call == "virus":
                runs[-1].append(k)
            elif call == "non-virus":
                runs.append([])
        scored = sum(call != "NA" for *_, call in sequence)
        seqid = "".join(
            chr(byte) if chr(byte) in string.ascii_letters + string.digits + ".:^*$@!+_?-|" else f"%{byte:02X}"
            for byte in name.encode()
        )
        has_line = False
        for run in filter(None, runs):
            virus, nonvirus = (sum_in_order(float(sequence[k][column]) for k in run) / len(run) for column in (3, 4))
            if virus < min_score:
                continue
            number += 1
            start, end, n, whole = (
                int(sequence[run[0]][1]),
                sequence[run[-1]][2],
                run[-1] - run[0] + 1,
                len(run) == scored,
            )
            bed += (
                f"{name}\t{start - 1}\t{end}\tregion_{number}\t{round(1000 * virus)}\t.\t{virus:.6g}\t{n}\t{whole:d}\n"
            )
            if not has_line:
                gff3 += f"##sequence-region {seqid} 1 {sequence[-1][2]}\n"
                has_line = True
            gff3 += f"{seqid}\tvpdist\tviral_sequence\t{start}\t{end}\t{virus:.6g}\t.\t.\tID=region_{number};"
            gff3 += f"n_chunks={n};n_virus_chunks={len(run)};nonvirus_score={nonvirus:.6g};"
            gff3 += f"whole_sequence={str(whole).lower()}\n"
    return bed, gff3


def sum_in_order(values: Iterable[float]) -> float:
    """Without the compensation that `sum` has from Python 3.12 on."""
    return reduce(add, values, 0.0)


NAMES = st.text(st.sampled_from("aZ9.|~%;=>#\u00e4\u2028\U0001f9a0"), min_size=1, max_size=6)
SCORES = st.floats(0, 1, width=32)


@settings(deadline=None)
@given(
    sequences=st.lists(
        st.tuples(NAMES, st.lists(st.tuples(st.sampled_from("vvn-"), SCORES, SCORES), min_size=1, max_size=9)),
        max_size=8,
        unique_by=itemgetter(0),
    ),
    min_score=st.sampled_from([0.0, 0.3, 0.9]),
    block=st.sampled_from([1, 50, 1 << 16]),
)
def test_regions_are_those_of_a_plain_reading_of_the_table(
    sequences: list[tuple[str, list[tuple[str, float, float]]]], min_score: float, block: int
) -> None:
    chunks: list[Chunk] = []
    for name, of_sequence in sequences:
        for place, (letter, *scores) in zip(calls("-" * len(of_sequence), name), of_sequence, strict=True):
            known = (f"{min(scores):.6g}", f"{max(scores):.6g}", "non-virus") if letter == "n" else CALLS["-"]
            known = (f"{max(scores):.6g}", f"{min(scores):.6g}", "virus") if letter == "v" else known
            chunks.append((*place[:3], *known))
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "BLOCK_BYTES", block)
        folder = Path(name)
        text = "".join("\t".join((*chunk, "flags")) + "\n" for chunk in [regions.COLUMNS, *chunks])
        (folder / "chunks.tsv").write_text(text, encoding="utf-8", newline="\n")
        number = call_files.write_regions(folder, min_score, lambda: None)
        bed, gff3 = ((folder / f"regions.{kind}").read_bytes().decode() for kind in ("bed", "gff3"))
    assert (bed, gff3) == written_plainly(chunks, min_score)
    assert bed.count("\n") == number
