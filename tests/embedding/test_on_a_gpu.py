"""What only a GPU has: memory that runs out in the middle of a kernel's launch, and more than one device."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.embedding.test_unit_pipeline import N, StubEncoder, no_retry, plan, run
from tests.launched import PATIENCE_S
from tests.tiny_models import TinyModels
from vpdist.embedding.encoder_process import EncoderProcess
from vpdist.encoders.encoder import load_encoder
from vpdist.planning.plan import Plan
from vpdist.ragged import Ragged

__all__ = ["plan"]  # a fixture

ROOM = 96 << 20
"""Bytes that the tests leave to themselves."""
ROW_BYTES = 10 << 20
"""Of a greedy encoder: a batch of 12 exceeds the room, one of 6 fits."""

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture
def little_room() -> Iterator[torch.device]:
    """A device of which this process may take ROOM more than it has."""
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + ROOM) / total, device)
    yield device
    torch.cuda.set_per_process_memory_fraction(1.0, device)


class GreedyEncoder(StubEncoder):
    """Takes ROW_BYTES of the device for every sequence of a batch."""

    def __init__(self, kind: str, device: torch.device) -> None:
        super().__init__(kind, torch.float16)
        self.device = device
        self.embedded: list[int] = []

    def embed(self, tokens: Ragged) -> torch.Tensor:
        taken = torch.zeros(len(tokens) * ROW_BYTES, dtype=torch.uint8, device=self.device)
        self.embedded.append(len(tokens))
        return super().embed(tokens).to(self.device) + taken[0]


@pytest.mark.cuda
@on_cuda
def test_memory_that_runs_out_for_real_halves_the_batch(
    plan: Plan, tmp_path: Path, little_room: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    encoders = {kind: GreedyEncoder(kind, little_room) for kind in ("nucleotide", "protein")}
    found, n_failed, _ = run(plan, tmp_path, encoders.__getitem__, no_retry)
    assert "out of memory" in caplog.text
    assert max(encoders["protein"].embedded) < 12
    assert n_failed == 0
    assert found["nucleotide"][:, 0].tolist() == list(range(N))


@pytest.mark.launcher
@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        pytest.param("cuda:0", marks=[pytest.mark.cuda, on_cuda]),
        pytest.param(
            "cuda:1",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("kind", ["nucleotide", "protein"])
def test_an_isolated_child_computes_the_same_bits_on_its_ranks_device(models: TinyModels, name: str, kind: str) -> None:
    device, dtype = torch.device(name), "float32" if name == "cpu" else "float16"
    folder = getattr(models, kind)
    lengths = np.array([5, 9, 30, 30, 168])
    batch = Ragged.from_lengths(np.random.default_rng(0).integers(5, 24, lengths.sum()).astype(np.uint16), lengths)
    encoder = load_encoder(folder, kind, getattr(torch, dtype), device)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ours = encoder.embed(batch).cpu().numpy()
    torch.set_num_threads(before)
    with EncoderProcess(device, 1, lambda: None, timeout_s=PATIENCE_S) as process:
        theirs = process.embed(kind, dtype, folder, batch)
    assert encoder.device == device
    assert theirs.tobytes() == ours.tobytes()
