"""`python -m scripts.bench.encoders`: speed of both encoders, as a share of the machine's plain matrix products.

    python -m scripts.bench.encoders --device cuda --protein 33x1280 36x2560 --dtype float16
    python -m scripts.bench.encoders --budgets 512 1024 2048 4096        # compare token budgets instead

On a CPU each process has one thread; `--processes 2` (the default) measures two at the same time, like two ranks. The
ceiling is the rate of plain matrix products of the layers' own shapes (tokens of one batch by the layer's inputs and
outputs, weighted by how often a layer multiplies them), measured between the encoder's passes. The encoder's rate
counts the operations that useful tokens need, linear layers and attention. Fragments are those of 500-base chunks:
proteins of 166 residues, a twelfth of them shorter; 91 to 128 nucleotide tokens. Weights are random, of full size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from scripts.bench.goals import Row, conditions, table
from scripts.bench.products import median_seconds, seconds_of, two_against_one, wait
from scripts.demo.make_models import layers_and_width, make_dnabert_s, make_esm2
from vpdist.commands.resolve_config import token_budget
from vpdist.encoders.cpu_kernels import PackedLinear
from vpdist.encoders.encoder import DTYPES, Encoder, load_encoder
from vpdist.encoders.products import products_rate
from vpdist.encoders.shape import EncoderShape, encoder_shape
from vpdist.planning.plan import batches
from vpdist.ragged import Ragged

CPU_GOALS = {"dnabert-s": 0.85, "12x480": 0.70, "30x640": 0.75, "33x1280": 0.88}
"""Least share of the ceiling in bfloat16 on a CPU."""
FLOAT32_GOAL = 0.80
CUDA_GOALS = {"dnabert-s": 0.40, "33x1280": 0.45, "36x2560": 0.55}
"""Least share of the ceiling in float16 on CUDA."""
USEFUL_GOAL = 0.995
MIXED_GOAL = 0.9
PASSES = 3
PASS_OPERATIONS = {"cpu": 4e11, "cuda": 2e14}
"""About how many operations one pass over the fragments takes."""
LEAST_FRAGMENTS = 7
"""A full batch and an incomplete one on a CPU."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one process measured of one encoder."""

    rate: float
    """Useful operations per second."""
    ceiling: float
    """Operations per second of plain products."""
    useful: float
    """Useful tokens over rows that went through the linear layers."""
    seconds_per_fragment: float
    idle: float
    """Share of the time in which a GPU waited; 0 on a CPU."""
    mixed: float
    """Tokens per second at lengths from 10 to 1,022 over those at equal lengths; NaN for DNABERT-S and on a CPU."""


def fragment_lengths(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) tokens per fragment of 500-base chunks."""
    if kind == "nucleotide":
        return np.clip(rng.normal(108, 5, n).round().astype(np.int64), 91, 128)
    lengths = np.full(n, 168)
    lengths[: n // 12] = rng.integers(20, 168, n // 12)
    return lengths


def operations(shape: EncoderShape, lengths: np.ndarray) -> float:
    """Operations that sequences of these lengths need."""
    pairs = (lengths.astype(np.float64) ** 2).sum()
    return float(shape.linear_flops_per_token * lengths.sum() + shape.attention_flops_per_token_pair * pairs)


class RowCounter:
    """Counts the rows that pass the first linear layer."""

    def __init__(self, encoder: Encoder) -> None:
        self.rows = 0
        layers = (module for module in encoder.model.modules() if isinstance(module, nn.Linear | PackedLinear))
        self._hook = next(layers).register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.rows += len(inputs[0])

    def close(self) -> int:
        self._hook.remove()
        return self.rows


def one_pass(encoder: Encoder, tokens: np.ndarray, lengths: np.ndarray, budget: int) -> None:
    """Embed everything once."""
    sequences = Ragged.from_lengths(tokens, lengths)
    for rows in batches(lengths, budget):
        encoder.embed(sequences.take(rows))
    wait(encoder.device)


def busy_seconds(action: Callable[[], object]) -> float:
    """Seconds that kernels and copies take on the GPU."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        action()
    return sum(each.self_device_time_total for each in profiled.key_averages()) / 1e6


def measure(folder: Path, dtype_name: str, device_name: str, budget: int | None) -> Speed:
    """Measure one encoder in this process."""
    torch.set_num_threads(1)
    device, dtype, shape = torch.device(device_name), DTYPES[dtype_name], encoder_shape(folder)
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    budget = budget or token_budget({shape.kind: shape}, dtype_name, memory, chunk_length=500)
    rng = np.random.default_rng(0)
    encoder = load_encoder(folder, shape.kind, dtype, device)
    wanted = PASS_OPERATIONS[device.type]
    n = max(LEAST_FRAGMENTS, round(wanted / operations(shape, fragment_lengths(shape.kind, 1000, rng)) * 1000))
    lengths = fragment_lengths(shape.kind, n, rng)
    tokens = rng.integers(5, 24, lengths.sum()).astype(np.uint16)
    counter = RowCounter(encoder)
    one_pass(encoder, tokens, lengths, budget)
    useful = lengths.sum() / counter.close()
    ceilings, seconds = [], []
    for _ in range(PASSES):
        ceilings.append(products_rate(shape, budget, dtype, device))
        seconds.append(seconds_of(lambda: one_pass(encoder, tokens, lengths, budget), device))
    taken = statistics.median(seconds)
    idle = 0.0
    if device.type == "cuda":
        idle = 1 - busy_seconds(lambda: one_pass(encoder, tokens, lengths, budget)) / taken
    return Speed(
        rate=operations(shape, lengths) / taken,
        ceiling=statistics.median(ceilings),
        useful=float(useful),
        seconds_per_fragment=taken / n,
        idle=idle,
        mixed=_mixed(encoder, rng, budget) if device.type == "cuda" and shape.kind == "protein" else float("nan"),
    )


