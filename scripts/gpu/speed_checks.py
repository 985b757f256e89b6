"""Speed on the device: tokens per second of full-size encoders, their share of the products' rate, and idle time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from scripts.bench.encoders import fragment_lengths, one_pass, operations
from scripts.bench.products import median_seconds, seconds_of
from scripts.demo.make_models import make_classifier
from scripts.gpu.run_checks import settings_of
from scripts.gpu.setting import Setting, Size, described, random_weights_on, write_contigs
from scripts.gpu.traces import Trace
from scripts.gpu.verdicts import Verdict, bounded, held, skipped
from vpdist.commands import predict, units
from vpdist.embedding.unit_pipeline import Pipeline
from vpdist.encoders.encoder import Encoder
from vpdist.encoders.shape import encoder_shape

SHARE_GOALS = {768: 0.40, 1280: 0.45, 2560: 0.55}
"""By width: least share of the rate of matrix products."""
GOAL_DTYPE = {"cuda": "float16", "cpu": "bfloat16"}
"""The number format in which goals hold."""
IDLE_GOAL = 0.02
PASSES = 3
PASS_S = 0.5
"""About how long a pass takes at the products' rate, at most."""
PRODUCTS = 20
SPARE_BYTES = 2 << 30
"""Beside twice the weights, while they are made and loaded."""


def products_rate(n: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of products of square matrices of n rows."""
    left, right = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty(n, n, dtype=dtype, device=device)

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(left, right, out=out)

    return 2.0 * n**3 * PRODUCTS / median_seconds(multiply, device)


def speed(setting: Setting) -> Iterator[Verdict]:
    """Every full-size encoder with random weights, in both half precisions."""
    n = setting.sizes.product
    for size in (setting.sizes.nucleotide, *setting.sizes.proteins):
        for dtype in ("float16", "bfloat16") if setting.on_cuda else ("bfloat16",):
            what = f"{size.name}, {dtype}, share of {n}^3 products"
            if reason := does_not_fit(size, setting.memory):
                yield skipped(what, reason)
            else:
                encoder = setting.encoder(size, dtype)
                goal = SHARE_GOALS.get(size.width) if dtype == GOAL_DTYPE[setting.device.type] else None
                yield _share(setting, encoder, what, goal)
                del encoder
                if setting.on_cuda:
                    torch.cuda.empty_cache()


def does_not_fit(size: Size, memory: int | None) -> str:
    """Why an encoder's weights cannot be made on a device with so much memory, else ''."""
    parameters = size.layers * 12 * size.width**2
    needed = 2 * 2 * parameters + SPARE_BYTES
    if memory is None or needed <= memory:
        return ""
    return f"needs {needed / 2**30:.0f} GiB, the device has {memory / 2**30:.0f}"


def _share(setting: Setting, encoder: Encoder, what: str, goal: float | None) -> Verdict:
    shape, dtype, rng = encoder_shape(encoder.folder), encoder.dtype, np.random.default_rng(0)
    of_thousand = operations(shape, fragment_lengths(shape.kind, 1000, rng))
    wanted = PASS_S * products_rate(setting.sizes.product, dtype, setting.device)
    lengths = fragment_lengths(
        shape.kind, max(7, round(1000 * min(setting.sizes.operations, wanted) / of_thousand)), rng
    )
    tokens = rng.integers(5, 24, lengths.sum()).astype(np.uint16)
    budget = setting.budget(shape, str(dtype).removeprefix("torch."))
    if setting.on_cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    one_pass(encoder, tokens, lengths, budget)
    rates, seconds = [], []
    for _ in range(PASSES):  # by turns, since the clock of a warm card changes
        rates.append(products_rate(setting.sizes.product, dtype, setting.device))
        seconds.append(seconds_of(lambda: one_pass(encoder, tokens, lengths, budget), setting.device))
    taken, ceiling, done = statistics.median(seconds), statistics.median(rates), operations(shape, lengths)
    note = (
        f"{lengths.sum() / taken:,.0f} tokens/s, {len(lengths) / taken:,.0f} fragments/s; "
        f"{done / taken / 1e12:.3g} of {ceiling / 1e12:.3g} TFLOP/s; batches of {budget:,}"
    )
    if setting.on_cuda:
        note += f"; {torch.cuda.max_memory_allocated(setting.device) / 2**30:.1f} GiB at most"
    return bounded(what, done / taken / ceiling, at_least=goal, note=note)


class ProfiledPipeline(Pipeline):
    """The pipeline of a rank, its device profiled from before its first batch to after its last."""

    traces: list[Trace] = []  # noqa: RUF012 - of all pipelines of this process

    def __enter__(self) -> ProfiledPipeline:
        activity = ProfilerActivity.CUDA if self._device.type == "cuda" else ProfilerActivity.CPU
        self._profile = profile(activities=[activity])
        self._profile.__enter__()
        super().__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        super().__exit__(kind, *rest)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._profile.__exit__(None, None, None)
        self.traces.append(Trace.of(self._profile.events(), self._device))


def idle(setting: Setting) -> Iterator[Verdict]:
    """`predict` with full-size encoders, profiled: how long the device does nothing while fragments are embedded."""
    folder = setting.work / "idle"
    folder.mkdir(exist_ok=True)
    sizes = (setting.sizes.nucleotide, setting.sizes.proteins[0])
    for size, name in zip(sizes, ("dnabert-s", "esm-2"), strict=True):
        described(size, folder / name)
    classifier = make_classifier(folder / "classifier.safetensors", folder, hidden=512)
    contigs = write_contigs(folder / "contigs.fa", np.full(setting.sizes.fragments, 500))
    ProfiledPipeline.traces.clear()
    what = f"predict with {sizes[0].name} and {sizes[1].name}"
    for name, pipeline in (("warm-up", Pipeline), ("profiled", ProfiledPipeline)):  # kernels are loaded when first used
        settings = settings_of(setting, contigs, folder / name, folder, classifier, device=setting.device.type)
        with random_weights_on(setting.device), mock.patch.object(units, "Pipeline", pipeline):
            code = predict.predict(settings)
        yield held(f"{what}, {name}", code == 0, f"exit code {code}", "0")
    yield idle_share(what, ProfiledPipeline.traces)


def idle_share(what: str, traces: list[Trace]) -> Verdict:
    """The verdict on the only pipeline of a run."""
    if len(traces) != 1 or not len(traces[0]):
        return held(f"{what}, device idle", False, note=f"{len(traces)} pipelines were profiled, with kernels none")
    [trace] = traces
    longest = trace.gaps_us.max(initial=0.0)
    note = f"{len(trace):,} launches in {trace.span_us / 1e6:.2f} s, longest gap {longest / 1000:.2f} ms; profiled"
    return bounded(f"{what}, device idle", trace.idle, at_most=IDLE_GOAL, note=note)
