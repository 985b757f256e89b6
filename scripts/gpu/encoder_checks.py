"""Encoders on the device: whether it serves them, which kernels run, what batches, buckets and rotation cost."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from scripts.bench.encoders import one_pass
from scripts.bench.products import median_seconds, wait
from scripts.gpu.setting import Setting, Size, random_sequences, with_layers
from scripts.gpu.traces import per_layer, synchronises, traced
from scripts.gpu.verdicts import FIGURE, Verdict, bounded, held, skipped
from vpdist.encoders.encoder import DTYPES, Encoder
from vpdist.encoders.esm2 import Esm2, rotated
from vpdist.encoders.packing import Packing
from vpdist.encoders.shape import encoder_shape
from vpdist.ragged import Ragged

LAUNCHES = {"nucleotide": 14.0, "protein": 12.0}
"""Of a layer, at most, for fragments of 500 bases."""
LEAST_COSINE = 0.999
"""Of an embedding that is computed in another way in half precision, as in the tests of parity."""
MIXED_GOAL = {"nucleotide": None, "protein": 0.9}
"""DNABERT-S has no kernel for variable lengths."""
MIXED_BATCHES = 8
"""That are timed."""
FEWEST_TOKENS = 12
NOT_SLOWER = 0.97
"""A choice must not take longer than what it replaces; less than this is noise."""
DRIVER = Path("/proc/driver/nvidia/version")
PRODUCT_ERROR = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
"""Of a number of a matrix product, over its largest."""


def driver(setting: Setting) -> Iterator[Verdict]:
    """Card, driver and capability; products in every number format against float64 on the CPU."""
    yield Verdict(what="driver", value=driver_version(), outcome=FIGURE)
    if setting.on_cuda:
        major, minor = torch.cuda.get_device_capability(setting.device)
        served = ", ".join(torch.cuda.get_arch_list())
        value = (
            f"{torch.cuda.get_device_name(setting.device)}, {major}.{minor}, {(setting.memory or 0) / 2**30:.0f} GiB"
        )
        yield held("card and capability", (major, minor) >= (7, 0), value, ">= 7.0", f"torch has kernels for {served}")
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator, dtype=torch.float64) for _ in range(2))
    for name, dtype in DTYPES.items():
        a, b = left.to(dtype), right.to(dtype)
        exact = a.double() @ b.double()
        product = (a.to(setting.device) @ b.to(setting.device)).double().cpu()
        error = float((product - exact).abs().max() / exact.abs().max())
        yield bounded(f"a product in {name}, error", error, at_most=PRODUCT_ERROR[name])


def driver_version(file: Path = DRIVER) -> str:
    """The NVIDIA driver's version as the kernel tells it."""
    try:
        words = file.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return f"unknown ({file} cannot be read), {platform.system()} {platform.release()}"
    return next((word for word in words if word[0].isdigit() and "." in word), " ".join(words))


def profiles(setting: Setting) -> Iterator[Verdict]:
    """One batch of every encoder: launches of a layer, waiting, cuDNN's attention. Kernels are listed."""
    for size in (setting.sizes.nucleotide, *setting.sizes.proteins):
        yield from _profile(setting, size)


def _profile(setting: Setting, size: Size) -> Iterator[Verdict]:
    traces = []
    waits = ""
    for layers in (2, 4):
        encoder = setting.encoder(with_layers(size, layers), setting.dtype)
        batch = setting.batch(encoder)
        for _ in range(2):  # what is made once: handles, workspaces, biases
            encoder.embed(batch)
        wait(setting.device)
        if setting.on_cuda:
            waits = waits or synchronises(lambda e=encoder, b=batch: e.embed(b), setting.device)  # type: ignore[misc]
        traces.append(traced(lambda e=encoder, b=batch: e.embed(b), setting.device))  # type: ignore[misc]
    fewer, more = traces
    name, note = f"{size.name}, {setting.dtype}", f"{len(batch)} sequences, {len(batch.flat):,} tokens"
    launches = per_layer(fewer, more, 2)
    yield bounded(f"{name}: launches of a layer", launches, at_most=LAUNCHES[size.kind], note=note)
    if setting.on_cuda:
        yield held(f"{name}: nothing waits for the device", not waits, note=waits)
    else:
        yield skipped(f"{name}: nothing waits for the device", "only CUDA can tell")
    cudnn = ", ".join(more.cudnn)
    yield held(f"{name}: kernels, none of cuDNN", not cudnn, f"{len({*more.names})}", note=cudnn, details=more.listed())


