"""What the processes that are timed send, and how their end without a word is reported."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.fake_gpus import fake_gpus
from vpdist.environment import LaunchContext
from vpdist.errors import VpdistError, WeightsError
from vpdist.estimate import timing_process
from vpdist.estimate.timing_process import Timing, TimingRequest, _timings
from vpdist.storage.run_folder import RunFolder

FOUND = Timing(
    import_s=1.0,
    load_s=1.0,
    program_bytes=1,
    encoder_bytes=1,
    batch_bytes=1,
    device_bytes=0,
    seconds=1.0,
    cost=1,
    batches=1,
)


@dataclass
class Ended:
    """A process that has ended with a code."""

    exitcode: int | None
    sentinel: int


@pytest.fixture
def sentinel() -> Iterator[int]:
    """Ready for reading, as that of a process that has ended."""
    reader, writer = os.pipe()
    os.close(writer)
    yield reader
    os.close(reader)


def request(folder: Path) -> TimingRequest:
    made = TimingRequest.__new__(TimingRequest)
    object.__setattr__(made, "folder", RunFolder(folder))
    return made


def collect(folder: Path, processes: list[Ended], receivers: list[Connection]) -> list[Timing]:
    return _timings(request(folder), processes, receivers, lambda: None)  # type: ignore[arg-type]


def test_a_timing_counts_though_its_process_ends_badly_afterwards(tmp_path: Path, sentinel: int) -> None:
    receiver, sender = Pipe(duplex=False)
    sender.send(FOUND)
    assert collect(tmp_path, [Ended(-11, sentinel)], [receiver]) == [FOUND]


def test_an_error_that_a_process_sends_is_raised_with_its_type(tmp_path: Path, sentinel: int) -> None:
    receiver, sender = Pipe(duplex=False)
    sender.send(WeightsError("two tensors are missing"))
    with pytest.raises(WeightsError, match="two tensors are missing"):
        collect(tmp_path, [Ended(4, sentinel)], [receiver])


def test_a_process_that_sends_nothing_is_reported_with_its_code_and_last_line(tmp_path: Path, sentinel: int) -> None:
    log = RunFolder(tmp_path).log(0)
    log.parent.mkdir()
    log.write_text("first\nthe last line\n")
    receiver, sender = Pipe(duplex=False)
    with sender, pytest.raises(VpdistError, match="ended with code -9 the last line"):
        collect(tmp_path, [Ended(-9, sentinel)], [receiver])


def test_each_process_makes_its_gpu_current_before_it_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    current = fake_gpus(monkeypatch)
    loading: list[tuple[torch.device, list[torch.device]]] = []

    def load(*arguments: Any) -> None:
        loading.append((arguments[4], current.copy()))
        raise WeightsError("enough")

    made = request(tmp_path)
    object.__setattr__(made, "inputs", SimpleNamespace(resolved=SimpleNamespace(threads=1, device="cuda")))
    for name in ("stretches", "longest"):
        object.__setattr__(made, name, np.empty((0, 2), dtype=np.int64))
    monkeypatch.setattr(timing_process.plan_file, "map_plan", lambda path: (None, ""))
    monkeypatch.setattr(timing_process, "cut_out", lambda plan, rows: (None, []))
    monkeypatch.setattr(timing_process, "load_work", load)
    with pytest.raises(WeightsError):
        timing_process._timing(made, LaunchContext(rank=1, world_size=2, local_rank=1, local_world_size=2), 0.0)
    mine = torch.device("cuda", 1)
    assert loading == [(mine, [mine])]
