"""The rate of plain matrix products of an encoder's layers: what the encoder's own rate is compared with."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from scripts.bench.goals import Row
from vpdist.commands.resolve_config import CPU_TOKEN_BUDGET
from vpdist.encoders.encoder import DTYPES
from vpdist.encoders.products import products_rate
from vpdist.encoders.shape import encoder_shape

COMPARED = 7
"""Rates of which the median is taken."""


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    action()
    wait(device)
    return time.perf_counter() - started


def median_seconds(action: Callable[[], object], device: torch.device, times: int = 5) -> float:
    """Median time of an action after one warm-up."""
    return statistics.median([seconds_of(action, device) for _ in range(times + 1)][1:])


def _products_alone(folder: Path, dtype_name: str) -> float:
    """Operations per second of plain products in this process."""
    torch.set_num_threads(1)
    rates = [
        products_rate(encoder_shape(folder), CPU_TOKEN_BUDGET, DTYPES[dtype_name], torch.device("cpu"))
        for _ in range(COMPARED)
    ]
    return statistics.median(rates)


def two_against_one(folder: Path, dtype: str) -> Row:
    """How much faster two processes make plain products than one: what bounds two ranks on this machine."""
    rates = []
    for processes in (1, 2):
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            rates.append(processes * min(pool.starmap(_products_alone, [(folder, dtype)] * processes)))
    return Row(f"plain products, {dtype}, two processes against one", rates[1] / rates[0], "x")
