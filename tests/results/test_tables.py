"""Where blocks of the token store end must not show in any table, whatever lies at the border."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vpdist.calibration.judgement import CALLS, Judgement
from vpdist.errors import StorageError
from vpdist.results import tables
from vpdist.results.flags import Flags
from vpdist.results.scores import Scores
from vpdist.sequences.blocks import FILTERED, OK, TOO_SHORT, BlockTable, Texts, is_sound

CONSENSUS = ("mean", "max", "fraction")
SOURCES = ("a.fa", "b.fa")
CHUNK_LENGTH = 100
RESIDUES = 20

Chunk = dict[int, float | None]
"""Virus score of each open frame, None where the fragment failed."""


@dataclass(frozen=True)
class Sequence:
    """One record of the input."""

    status: int
    chunks: tuple[Chunk, ...] = ()


SCORES = st.floats(0, 1, width=32) | st.sampled_from([0.5, None])
CHUNKS = st.dictionaries(st.integers(0, 5), SCORES, max_size=6).map(lambda frames: dict(sorted(frames.items())))
SEQUENCES = st.sampled_from([Sequence(TOO_SHORT), Sequence(FILTERED)]) | st.builds(
    Sequence, st.just(OK), st.lists(CHUNKS, min_size=1, max_size=6).map(tuple)
)

EVERY_CASE = [
    Sequence(
        OK, ({0: 0.9, 4: 0.3}, {}, {1: None}, {2: 0.1, 3: None}, {5: 0.7})
    ),  # failed, without a frame, half failed
    Sequence(TOO_SHORT),
    Sequence(OK, ({}, {})),
    Sequence(FILTERED),
    Sequence(OK, ({0: 0.25, 1: 0.5}, {0: 0.5}, {3: 0.2})),
    Sequence(OK, ({2: 0.8},)),
]

Event = tuple[int, int | None]
"""A record, and the number of one of its chunks; None where the record begins."""


def events(sequences: list[Sequence]) -> list[Event]:
    """Everything in the order in which it enters blocks. Between any two a block may end."""
    return [(i, k) for i, sequence in enumerate(sequences) for k in (None, *range(len(sequence.chunks)))]


def cut(sequences: list[Sequence], ends: list[int]) -> list[BlockTable]:
    """The sequences in blocks that end after so many events each."""
    told = events(sequences)
    return [
        block(index, sequences, told[a:b], told[:a]) for index, (a, b) in enumerate(pairwise([0, *ends, len(told)]))
    ]


def block(index: int, sequences: list[Sequence], held: list[Event], before: list[Event]) -> BlockTable:
    records = [i for i, k in held if k is None]
    chunks = [(i, k) for i, k in held if k is not None]
    fragments = [(c, frame) for c, (i, k) in enumerate(chunks) for frame in sequences[i].chunks[k]]
    number = np.array([k for _, k in chunks], np.int64)
    made = BlockTable(
        index=index,
        chunk_length=CHUNK_LENGTH,
        first_record=sum(k is None for _, k in before),
        names=Texts.pack([f"s{i}" for i in records]),
        descriptions=Texts.pack([f"the {i}th" for i in records]),
        sources=np.array([i % len(SOURCES) for i in records], np.uint32),
        lengths=np.array([CHUNK_LENGTH * len(sequences[i].chunks) for i in records], np.int64),
        n_chunks=np.array([len(sequences[i].chunks) for i in records], np.int64),
        statuses=np.array([sequences[i].status for i in records], np.int8),
        chunk_record=np.array([i for i, _ in chunks], np.int64),
        chunk_number=number.astype(np.int32),
        chunk_start=CHUNK_LENGTH * number,
        chunk_end=CHUNK_LENGTH * (number + 1),
        fragment_chunk=np.array([c for c, _ in fragments], np.int32),
        fragment_frame=np.array([frame for _, frame in fragments], np.int8),
        fragment_residues=np.full(len(fragments), RESIDUES, np.int32),
        nucleotide_hash=np.zeros(len(fragments), np.uint64),
        protein_hash=np.zeros(len(fragments), np.uint64),
        raw_digest="",
        tokenizers={},
    )
    assert is_sound(made)
    return made


def scores_of(sequences: list[Sequence]) -> Scores:
    """Scores of all fragments; a fragment's two add up to 1."""
    virus = [score for sequence in sequences for chunk in sequence.chunks for score in chunk.values()]
    failed = np.array([score is None for score in virus], bool)
    values = np.array([np.nan if score is None else score for score in virus], np.float32)
    return Scores(values, np.float32(1) - values, failed)