def mixed(setting: Setting) -> Iterator[Verdict]:
    """Sequences of mixed lengths: their time, and their embeddings beside those that each gets alone."""
    rng = np.random.default_rng(1)
    for size, equal, longest in ((setting.sizes.nucleotide, 108, 512), (setting.sizes.proteins[0], 168, 1024)):
        encoder = setting.encoder(size, setting.dtype)
        budget = len(setting.batch(encoder).flat)
        of_mixed = rng.integers(FEWEST_TOKENS, longest + 1, max(8, MIXED_BATCHES * 2 * budget // longest))
        rates = [
            _tokens_per_second(encoder, lengths, budget, rng)
            for lengths in (np.full(max(1, int(of_mixed.sum()) // equal), equal), of_mixed)
        ]
        note = f"{rates[1]:,.0f} and {rates[0]:,.0f} tokens/s"
        goal = MIXED_GOAL[size.kind]
        yield bounded(f"{size.name}, mixed over equal lengths", rates[1] / rates[0], at_least=goal, note=note)
        one_batch = of_mixed[: max(2, int((of_mixed.cumsum() <= budget).sum()))]
        batch = random_sequences(one_batch, rng)
        together, again = encoder.embed(batch), encoder.embed(batch)
        yield held(f"{size.name}, the same batch twice, bit for bit", torch.equal(together, again))
        chosen = np.linspace(0, len(batch) - 1, min(16, len(batch))).astype(int)
        alone = torch.cat([encoder.embed(batch.take(np.array([row]))) for row in chosen])
        yield _agreement(f"{size.name}, mixed batch against one at a time", together[torch.from_numpy(chosen)], alone)


def _tokens_per_second(encoder: Encoder, lengths: np.ndarray, budget: int, rng: np.random.Generator) -> float:
    """Of sequences in the batches in which `predict` would compute them."""
    tokens = random_sequences(lengths, rng).flat
    seconds = median_seconds(lambda: one_pass(encoder, tokens, lengths, budget), encoder.device)
    return float(lengths.sum() / seconds)


def _agreement(what: str, a_BD: Tensor, b_BD: Tensor, note: str = "") -> Verdict:
    cosine = float(cosine_similarity(a_BD.double(), b_BD.double(), dim=1).min())
    equal = float((a_BD == b_BD).all(dim=1).double().mean())
    text = f"{100 * equal:.0f} % with equal bits" + (f"; {note}" if note else "")
    return bounded(f"{what}, least cosine", cosine, at_least=LEAST_COSINE, note=text)


def bucket(setting: Setting) -> Iterator[Verdict]:
    """The length bucket of DNABERT-S, which has no kernel for variable lengths, against none: embeddings and time."""
    encoder, name = setting.encoder(setting.sizes.nucleotide, setting.dtype), setting.sizes.nucleotide.name
    batch, default = setting.batch(encoder), encoder.length_bucket
    embedded, seconds = {}, {}
    for length_bucket in (default, 1):
        encoder.length_bucket = length_bucket
        embedded[length_bucket] = encoder.embed(batch)
        seconds[length_bucket] = median_seconds(lambda: encoder.embed(batch), setting.device)
    times = f"bucket {default}: {1000 * seconds[default]:.2f} ms, none: {1000 * seconds[1]:.2f} ms"
    yield _agreement(f"{name}, length bucket against none", embedded[default], embedded[1])
    yield bounded(f"{name}, speed with it over without", seconds[1] / seconds[default], at_least=NOT_SLOWER, note=times)


def rotation(setting: Setting) -> Iterator[Verdict]:
    """ESM-2's rotation of queries and keys against float64, rounded once; its time beside that of a copy."""
    size = setting.sizes.proteins[-1]
    encoder = setting.encoder(with_layers(size, 1), setting.dtype)
    ours, exact, seconds, copy_s = _rotate(encoder, setting.batch(encoder))
    modulus = torch.view_as_complex(exact.unflatten(2, (-1, 2))).abs().max()
    deviation = float((ours.double() - exact).abs().max() / modulus)
    equal = float((ours == exact.to(ours.dtype)).double().mean())
    note = f"{100 * equal:.2f} % of the numbers as if rounded once"
    yield bounded(f"{size.name}, rotation, deviation", deviation, at_most=torch.finfo(ours.dtype).eps, note=note)
    note = f"{1e6 * seconds:.0f} µs; a copy of queries and keys {1e6 * copy_s:.0f} µs"
    yield bounded(f"{size.name}, rotation, times of a copy", seconds / copy_s, "x", note=note)


@torch.inference_mode()
def _rotate(encoder: Encoder, batch: Ragged) -> tuple[Tensor, Tensor, float, float]:
    """Rotated queries and keys (T, 2H, E); the same in float64; seconds of a rotation, and of a copy."""
    assert isinstance(encoder.model, Esm2)
    device, heads = encoder.device, encoder_shape(encoder.folder).heads
    packing = Packing(batch.lengths, device)
    rotation_T1E = encoder.model._rotation(packing)
    shape = (len(batch.flat), 3 * heads, encoder.width // heads)
    generator = torch.Generator(device).manual_seed(0)
    qkv_THE = torch.empty(shape, device=device).normal_(generator=generator).to(encoder.dtype)
    states_THE = qkv_THE[:, : 2 * heads].clone()
    angle_TE = packing.positions[:, None].double() * encoder.model.inv_freq.double()
    turned_T1E = torch.polar(torch.ones_like(angle_TE), angle_TE)[:, None]
    exact_THE = torch.view_as_real(torch.view_as_complex(states_THE.double().unflatten(2, (-1, 2))) * turned_T1E)
    ours_THE = rotated(qkv_THE.clone()[:, : 2 * heads], rotation_T1E).clone()
    samples = [median_seconds(lambda: rotated(qkv_THE[:, : 2 * heads], rotation_T1E), device) for _ in range(3)]
    copies = [median_seconds(states_THE.clone, device) for _ in range(3)]
    return ours_THE, exact_THE.flatten(2), statistics.median(samples), statistics.median(copies)
