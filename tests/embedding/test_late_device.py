"""A device that is late, in any way, gets the files that a CPU gets; without one of the pipeline's precautions not."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.embedding.test_unit_pipeline import COST, StubEncoder, wide_of, work_of
from tests.without_cuda.late_device import LateDevice, LateStream, late
from tests.without_cuda.pretended import CUDA
from vpdist.embedding.device_buffers import BATCHES_AHEAD, EmbeddingRows, InFlight
from vpdist.embedding.unit_pipeline import Pipeline
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import Limits, Plan, build
from vpdist.ragged import Ragged
from vpdist.results import parts

ROWS, UNITS, LENGTH = 48, 3, 5
SCHEDULES = st.lists(st.integers(0, 11), max_size=40)
NEVER, AT_ONCE = [0], [10, 11]


def plan_of_units() -> Plan:
    keys = FragmentKeys(
        residues=np.full(ROWS, 3),
        tokens={"nucleotide": np.full(ROWS, LENGTH), "protein": np.full(ROWS, LENGTH)},
        nucleotide_hash=np.arange(ROWS, dtype=np.uint64) << np.uint64(40),
        protein_hash=np.zeros(ROWS, np.uint64),
    )
    limits = Limits(token_budget=60, unit_cost=10**12, unit_rows=ROWS // UNITS)
    plan = build(keys, limits, {"nucleotide": COST, "protein": COST})
    assert plan.n_units >= UNITS
    return plan


class Shards:
    """Sequence i of unit u is of the number 16 u + i."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def unit(self, unit: int) -> dict[str, Ragged]:
        n = len(self.plan.fragments(unit))
        tokens = Ragged.from_lengths(np.repeat(np.arange(n) + 16 * unit, LENGTH).astype(np.uint16), [LENGTH] * n)
        return {"nucleotide": tokens, "protein": tokens}


class LateEncoder(StubEncoder):
    """The same on the device: what it returns is there once the device has done it."""

    device = CUDA

    def embed(self, tokens: Ragged) -> torch.Tensor:
        rows_BD = super().embed(tokens).pin_memory().to(self.device, non_blocking=True)
        return rows_BD * 2 - rows_BD  # two kernels, and memory that is given away


def files_of(encoder: type[StubEncoder], most_rows: int) -> tuple[list[bytes], dict[str, int]]:
    """Each unit's part, and what was counted except times."""
    plan, counted = plan_of_units(), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = work_of(
            plan, folder, lambda kind: encoder(kind, torch.float16, most_rows, bad={4, 19}), wide_of(encoder)
        )
        object.__setattr__(work, "shards", Shards(plan))
        with Pipeline(work, lambda **counters: counted.update(counters)) as pipeline:
            for unit in range(plan.n_units):
                pipeline.run(unit)
        files = [parts.part_path(folder, unit).read_bytes() for unit in range(plan.n_units)]
    return files, {name: n for name, n in counted.items() if not name.endswith("_us")}


@pytest.mark.parametrize("most_rows", [1000, 7])
@settings(max_examples=25, deadline=None, derandomize=True)
@example(NEVER)
@example(AT_ONCE)
@given(SCHEDULES)
def test_a_late_device_gets_the_files_and_counts_of_a_cpu(most_rows: int, schedule: list[int]) -> None:
    with late(LateDevice(schedule)) as device:
        found = files_of(LateEncoder, most_rows)
    assert found == files_of(StubEncoder, most_rows)
    assert device.synchronized > 0
    assert len(device.streams) == 2


def differs() -> bool:
    """Whether some schedule gives other files than a CPU."""
    expected = files_of(StubEncoder, 1000)
    random = np.random.default_rng(0)
    for schedule in [NEVER, AT_ONCE, *(random.integers(0, 12, 40).tolist() for _ in range(30))]:
        with late(LateDevice(schedule)):
            if files_of(LateEncoder, 1000) != expected:
                return True
    return False


def not_waited_for(self: EmbeddingRows) -> np.ndarray:
    return self._rows_MD.numpy()


def test_without_waiting_for_the_copy_files_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddingRows, "on_host", not_waited_for)
    assert differs()


def test_without_waiting_for_the_computation_files_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LateStream, "wait_event", lambda self, event: None)
    assert differs()


def test_without_record_stream_memory_is_given_away_and_files_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    made = LateDevice.__init__
    monkeypatch.setattr(LateDevice, "__init__", lambda self, schedule: made(self, schedule, recorded=False))
    assert differs()


def test_with_all_of_them_no_schedule_gives_other_files() -> None:
    assert not differs()


def test_few_batches_are_in_flight_and_the_host_sleeps_while_it_waits() -> None:
    done: list[int] = []
    with late(LateDevice(NEVER)) as device:
        in_flight = InFlight(CUDA)
        for batch in range(10):
            in_flight.launched(lambda batch=batch: done.append(batch))
            assert batch + 1 - len(done) <= BATCHES_AHEAD
        assert len(done) == 10 - BATCHES_AHEAD
        in_flight.wait()
    assert done == list(range(10))
    assert device.synchronized == 10


def test_an_event_that_spins_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with late(LateDevice(NEVER)) as device:
        monkeypatch.setattr(torch.cuda, "Event", lambda blocking: device.event())
        in_flight = InFlight(CUDA)
        in_flight.launched(lambda: None)
        with pytest.raises(AssertionError, match="spins"):
            in_flight.wait()


def test_copies_that_wait_are_refused() -> None:
    with late(LateDevice(NEVER)):
        rows = torch.empty((3,), dtype=torch.float32, device=CUDA)
        with pytest.raises(AssertionError, match="not pinned"):
            torch.empty(3).copy_(rows, non_blocking=True)
        with pytest.raises(AssertionError, match="to the host waits"):
            torch.empty_like(rows, device="cpu", pin_memory=True).copy_(rows)
        with pytest.raises(AssertionError, match="not pinned"):
            torch.zeros(3).to(CUDA, non_blocking=True)
        with pytest.raises(AssertionError, match="to the device waits"):
            torch.zeros(3).pin_memory().to(CUDA)