def written(sequences: list[Sequence], blocks: list[BlockTable], consensus: str) -> dict[str, bytes]:
    """The three tables without their headers. Every third sequence has been renamed."""
    files = {name: io.BytesIO() for name in ("sequences", "chunks", "fragments")}
    new_names = {i: f"new{i}" for i in range(0, len(sequences), 3)}
    totals = tables.fill(
        files,
        blocks,
        scores_of(sequences),
        sources=SOURCES,
        new_names=new_names,
        n_records=len(sequences),
        consensus=consensus,
        judgement=judgement_of(sequences),
        flags=flags_of(sequences),
    )
    for name, file in files.items():
        assert file.getvalue().startswith(("\t".join(tables.COLUMNS[name]) + "\n").encode())
    assert totals.chunks == sum(len(sequence.chunks) for sequence in sequences)
    assert totals.failed_fragments == int(scores_of(sequences).failed.sum())
    return {name: file.getvalue().partition(b"\n")[2] for name, file in files.items()}


def judgement_of(sequences: list[Sequence]) -> Judgement:
    """Numbers that tell which sequence they belong to; nothing is known of every second one."""
    values = np.array([np.nan if i % 2 else i / 8 for i in range(len(sequences))])
    call = np.array([0 if i % 2 else 1 + i // 2 % 3 for i in range(len(sequences))], np.int8)
    return Judgement(values, values / 2, values / 4, call)


def flags_of(sequences: list[Sequence]) -> Flags:
    """The flags of a chunk are its number in its sequence, those of a record 8 where it is a fourth one."""
    chunks = [k for sequence in sequences for k in range(len(sequence.chunks))]
    records = [8 if i % 4 == 3 else 0 for i in range(len(sequences))]
    return Flags(("a", "b", "c", "d"), np.array(chunks, np.uint32), np.array(records, np.uint32))


def plain_call(chunks: tuple[Chunk, ...], consensus: str) -> str:
    """Scores and prediction of one sequence, computed without any array."""
    scored = []
    for chunk in chunks:
        virus = [float(np.float32(score)) for score in chunk.values() if score is not None]
        nonvirus = [float(np.float32(1) - np.float32(score)) for score in virus]
        if virus:
            scored.append((max(virus), max(nonvirus)))
    if not scored:
        return "NA\tNA\tNA"
    if consensus == "mean":  # added one after the other, which `sum` does not do since Python 3.12
        first, second = (list(accumulate(column))[-1] / len(scored) for column in zip(*scored, strict=True))
    elif consensus == "max":
        first, second = (max(column) for column in zip(*scored, strict=True))
    else:
        first = sum(virus >= nonvirus for virus, nonvirus in scored) / len(scored)
        second = 1.0 - first
    return f"{first:.6g}\t{second:.6g}\t{'virus' if first >= second else 'non-virus'}"


@settings(deadline=None, max_examples=200)
@given(st.lists(SEQUENCES, max_size=8), st.data())
def test_any_cut_into_blocks_gives_the_same_tables(sequences: list[Sequence], data: st.DataObject) -> None:
    n = len(events(sequences))
    ends = data.draw(st.lists(st.integers(1, n - 1), unique=True).map(sorted)) if n > 1 else []
    for consensus in CONSENSUS:
        whole = written(sequences, cut(sequences, []), consensus)
        assert written(sequences, cut(sequences, ends), consensus) == whole


@pytest.mark.parametrize("consensus", CONSENSUS)
def test_every_single_border_leaves_the_tables_as_they_are(consensus: str) -> None:
    n = len(events(EVERY_CASE))
    whole = written(EVERY_CASE, cut(EVERY_CASE, []), consensus)
    for end in range(1, n):
        assert written(EVERY_CASE, cut(EVERY_CASE, [end]), consensus) == whole
    assert written(EVERY_CASE, cut(EVERY_CASE, list(range(1, n))), consensus) == whole


def test_the_case_that_is_cut_everywhere_holds_what_matters() -> None:
    everywhere = cut(EVERY_CASE, list(range(1, len(events(EVERY_CASE)))))
    continued = [int(each.chunk_record[0]) for each in everywhere if len(each.chunk_record)]
    assert continued == [0] * 5 + [2] * 2 + [4] * 3 + [5]  # blocks that hold a chunk, and not the record's beginning
    assert all(len(each.names) + len(each.chunk_record) == 1 for each in everywhere)
    found = written(EVERY_CASE, everywhere, "mean")
    rows = [row.split("\t") for row in found["sequences"].decode().splitlines()]
    assert [row[10] for row in rows] == ["failed", "too_short", "no_open_frame", "filtered", "ok", "ok"]
    assert [row[0] for row in rows] == ["new0", "s1", "s2", "new3", "s4", "s5"]
    assert [(row[3], row[4], row[5]) for row in rows[:3]] == [("5", "3", "6"), ("0", "0", "0"), ("2", "0", "0")]
    chunks = [row.split("\t") for row in found["chunks"].decode().splitlines()]
    assert [row[5] == "NA" for row in chunks[:5]] == [False, True, True, False, False]
    fragments = found["fragments"].decode().splitlines()
    assert [row.endswith("NA\tNA\tNA") for row in fragments[:6]] == [False, False, True, False, True, False]


@settings(deadline=None)
@given(st.lists(SEQUENCES, max_size=6), st.sampled_from(CONSENSUS))
@example(EVERY_CASE, "mean")
@example(EVERY_CASE, "max")
@example(EVERY_CASE, "fraction")
def test_a_sequence_is_called_by_the_rule_over_its_scored_chunks(sequences: list[Sequence], consensus: str) -> None:
    everywhere = cut(sequences, list(range(1, len(events(sequences)))))
    rows = written(sequences, everywhere, consensus)["sequences"].decode().splitlines()
    found = ["\t".join(row.split("\t")[7:10]) for row in rows]
    assert found == [plain_call(sequence.chunks, consensus) for sequence in sequences]


def test_not_even_the_last_bit_of_a_sum_depends_on_the_border() -> None:
    """The first three scores add up to the largest number of which an eighth is still written as 0.100001. The next two
    are so small that they are lost when added one by one, and would not be if they were added up first."""
    digits = ("0x1.999b2cp-1", "0x1.0342aap-27", "0x1p-52", "0x1p-54", "0x1p-54", "0", "0", "0")
    scores = [float.fromhex(each) for each in digits]
    assert f"{sum(scores[:3]) / 8:.6g}" != f"{(sum(scores[:3]) + sum(scores[3:])) / 8:.6g}"
    sequences = [Sequence(OK, tuple({0: score} for score in scores))]
    whole = written(sequences, cut(sequences, []), "mean")
    assert whole["sequences"].split(b"\t")[7] == b"0.100001"
    for end in range(1, len(events(sequences))):
        assert written(sequences, cut(sequences, [end]), "mean") == whole


def test_the_rules_differ_where_they_should() -> None:
    sequence = Sequence(OK, ({0: 0.9}, {0: 0.4}, {0: 0.3}))
    assert plain_call(sequence.chunks, "mean") == "0.533333\t0.466667\tvirus"
    assert plain_call(sequence.chunks, "max") == "0.9\t0.7\tvirus"
    assert plain_call(sequence.chunks, "fraction") == "0.333333\t0.666667\tnon-virus"


def test_the_files_hold_their_headers_and_then_the_rows() -> None:
    blocks = cut(EVERY_CASE, [3, 4, 9])
    files = {name: io.BytesIO() for name in tables.COLUMNS}
    totals = tables.fill(
        files,
        blocks,
        scores_of(EVERY_CASE),
        sources=SOURCES,
        new_names={0: "new0", 3: "new3"},
        n_records=len(EVERY_CASE),
        consensus="fraction",
    )
    for name, rows in written(EVERY_CASE, cut(EVERY_CASE, []), "fraction").items():
        header, *found = files[name].getvalue().decode().splitlines()
        assert header.split("\t") == tables.COLUMNS[name]
        n = tables.FIRST_COLUMNS[name]
        assert [row.split("\t")[:n] for row in found] == [row.split("\t")[:n] for row in rows.decode().splitlines()]
    assert (totals.records, totals.chunks, totals.open_chunks, totals.fragments) == (6, 11, 8, 11)


def test_a_row_has_its_own_judgement_and_flags() -> None:
    found = written(EVERY_CASE, cut(EVERY_CASE, list(range(1, len(events(EVERY_CASE))))), "mean")
    rows = [dict(zip(tables.SEQUENCE_COLUMNS, row.split("\t"), strict=True)) for row in rows_of(found, "sequences")]
    judged = [tuple(row[name] for name in ("probability", "q_value", "p_value", "call")) for row in rows]
    assert judged[::2] == [
        ("0", "0", "0", CALLS[1]),
        ("0.25", "0.125", "0.0625", CALLS[2]),
        ("0.5", "0.25", "0.125", CALLS[3]),
    ]
    assert judged[1::2] == [("NA",) * 4] * 3
    assert [row["flags"] for row in rows] == ["none", "none", "none", "d", "none", "none"]
    assert [row["margin"] for row in rows][1:4] == ["NA"] * 3
    assert float(rows[5]["margin"]) == pytest.approx(0.6)
    chunks = [dict(zip(tables.CHUNK_COLUMNS, row.split("\t"), strict=True)) for row in rows_of(found, "chunks")]
    assert [row["flags"] for row in chunks[:5]] == ["none", "a", "b", "a,b", "c"]
    # the highest scores of several frames can belong to different ones, so a margin is not 2 v - 1
    assert [row["margin"] for row in chunks[:5]] == ["0.2", "NA", "NA", "-0.8", "0.4"]


def test_where_nothing_was_looked_for_the_columns_are_na() -> None:
    files = {name: io.BytesIO() for name in tables.COLUMNS}
    given = {"sources": SOURCES, "new_names": {}, "n_records": len(EVERY_CASE), "consensus": "mean"}
    tables.fill(files, cut(EVERY_CASE, []), scores_of(EVERY_CASE), **given)
    header, *rows = [line.split("\t") for line in files["sequences"].getvalue().decode().splitlines()]
    assert header[-5:] == ["probability", "q_value", "p_value", "call", "flags"]
    assert {tuple(row[-5:]) for row in rows} == {("NA",) * 5}
    assert {line.split("\t")[-1] for line in files["chunks"].getvalue().decode().splitlines()[1:]} == {"NA"}


def rows_of(found: dict[str, bytes], table: str) -> list[str]:
    return found[table].decode().splitlines()


def test_a_sequence_whose_last_chunks_are_missing_is_refused() -> None:
    blocks = cut(EVERY_CASE[:1], [3])
    with pytest.raises(StorageError, match="1 records were read, 0 have a row"):
        written(EVERY_CASE[:1], blocks[:1], "mean")
