"""At the limits of a device: batches that do not fit its memory, numbers that do not fit float16."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scripts.bench.parity import ALLOWED
from scripts.demo.make_models import ESM2_TOKENS
from scripts.faults.launched_runs import Job
from scripts.gpu.encoder_checks import LEAST_COSINE
from scripts.gpu.run_checks import BUDGET, embeddings, models, run, settings_of, virus_scores
from scripts.gpu.setting import Setting, write_contigs
from scripts.gpu.verdicts import Verdict, bounded, held
from vpdist.commands.predict import predict
from vpdist.commands.resolve_config import TEMPORARIES_PER_TOKEN
from vpdist.encoders.encoder import DTYPES

FRACTION = 0.05
"""Of the device's memory."""
EXCESS = 3
"""Times that fraction which a batch would take."""
STEEP = 4000.0
"""Norm of the weights by which tryptophan exceeds float16: of it they make the root of the width times this, of other
residues about this."""
LOUD = 10.0
"""Times another token's embedding, of tryptophan's."""
OVERFLOWED = re.compile(r"(\d+) protein rows overflow")


def memory(setting: Setting) -> Iterator[Verdict]:
    """Batches far too large for the memory are halved until they fit; the calls are those of batches that fit."""
    folder, classifier = models(setting)
    contigs = write_contigs(setting.work / "500.fa", np.full(setting.sizes.fragments, 500))
    scores, logs = {}, {}
    for name, budget in (("limited", too_large(setting, setting.memory or 0)), ("as usual", None)):
        output = setting.work / f"memory-{name.replace(' ', '-')}"
        settings = settings_of(setting, contigs, output, folder, classifier, device=setting.device.type, budget=budget)
        with limited_memory(setting.device, FRACTION if name == "limited" else 1.0):
            code = predict(settings)
        yield held(f"{name}, batches of {budget or 'usual'} tokens", code == 0, f"exit code {code}", "0")
        scores[name], logs[name] = virus_scores(output), (output / "logs" / "rank00000.log").read_text()
    halved = logs["limited"].count("out of memory")
    yield held("batches that had to be halved", halved > 0, str(halved), ">= 1", f"{FRACTION:.0%} of the memory")
    error, allowed = float(np.abs(scores["limited"] - scores["as usual"]).max()), allowed_error(setting.dtype)
    yield bounded("scores of halved batches, largest error", error, at_most=allowed)


def too_large(setting: Setting, memory: int) -> int:
    """Tokens of a batch whose temporaries take EXCESS times the limit on a memory of so many bytes; a power of two."""
    width = max(size.width for size in setting.sizes.small)
    tokens = EXCESS * FRACTION * memory / (2 * TEMPORARIES_PER_TOKEN * width)
    return 1 << max(12, int(tokens).bit_length())


@contextmanager
def limited_memory(device: torch.device, fraction: float) -> Iterator[None]:
    """Meanwhile this process gets a fraction of the device's memory; a CPU's is not limited."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def allowed_error(dtype: str) -> float:
    """Of a score in a number format."""
    return ALLOWED.get(DTYPES[dtype], 1e-5)


def overflow(setting: Setting) -> Iterator[Verdict]:
    """Rows that float16 cannot hold are computed again in a wider format: none fails, and all are as on the CPU."""
    folder = with_overflow(models(setting)[0], setting.work / "overflowing")
    n = max(20, setting.sizes.contigs // 2)
    contigs = write_contigs(setting.work / "overflow.fa", np.full(n, 498), without_tryptophan=n // 2)
    classifier = models(setting)[1]
    options = ("--threads", "1", "--token-budget", str(BUDGET), "--progress", "none", "--device", "cpu")
    exact_job = Job.of(contigs, folder, classifier, *options, "--dtype", "float32")  # a process has one kind of device
    exact_run, output = run(exact_job, setting.work / "overflow-float32"), setting.work / "overflow-auto"
    settings = settings_of(setting, contigs, output, folder, classifier, device=setting.device.type, budget=BUDGET)
    code = predict(settings)
    yield held("a run with rows that overflow", code == 0, f"exit code {code}", "0")
    log = (output / "logs" / "rank00000.log").read_text()
    rows = sum(int(found) for found in OVERFLOWED.findall(log))
    yield held("rows that overflow and that do not", 0 < rows < n, f"{rows} of {n} contigs", "some")
    exact, found = (embeddings(each)["protein"] for each in (exact_run, output))
    failed = int((~np.isfinite(found)).any(axis=1).sum())
    yield held("rows without an embedding", failed == 0, str(failed), "0")
    cosine = torch.nn.functional.cosine_similarity(torch.from_numpy(found), torch.from_numpy(exact), dim=1)
    yield bounded("protein, least cosine", float(cosine.min()), at_least=LEAST_COSINE)


def with_overflow(source: Path, target: Path) -> Path:
    """The models of a folder, ESM-2 changed so that proteins with tryptophan exceed float16, no others."""
    if not target.exists():
        shutil.copytree(source, target)
        path = target / "esm-2" / "model.safetensors"
        save_file(steepened(load_file(path)), path, metadata={"format": "pt"})
    return target


def steepened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ESM-2's weights with one number of the first feed-forward's inner layer large for tryptophan.

    Its embedding is made so large that attention hardly turns it, the inner number's weights point to it, and what is
    made of that number is small: in float32 and bfloat16 it changes little, in float16 it is infinite.
    """
    state = dict(state)
    token, layer = ESM2_TOKENS.split().index("W"), "esm.encoder.layer.0"
    embedding = state["esm.embeddings.word_embeddings.weight"] = state["esm.embeddings.word_embeddings.weight"].clone()
    embedding[token] *= LOUD * embedding.shape[1] ** 0.5 / embedding[token].norm()
    inner = state[f"{layer}.intermediate.dense.weight"] = state[f"{layer}.intermediate.dense.weight"].clone()
    inner[0] = STEEP * embedding[token] / embedding[token].norm()
    outer = state[f"{layer}.output.dense.weight"] = state[f"{layer}.output.dense.weight"].clone()
    outer[:, 0] = 1e-4 * torch.where(torch.arange(len(outer)) % 2 == 0, 1.0, -1.0)
    return state