def _mixed(encoder: Encoder, rng: np.random.Generator, budget: int) -> float:
    """Tokens per second at mixed lengths over tokens per second at equal ones."""
    rates = []
    for lengths in (np.full(1000, 168), rng.integers(12, 1025, 330)):
        tokens = rng.integers(5, 24, lengths.sum()).astype(np.uint16)
        seconds = median_seconds(
            lambda tokens=tokens, lengths=lengths: one_pass(encoder, tokens, lengths, budget),  # type: ignore[misc]
            encoder.device,
            PASSES,
        )
        rates.append(lengths.sum() / seconds)
    return float(rates[1] / rates[0])


def measure_in_parallel(processes: int, *arguments: object) -> Speed:
    """`measure` in several processes at the same time, like ranks; returns the slowest one's figures."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return min(pool.starmap(measure, [arguments] * processes), key=lambda speed: speed.rate / speed.ceiling)


def models(work: Path, protein: list[str]) -> dict[str, Path]:
    """Folders of DNABERT-S and the ESM-2 sizes, full-size, with random weights; made if they are missing."""
    folders = {"dnabert-s": work / "dnabert-s"} | {size: work / f"esm-2-{size}" for size in protein}
    for name, folder in folders.items():
        if not (folder / "config.json").exists():
            if name == "dnabert-s":
                make_dnabert_s(folder, 12, 768, 2026, safetensors=False)
            else:
                make_esm2(folder, *layers_and_width(name), 2027)
    return folders


def rows(
    work: Path = Path("bench/models"),
    protein: tuple[str, ...] = ("12x480", "30x640", "33x1280"),
    dtypes: tuple[str, ...] = ("bfloat16", "float32"),
    device: str = "cpu",
    processes: int = 2,
) -> list[Row]:
    """A row per encoder and dtype, and the share of useful tokens."""
    figures: list[Row] = []
    useful: list[float] = []
    seconds: dict[str, float] = {}
    for name, folder in models(work, list(protein)).items():
        label = "DNABERT-S" if name == "dnabert-s" else f"ESM-2 {name}"
        for dtype in dtypes:
            speed = measure_in_parallel(processes if device == "cpu" else 1, folder, dtype, device, None)
            goal = FLOAT32_GOAL if dtype == "float32" else (CPU_GOALS if device == "cpu" else CUDA_GOALS).get(name)
            note = f"{speed.rate / 1e9:,.0f} of {speed.ceiling / 1e9:,.0f} GFLOP/s"
            figures.append(
                Row(f"{label}, {dtype}, share of the ceiling", speed.rate / speed.ceiling, "", goal, note=note)
            )
            if device == "cpu" and name == "dnabert-s":
                figures.append(two_against_one(folder, dtype))
            useful.append(speed.useful)
            seconds[f"{name} {dtype}"] = speed.seconds_per_fragment
            if device == "cuda":
                figures.append(Row(f"{label}, {dtype}, GPU waiting", speed.idle, "", at_most=0.02))
                if speed.mixed == speed.mixed:
                    figures.append(Row(f"{label}, {dtype}, mixed over equal lengths", speed.mixed, "", MIXED_GOAL))
    figures.append(Row("useful tokens in linear layers", min(useful), "", USEFUL_GOAL, 1.0))
    if (whole := seconds.get("36x2560 float16")) and device == "cuda":
        share = seconds["dnabert-s float16"] / (seconds["dnabert-s float16"] + whole)
        figures.append(Row("DNABERT-S, share of the GPU time beside ESM-2 3B", share, "", at_most=0.1))
    return figures


def budget_rows(work: Path, protein: list[str], dtypes: list[str], device: str, budgets: list[int]) -> list[Row]:
    """The rate of each encoder by token budget."""
    return [
        Row(f"{name}, {dtype}, {budget} tokens", speed.rate / 1e9, "GFLOP/s", note=f"of {speed.ceiling / 1e9:,.0f}")
        for name, folder in models(work, protein).items()
        for dtype in dtypes
        for budget in budgets
        for speed in [measure_in_parallel(2 if device == "cpu" else 1, folder, dtype, device, budget)]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protein", nargs="*", default=["12x480", "30x640", "33x1280"], help="LAYERSxWIDTH of ESM-2")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], choices=list(DTYPES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--processes", type=int, default=2, help="on a CPU: measured at the same time")
    parser.add_argument("--budgets", type=int, nargs="*", help="compare token budgets instead")
    parser.add_argument("--work", type=Path, default=Path("bench/models"))
    arguments = parser.parse_args()
    print(conditions(), flush=True)
    if arguments.budgets:
        print(
            table(budget_rows(arguments.work, arguments.protein, arguments.dtype, arguments.device, arguments.budgets))
        )
    else:
        print(
            table(
                rows(
                    arguments.work,
                    tuple(arguments.protein),
                    tuple(arguments.dtype),
                    arguments.device,
                    arguments.processes,
                )
            )
        )


if __name__ == "__main__":
    main()
