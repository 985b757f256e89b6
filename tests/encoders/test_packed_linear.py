"""The fast bfloat16 layers against the plain ones."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny_models import write_dnabert_s, write_esm2
from vpdist.encoders import cpu_kernels
from vpdist.encoders.encoder import load_encoder
from vpdist.ragged import Ragged

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not cpu_kernels.serves(CPU, torch.bfloat16), reason="oneDNN has no bfloat16 products on this CPU"
)


@pytest.mark.parametrize("rows", [1, 7, 168, 1024, 1500])
@torch.inference_mode()
def test_a_packed_layer_gives_what_the_plain_one_gives(rows: int) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(96, 200).bfloat16()
    inputs = torch.randn(rows, 96).bfloat16()
    torch.testing.assert_close(cpu_kernels.PackedLinear(plain)(inputs), plain(inputs), atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize(("kind", "write"), [("nucleotide", write_dnabert_s), ("protein", write_esm2)])
def test_an_encoder_with_packed_layers_gives_what_one_without_gives(tmp_path, monkeypatch, kind, write) -> None:
    folder = write(tmp_path)
    tokens = Ragged.from_lengths(np.arange(5, 31, dtype=np.uint8), [10, 16])
    packed = load_encoder(folder, kind, torch.bfloat16, CPU)
    assert any(isinstance(module, cpu_kernels.PackedLinear) for module in packed.model.modules())
    assert not any(isinstance(module, nn.Linear) for module in packed.model.modules())
    monkeypatch.setattr(cpu_kernels, "serves", lambda device, dtype: False)
    plain = load_encoder(folder, kind, torch.bfloat16, CPU)
    assert not any(isinstance(module, cpu_kernels.PackedLinear) for module in plain.model.modules())
    torch.testing.assert_close(packed.embed(tokens), plain.embed(tokens), atol=2e-2, rtol=1e-2)


def test_only_bfloat16_on_a_cpu_is_packed(tmp_path) -> None:
    assert not cpu_kernels.serves(CPU, torch.float32)
    assert not cpu_kernels.serves(torch.device("cuda"), torch.bfloat16)
    encoder = load_encoder(write_esm2(tmp_path), "protein", torch.float32, CPU)
    assert not any(isinstance(module, cpu_kernels.PackedLinear) for module in encoder.model.modules())
