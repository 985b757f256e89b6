"""Units computed in a child process: what kills it is found and set aside, all else keeps its bits."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict
from vpdist.embedding.encoder_process import ChildDied, ChildHung
from vpdist.embedding.isolated_encoder import IsolatedEncoder, isolated_work
from vpdist.embedding.wider_formats import WiderEncoders
from vpdist.encoders.family import ESM2
from vpdist.encoders.shape import EncoderShape
from vpdist.ragged import Ragged
from vpdist.results import parts

LENGTHS = (5, 5, 6, 9)
DEADLY = 66


class StubEncoder:
    """What an isolated encoder takes over from the rank's own."""

    kind, folder, length_bucket = "protein", Path("esm2"), 1
    shape = EncoderShape(family=ESM2, width=2, vocabulary=100)
    dtype = torch.float32


class StubProcess:
    """Computes (second token, number of sequences) of each sequence, and dies as it is told."""

    def __init__(self, dies: Callable[[int, Ragged], bool]) -> None:
        self.dies, self.asked = dies, list[Ragged]()

    def embed(self, kind: str, dtype: str, folder: Path, batch: Ragged) -> np.ndarray:
        self.asked.append(batch)
        if self.dies(len(self.asked), batch):
            raise ChildDied("the child process ended with status -11")
        return np.stack([batch.flat[batch.offsets[:-1] + 1], np.full(len(batch), len(batch))], 1).astype(np.float32)


def embed(process: StubProcess, *rows: int) -> np.ndarray:
    """Sequences 0 x x ... 2, where x is the row's number."""
    sequences = [np.array([0, *[row] * (length - 2), 2]) for row, length in zip(rows, LENGTHS, strict=False)]
    tokens = Ragged.from_lengths(np.concatenate(sequences), [len(sequence) for sequence in sequences])
    encoder = IsolatedEncoder(process, StubEncoder(), torch.float32)  # type: ignore[arg-type]
    return encoder.embed(tokens).numpy()


def holds_deadly(times: int, batch: Ragged) -> bool:
    return DEADLY in batch.flat


def test_what_kills_nothing_is_computed_as_it_comes() -> None:
    process = StubProcess(lambda times, batch: False)
    assert embed(process, 7, 8, 9, 10).tolist() == [[7, 4], [8, 4], [9, 4], [10, 4]]
    assert len(process.asked) == 1


def test_only_what_kills_the_child_alone_is_set_aside_and_the_others_keep_their_batch() -> None:
    process = StubProcess(holds_deadly)
    found = embed(process, 7, 8, DEADLY, 10)
    assert np.isnan(found[2]).all()
    assert np.delete(found, 2, axis=0).tolist() == [[7, 4], [8, 4], [10, 4]]
    tokens = process.asked[-1]
    assert tokens.lengths.tolist() == list(LENGTHS)
    assert tokens[2].tolist() == [0, 7, 7, 7, 7, 2]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_death_from_outside_costs_nothing(times: int) -> None:
    process = StubProcess(lambda now, batch: now in (1, times))
    assert embed(process, 7, 8, 9, 10).tolist() == [[7, 4], [8, 4], [9, 4], [10, 4]]
    assert len(process.asked) > 1


def test_where_only_the_batch_kills_each_sequence_keeps_what_it_got_alone() -> None:
    process = StubProcess(lambda now, batch: len(batch) > 1)
    assert embed(process, 7, 8, 9, 10).tolist() == [[7, 1], [8, 1], [9, 1], [10, 1]]


def test_a_deadly_sequence_that_is_a_batch_of_its_own_is_tried_twice() -> None:
    process = StubProcess(holds_deadly)
    assert np.isnan(embed(process, DEADLY)).all()
    assert len(process.asked) == 2


def test_memory_that_does_not_suffice_is_the_callers_business() -> None:
    class Small(StubProcess):
        def embed(self, kind: str, dtype: str, folder: Path, batch: Ragged) -> np.ndarray:
            raise torch.OutOfMemoryError("in the child process")

    with pytest.raises(torch.OutOfMemoryError):
        embed(Small(holds_deadly), 7, 8)


def test_a_sequence_at_which_the_child_hangs_alone_is_set_aside_at_once() -> None:
    class Hanging(StubProcess):
        def embed(self, kind: str, dtype: str, folder: Path, batch: Ragged) -> np.ndarray:
            try:
                return super().embed(kind, dtype, folder, batch)
            except ChildDied:
                raise ChildHung("the child process did not reply for 60 s") from None

    process = Hanging(holds_deadly)
    found = embed(process, 7, DEADLY)
    assert np.isnan(found[1]).all()
    assert found[0].tolist() == [7, 2]
    assert sum(DEADLY in batch.flat for batch in process.asked) == 2


@pytest.mark.launcher
def test_a_unit_that_was_merely_unlucky_comes_out_the_same_to_the_bit(models: TinyModels, tmp_path: Path) -> None:
    settings = models.settings(write_contigs(tmp_path / "contigs.fa", n=20), tmp_path / "run")
    assert predict(settings) == 0
    names = ("nucleotide", "protein", "logits", "failed", "fragment", "row")
    before = parts.read(tmp_path / "run" / "parts", 1, names)
    tables = [(tmp_path / "run" / name).read_bytes() for name in ("sequences.tsv", "chunks.tsv", "fragments.tsv")]
    (tmp_path / "run" / "parts" / "unit-000001.h5").unlink()
    for rank in range(2):
        (tmp_path / "run" / "at_work" / f"rank{rank:05d}.1").write_text("1")
    assert predict(settings) == 0
    assert "unit 1, isolated: 0 rows failed" in (tmp_path / "run" / "logs" / "rank00000.log").read_text()
    after = parts.read(tmp_path / "run" / "parts", 1, names)
    assert all(before[name].tobytes() == after[name].tobytes() for name in names)
    assert [
        (tmp_path / "run" / each).read_bytes() for each in ("sequences.tsv", "chunks.tsv", "fragments.tsv")
    ] == tables
    assert json.loads((tmp_path / "run" / "run.json").read_text())["deaths"] == {"1": 2}


def test_wider_formats_are_loaded_and_given_back_in_the_child() -> None:
    asked: list[tuple[str, ...]] = []
    process = SimpleNamespace(
        load=lambda kind, dtype, folder: asked.append(("load", kind, dtype, str(folder))),
        release=lambda kind, dtype: asked.append(("release", kind, dtype)),
    )

    @dataclass
    class Work:
        encoders: dict[str, StubEncoder]
        wider: WiderEncoders

    def never(kind: str, dtype: torch.dtype) -> None:
        raise AssertionError("this process loads nothing")

    encoder = StubEncoder()
    encoder.dtype = torch.float16
    own = WiderEncoders((torch.bfloat16, torch.float32), never, never)  # type: ignore[arg-type]
    isolated = isolated_work(Work({"protein": encoder}, own), process)  # type: ignore[arg-type]
    assert isolated.wider.formats == own.formats
    for dtype in (*own.formats, *own.formats):
        assert isolated.wider.encoder("protein", dtype).dtype == dtype
    isolated.wider.end_of_unit()
    isolated.wider.release()
    assert asked == [
        *[("load", "protein", dtype, "esm2") for dtype in ("bfloat16", "float32")],
        *[("release", "protein", dtype) for dtype in ("float32", "bfloat16")],
    ]
