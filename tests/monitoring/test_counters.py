import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.snapshots import row, snapshot
from vpdist.monitoring.counters import (
    COUNTER_INDEX,
    COUNTERS,
    FIRST_BASE,
    STAGES,
    Cell,
    RankRow,
    Snapshot,
    empty_vector,
)
from vpdist.monitoring.facts import RankFacts
from vpdist.monitoring.liveness import Liveness

COUNTS = st.tuples(*[st.integers(0, 2**62) for _ in COUNTERS])
ROWS = st.builds(
    RankRow,
    rank=st.integers(0, 1000),
    state=st.sampled_from(["running", "waiting", "done", "stalled", "lost"]),
    stage=st.sampled_from(STAGES),
    silent_s=st.floats(0, 1e6),
    planned_tokens=st.integers(0, 2**62),
    planned_units=st.integers(0, 2**31),
    shared=st.booleans(),
    memory_bytes=st.integers(0, 2**40),
    utilisation=st.integers(-1, 100),
    counters=COUNTS,
    base=COUNTS,
)


@given(st.lists(ROWS, min_size=1, max_size=4), st.none() | st.text(), st.text())
def test_a_snapshot_survives_the_way_through_a_line_of_json(rows: list[RankRow], ended: str | None, note: str) -> None:
    original = Snapshot(1.5, 0.25, "round", tuple(rows), ended, note)
    line = original.to_json()
    assert ('"note"' in line) == bool(note)
    assert "\n" not in line
    assert Snapshot.from_json(line) == original


@given(st.lists(COUNTS, min_size=1, max_size=5))
def test_totals_are_sums_over_ranks(counts: list[tuple[int, ...]]) -> None:
    rows = [row(rank, **dict(zip(COUNTERS, each, strict=True))) for rank, each in enumerate(counts)]
    made = snapshot(1.0, *rows)
    assert tuple(made.totals) == COUNTERS
    assert tuple(made.totals.values()) == tuple(map(sum, zip(*counts, strict=True)))
    assert made.totals is made.totals, "summed once"
    assert replace(made, rows=made.rows[:1]).totals["records"] == counts[0][0], "of its own rows"


@pytest.mark.parametrize("line", ["", "{", "[]", "7", '{"v":1}', '{"columns":[],"ranks":[]}'])
def test_what_is_no_snapshot_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Snapshot.from_json(line)


def test_what_a_later_version_tells_of_ranks_is_left_out() -> None:
    made = replace(snapshot(1, row(0), row(1)), facts=(RankFacts("node", 1, "A100"), RankFacts("node", 2, "A100")))
    fields = json.loads(made.to_json())
    for told in fields["ranks"]:
        told["fan_percent"] = 40
    for told in fields["facts"]["ranks"]:
        told.append("NVLink")
    assert Snapshot.from_json(json.dumps(fields)) == made


def test_counters_of_a_stage_start_from_where_the_stage_began() -> None:
    made = row(nucleotide_tokens=700, protein_tokens=500, base={"nucleotide_tokens": 300, "protein_tokens": 100})
    assert made.count("nucleotide_tokens") == 700
    assert made.in_stage("nucleotide_tokens") == 400
    assert made.tokens == 800


def test_the_stage_of_a_run_is_that_of_the_rank_at_work_that_is_furthest_behind() -> None:
    rows = [row(0, "running", "check"), row(1, "waiting", "ingest"), row(2, "running", "embed")]
    assert snapshot(1, *rows).stage == "embed"


def vectors(*ranks: dict[int, int]) -> np.ndarray:
    matrix = np.tile(empty_vector(), (len(ranks), 1))
    for vector, fields in zip(matrix, ranks, strict=True):
        for index, value in fields.items():
            vector[index] = value
    return matrix


