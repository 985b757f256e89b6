"""The packed layers against the plain ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny_models import write_dnabert_s, write_esm2
from vpdist.encoders import cpu_kernels, layers
from vpdist.encoders.encoder import load_encoder
from vpdist.ragged import Ragged

CPU = torch.device("cpu")
CLOSE = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 2e-2, "rtol": 1e-2}}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if not cpu_kernels.serves(CPU, request.param):
        pytest.skip(f"oneDNN has no products of {request.param} on this CPU")
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("rows", [1, 7, 168, 1024, 1500])
@torch.inference_mode()
def test_a_packed_layer_gives_what_the_plain_one_gives(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(96, 200).to(dtype)
    inputs = torch.randn(rows, 96).to(dtype)
    torch.testing.assert_close(cpu_kernels.PackedLinear(plain)(inputs), plain(inputs), **CLOSE[dtype])


@pytest.mark.parametrize("rows", [1, 7, 168, 1024, 1500])
@torch.inference_mode()
def test_packed_layers_with_gelu_give_what_the_plain_ones_give(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    given = (3 * torch.randn(rows, 96)).to(dtype)
    for layer, packed in (
        (layers.GeluLinear(96, 200), cpu_kernels.PackedLinear),
        (layers.GatedGeluLinear(96, 200), cpu_kernels.PackedGatedGeluLinear),
    ):
        expected = layer.to(dtype).float()(given.float())
        assert expected.shape == (rows, 200)
        found = packed(layer.to(dtype))(given)
        torch.testing.assert_close(found.float(), expected, atol=CLOSE[dtype]["atol"], rtol=2 * CLOSE[dtype]["rtol"])
        assert (found.float() - expected).abs().mean() <= (layer(given).float() - expected).abs().mean() + 1e-6


def test_a_rank_starts_without_importing_torchs_compiler_or_transformers(tmp_path: Path) -> None:
    program = """
import sys, torch
from pathlib import Path
from vpdist.encoders.encoder import load_encoder
for kind, folder in zip(("nucleotide", "protein"), sys.argv[1:]):
    load_encoder(Path(folder), kind, torch.float32, torch.device("cpu"))
print([name for name in ("torch._dynamo", "transformers") if name in sys.modules])
"""
    folders = [str(write(tmp_path / write.__name__)) for write in (write_dnabert_s, write_esm2)]
    ended = subprocess.run([sys.executable, "-c", program, *folders], check=True, capture_output=True, text=True)
    assert ended.stdout == "[]\n"  # either takes most of a second


@pytest.mark.parametrize(("kind", "write"), [("nucleotide", write_dnabert_s), ("protein", write_esm2)])
def test_an_encoder_with_packed_layers_gives_what_one_without_gives(tmp_path, monkeypatch, kind, write, dtype) -> None:
    folder = write(tmp_path)
    tokens = Ragged.from_lengths(np.arange(5, 31, dtype=np.uint8), [10, 16])
    packed = load_encoder(folder, kind, dtype, CPU)
    assert any(isinstance(module, cpu_kernels.PackedLinear) for module in packed.model.modules())
    assert not any(isinstance(module, nn.Linear) for module in packed.model.modules())
    monkeypatch.setattr(cpu_kernels, "serves", lambda device, dtype: False)
    plain = load_encoder(folder, kind, dtype, CPU)
    assert not any(isinstance(module, cpu_kernels.PackedLinear) for module in plain.model.modules())
    torch.testing.assert_close(packed.embed(tokens), plain.embed(tokens), **CLOSE[dtype])


def test_only_layers_on_a_cpu_in_formats_that_onednn_multiplies_are_packed(tmp_path, monkeypatch) -> None:
    for dtype in (torch.float64, torch.float16):
        assert not cpu_kernels.serves(CPU, dtype)
    for dtype in (torch.float32, torch.bfloat16):
        assert not cpu_kernels.serves(torch.device("cuda"), dtype)
    encoder = load_encoder(write_esm2(tmp_path), "protein", torch.float64, CPU)
    assert not any(isinstance(module, cpu_kernels.PackedLinear) for module in encoder.model.modules())
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not cpu_kernels.serves(CPU, torch.float32)
