"""What the processes that are timed send, and how their end without a word is reported."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from vpdist.errors import VpdistError, WeightsError
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
