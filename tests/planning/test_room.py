"""How many fragments one plan may have: what is said, and that planning takes no more memory than is said."""

import tracemalloc

import numpy as np
import pytest

from scripts.bench.balance import COSTS, GPU_LIMITS
from scripts.bench.large_inputs import fragment_keys
from vpdist.errors import UsageError
from vpdist.planning import room
from vpdist.planning.fragment_order import SLAB
from vpdist.planning.plan import build

GB = 10**9


def test_a_plan_takes_no_more_memory_than_is_said() -> None:
    n = 3_000_000
    slabs = 20 * 8 * SLAB  # intermediate results and lists, of any number of fragments
    tracemalloc.start()
    try:
        made = [fragment_keys(n, np.random.default_rng(1))]
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        build(made.pop(), GPU_LIMITS, COSTS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert before >= 28 * n  # keys count
    assert peak < room.planning_bytes(n) + slabs


def test_few_fragments_are_planned_without_a_word() -> None:
    assert room.check(0, 8 * GB) == ""
    assert room.check(room.MOST_FRAGMENTS, 8 * GB) == ""
    assert room.shards_needed(room.MOST_FRAGMENTS, 9 * GB) == 1
    assert "n >= 2" in room.check(room.MOST_FRAGMENTS, 8 * GB, by_object=True)


def test_more_than_a_minute_of_planning_is_warned_of_with_the_number_of_shards() -> None:
    assert room.check(10**9, 64 * GB) == (
        "warning: 1,000,000,000 fragments need about 48.4 GiB for planning; cut into shards: "
        "--manifest FILE --shard i/n with n >= 10"
    )


def test_what_memory_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match=r"need about 4.8 GiB .* n >= 2 \(this machine has 4.7 GiB\)"):
        room.check(100_000_001, 5 * GB)
    with pytest.raises(UsageError, match="n >= 88 "):
        room.check(10**9, GB)
    with pytest.raises(UsageError, match=r"need about 6\.5 GiB "):
        room.check(100_000_000, 6 * GB, by_object=True)


@pytest.mark.parametrize("n", [1, 10**6, 10**9, 37 * 10**9])
@pytest.mark.parametrize("memory", [10**9, 8 * GB, 10**12])
def test_so_many_shards_are_enough(n: int, memory: int) -> None:
    assert n / room.shards_needed(n, memory) <= room.most_fragments(memory)
    assert room.planning_bytes(room.most_fragments(memory), by_object=True) <= memory
