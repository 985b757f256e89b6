"""Kernels that CUDA compiles from a text: the text is that of a C++ function, so a C++ compiler tells what it gives."""

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.cuda.jiterator import _CodeParser
from torch.nn import functional

from tests.tiny_models import write_esm2
from vpdist.encoders import cuda_kernels, esm2

CPU = torch.device("cpu")
COMPILER = shutil.which("c++")
LOOPS = """
#include <cmath>
using std::erf;
%s
extern "C" void gelu(const float *a, const float *b, float *out, long n) {
    for (long i = 0; i < n; i++) out[i] = gelu_times<float>(a[i], b[i]);
}
extern "C" void rotated(const int *a, const int *b, const int *c, int *out, long n) {
    for (long i = 0; i < n; i++) out[i] = rotated_bfloat16<int>(a[i], b[i], c[i]);
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Both functions, for the host."""
    if COMPILER is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(LOOPS % (cuda_kernels.GELU_TIMES + cuda_kernels.ROTATED_BFLOAT16))
    flags = ["-O2", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([COMPILER, *flags, folder / "kernels.cpp", "-o", folder / "kernels.so"], check=True)
    return ctypes.CDLL(str(folder / "kernels.so"))


def called(function: object, *tensors: torch.Tensor) -> torch.Tensor:
    output = torch.empty_like(tensors[0])
    pointers = [ctypes.c_void_p(each.data_ptr()) for each in (*tensors, output)]
    function(*pointers, ctypes.c_long(output.numel()))  # type: ignore[operator]
    return output


def test_torch_finds_the_functions_in_their_texts() -> None:
    texts = cuda_kernels.GELU_TIMES, cuda_kernels.ROTATED_BFLOAT16
    assert [_CodeParser(text).function_name for text in texts] == ["gelu_times", "rotated_bfloat16"]


def test_gelu_times_value_is_what_torch_gives(compiled: ctypes.CDLL) -> None:
    gate, value = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0)) * 3
    expected = functional.gelu(gate.double()) * value.double()
    torch.testing.assert_close(called(compiled.gelu, gate, value).double(), expected, atol=1e-6, rtol=1e-5)


def test_bfloat16_is_rotated_with_the_bits_of_a_rotation_in_float32(compiled: ctypes.CDLL) -> None:
    random = torch.Generator().manual_seed(0)
    states = torch.randn(100_000, 1, 2, generator=random).to(torch.bfloat16)
    states[:1000] *= 1e38  # some overflow
    states[0, 0, 0], states[1, 0, 1], states[2, 0] = torch.nan, torch.inf, 0
    angle = torch.rand(100_000, 1, 1, generator=random) * 1000
    rotation = torch.polar(torch.ones_like(angle), angle)
    expected = esm2.rotated(states.clone(), rotation)
    pairs = states.view(torch.int32).flatten()
    parts = [part.flatten().contiguous() for part in torch.view_as_real(rotation).view(torch.int32).unbind(-1)]
    turned = called(compiled.rotated, pairs, *parts).view(torch.bfloat16).view(-1, 1, 2)
    assert torch.equal(turned.isnan(), expected.isnan())
    assert torch.equal(turned.nan_to_num(1), expected.nan_to_num(1))
    assert expected.isinf().any()


def by_torch(text: str):
    """What the kernels compute, by torch's operators."""

    def gelu_times(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return (functional.gelu(gate.float()) * value.float()).to(gate.dtype)

    def rotated(pairs: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        rotation = torch.complex(cosine.view(torch.float32), sine.view(torch.float32))
        return esm2.rotated(pairs.view(torch.bfloat16).clone(), rotation).view(torch.int32)

    return gelu_times if "gelu" in text else rotated


def wrong(text: str):
    return lambda *tensors: by_torch(text)(*tensors) * 2


def refused(text: str):
    raise RuntimeError("nvrtc: error: failed to open libnvrtc-builtins.so")


@pytest.mark.parametrize(
    ("function", "said"), [(by_torch, None), (wrong, "other numbers"), (refused, "libnvrtc-builtins")]
)
def test_kernels_are_used_where_they_compile_and_give_what_torch_gives(
    function, said: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_kernels, "_compiled", function)
    with caplog.at_level(logging.WARNING):
        assert cuda_kernels.compiles.__wrapped__(CPU) == (said is None)
    assert (said or "") in caplog.text


@pytest.mark.parametrize("only", ["gelu", "rotated"])
def test_either_kernel_alone_is_compared(only: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_kernels, "_compiled", lambda text: (wrong if only in text else by_torch)(text))
    assert not cuda_kernels.compiles.__wrapped__(CPU)


def test_products_are_exact_once_an_encoder_is_loaded_whatever_the_environment_says(tmp_path: Path) -> None:
    program = f"""
import torch
from pathlib import Path
from vpdist.encoders.encoder import load_encoder
matmul = torch.backends.cuda.matmul
def flags():
    half = matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction
    return matmul.allow_tf32, torch.backends.cudnn.allow_tf32, *half
before = flags()
load_encoder(Path({str(write_esm2(tmp_path))!r}), "protein", torch.float32, torch.device("cpu"))
print(before, flags())
"""
    environment = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", program]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    assert told.stdout.split() == f"{(True,) * 4} {(False,) * 4}".split()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_kernels_compile_on_this_gpu() -> None:
    assert cuda_kernels.compiles(torch.device("cuda", 0))