def test_a_rank_at_work_is_stalled_once_its_main_thread_is_silent() -> None:
    liveness = Liveness(2, 0.0, stalled_s=10.0)
    liveness.observe(
        vectors({Cell.ADDED: 1, Cell.TICK: 1, Cell.BEAT: 1}, {Cell.ADDED: 1, Cell.TICK: 1, Cell.BEAT: 1}), 1.0
    )
    liveness.observe(
        vectors({Cell.ADDED: 9, Cell.TICK: 9, Cell.BEAT: 9}, {Cell.ADDED: 1, Cell.TICK: 1, Cell.BEAT: 9}), 12.0
    )
    assert liveness.states(12.0) == ["running", "stalled"]
    assert liveness.silent_s(12.0).tolist() == [0.0, 11.0]


@pytest.mark.parametrize("fields", [{Cell.WAITING: 1}, {Cell.DONE: 1}, {}], ids=["waiting", "done", "loading models"])
def test_a_rank_that_owes_no_batches_is_stalled_only_when_its_process_is_silent(fields: dict[int, int]) -> None:
    liveness = Liveness(1, 0.0, stalled_s=10.0)
    liveness.observe(vectors({**fields, Cell.TICK: 1, Cell.BEAT: 1}), 0.0)
    liveness.observe(vectors({**fields, Cell.TICK: 1, Cell.BEAT: 50}), 50.0)
    assert liveness.states(50.0) != ["stalled"]
    assert liveness.states(61.0) == ["stalled"]


def test_a_rank_with_long_batches_is_given_five_of_them() -> None:
    liveness = Liveness(1, 0.0, stalled_s=10.0)
    for batch in range(1, 5):
        liveness.observe(vectors({Cell.ADDED: batch, Cell.TICK: batch, Cell.BEAT: batch}), 30.0 * batch)
    for beat, now in ((5, 200.0), (6, 260.0)):
        liveness.observe(vectors({Cell.ADDED: 4, Cell.TICK: 4, Cell.BEAT: beat}), now)
        assert liveness.states(now) == ["running"]
    liveness.observe(vectors({Cell.ADDED: 4, Cell.TICK: 4, Cell.BEAT: 7}), 275.0)
    assert liveness.states(275.0) == ["stalled"]


def test_an_older_vector_from_the_key_store_does_not_turn_a_rank_back() -> None:
    liveness = Liveness(1, 0.0, stalled_s=10.0)
    liveness.observe(vectors({Cell.ADDED: 7, Cell.TICK: 7, Cell.BEAT: 7}), 7.0)
    liveness.observe(vectors({Cell.ADDED: 5, Cell.TICK: 5, Cell.BEAT: 5}), 8.0)
    assert liveness.matrix[0, Cell.ADDED] == 7
    assert liveness.silent_s(8.0)[0] == 1.0


def test_a_lost_rank_is_lost_whatever_it_said_last() -> None:
    liveness = Liveness(2, 0.0, stalled_s=10.0)
    liveness.observe(vectors({Cell.BEAT: 1}, {Cell.BEAT: 1, Cell.DONE: 1}), 1.0)
    assert liveness.states(2.0, lost=(1,)) == ["running", "lost"]


def test_a_snapshot_of_vectors_names_stage_and_counts() -> None:
    liveness = Liveness(1, 0.0, stalled_s=10.0)
    stage = STAGES.index("embed")
    liveness.observe(
        vectors(
            {
                COUNTER_INDEX["batches"]: 7,
                FIRST_BASE + COUNTER_INDEX["batches"]: 3,
                Cell.STAGE: stage,
                Cell.MEMORY: 99,
                Cell.BEAT: 1,
            }
        ),
        1.0,
    )
    made = liveness.snapshot(1.0, time=2.0, elapsed=3.0, source="keys")
    assert (made.time, made.elapsed, made.source, made.stage, made.ended) == (2.0, 3.0, "keys", "embed", None)
    assert (made.rows[0].count("batches"), made.rows[0].in_stage("batches"), made.rows[0].memory_bytes) == (7, 4, 99)
