"""Resolves the configuration that results depend on: input identity, number formats, token budget, threads.

Rank 0 does so once. Where the user leaves a choice open, a resumed run keeps the recorded one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from vpdist.commands.compare_configs import refuse_other_configuration, same_samples
from vpdist.config import MOST_THREADS, InputIdentity, ResolvedConfig, Settings
from vpdist.cpu_quota import available_cores
from vpdist.distributed.device import multiplies_bfloat16
from vpdist.encoder_kinds import KINDS
from vpdist.encoders.encoder import choose_dtype
from vpdist.encoders.model_files import ModelFiles
from vpdist.encoders.shape import EncoderShape, encoder_shape
from vpdist.environment import LaunchContext
from vpdist.errors import UsageError, WeightsError
from vpdist.planning.plan import COST_SCALE, EncoderCost, Limits
from vpdist.results.embedded_run import recorded_config as recorded_config
from vpdist.results.heads import Heads
from vpdist.results.parts import FRAGMENT_BYTES, row_bytes
from vpdist.storage.run_folder import RunFolder

CPU_TOKEN_BUDGET = 1024
"""Tokens per batch on a CPU: from 512 to 4,096 the speed is the same at every width from 480 to 1,280 (BENCHMARKS.md),
and small batches balance small inputs."""
LAYERLESS_TOKEN_BUDGET = 1 << 16
"""Tokens per batch of encoders without layers: with 1,024 the composition encoders take three times as long, and their
parts, which hold a few batches at least, are so small that writing them takes 40 times as long."""
CUDA_TOKEN_BUDGET = 16384
"""Tokens per batch on a GPU with enough memory: kernels then take long compared with their launches."""
CUDA_LEAST_BUDGET = 1024
CUDA_MEMORY_SHARE = 0.4
"""Share of the memory beside the weights for one batch's temporaries; the allocator reserves more than that."""
TEMPORARIES_PER_TOKEN = 24
"""Vectors of the model's width that a layer holds per token at its peak, counted by tests/without_cuda: at most 12 of
ESM-2 (the feed-forward's inner layer before and after its activation), 18 of DNABERT-S, and 6 more for masks where
lengths of up to 512 tokens are padded."""
BASES_PER_TOKEN = 3
"""Nucleotide strings of real contigs have 3.9 to 5.5 bases per token."""
BIAS_MARGIN = 80
"""An attention bias covers this many positions more than the longest sequence, at most."""
UNIT_OPERATIONS = {"cpu": 3 * 10**12, "cuda": 9 * 10**15}
"""A unit takes about a minute at 50 GFLOP/s per CPU rank, 150 TFLOP/s per GPU."""
THREADS_BESIDE_GPU = 4
ROW_BYTES_LIMIT = 64 << 20
"""Most bytes of a part's rows."""
SPARE_ROW_BYTES = 7
"""Added to the bytes of a row with one fragment, as some rows have more. Unit bounds, hence plans, depend on it."""


def resolve_config(
    settings: Settings,
    context: LaunchContext,
    device: torch.device,
    folder: RunFolder,
    models: Mapping[str, ModelFiles],
    heads: Heads | None,
    found: InputIdentity,
    shortest_chunk: int = 0,
) -> ResolvedConfig:
    """The configuration of a run with encoders `models` (by kind) on the input `found`; choices that `settings` leaves
    open are those recorded in `folder`, if any. So are the names and times of an input that is the same by size and
    samples. `shortest_chunk`: bases below which the model gives no scores.

    Raises UsageError naming the first field in which the folder's run differs, WeightsError.
    """
    recorded = recorded_config(folder)
    dtype = encoders_dtype(settings, device, recorded)
    stored = settings.embedding_dtype
    if stored == "auto":
        stored = recorded.embedding_dtype if recorded else "float32" if dtype == "float32" else "float16"
    shapes = {kind: encoder_shape(model.folder) for kind, model in models.items()}
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    default_budget = token_budget(shapes, dtype, memory, settings.bases_per_chunk)
    budget = settings.token_budget or (recorded.token_budget if recorded else default_budget)
    threads = settings.threads or (recorded.threads if recorded else default_threads(context, device))
    resolved = ResolvedConfig(
        input=recorded.input if recorded is not None and same_samples(recorded.input, found) else found,
        chunk_length=settings.bases_per_chunk,
        min_length=settings.min_length,
        models={kind: model.fingerprint for kind, model in models.items()},
        dtype=dtype,
        embedding_dtype=stored,
        embeddings=settings.embeddings,
        token_budget=budget,
        threads=threads,
        device=device.type,
        classifier=heads.fingerprint if heads is not None else None,
        poolings=other_poolings(shapes),
        shortest_chunk=shortest_chunk,
        summary=heads.summary.fingerprint if heads is not None and heads.summary is not None else None,
    )
    if recorded is not None:
        refuse_other_configuration(recorded, resolved, folder.path)
    return resolved


def other_poolings(shapes: Mapping[str, EncoderShape]) -> dict[str, str]:
    """The pooling, in words, of the encoders (by kind) that pool otherwise than the method's own."""
    poolings = {kind: shape.family.pooling for kind, shape in shapes.items()}
    return {kind: pooling for kind, pooling in poolings.items() if pooling != KINDS[kind].pooling}


def encoders_dtype(settings: Settings, device: torch.device, recorded: ResolvedConfig | None = None) -> str:
    """The dtype of encoders: the recorded one, if any, where `settings` leaves it open.

    Raises UsageError for one that this device is slow with, unless the run is refused for its device anyway.
    """
    if recorded is not None and settings.dtype == "auto":
        dtype = recorded.dtype
    else:
        dtype = choose_dtype(settings.dtype, device)
    if dtype == "bfloat16" and not multiplies_bfloat16(device) and (recorded is None or recorded.device == device.type):
        raise UsageError(
            f"--dtype bfloat16: {torch.cuda.get_device_name(device)} has no bfloat16 products; take float16 or float32"
        )
    return dtype


def check_classifier(heads: Heads, name: str, widths: Sequence[int], chunk_length: int) -> None:
    """Raises WeightsError when a classifier was trained with encoders of other widths or another chunk length."""
    classifier = heads.main
    if classifier.input_width != sum(widths):
        raise WeightsError(
            f"{name}: takes {classifier.input_width} numbers, but the encoders give {' + '.join(map(str, widths))}"
        )
    trained_on = classifier.chunk_length
    if trained_on is not None and trained_on != str(chunk_length):
        raise WeightsError(f"{name}: was trained on chunks of {trained_on} bases, but --chunk-length is {chunk_length}")


def unknown_chunk_length(classifier: Heads | None, name: str, chunk_length: int) -> list[str]:
    """A warning where a classifier does not say which chunks it was trained on, hence nothing of it can be checked."""
    if classifier is None or classifier.chunk_length is not None:
        return []
    return [
        f"warning: {name}: does not say with which encoders and on which chunk length it was trained, so neither can "
        f"be checked; this run has {chunk_length} bases: give --chunk-length, the original authors' 500_model.pth has "
        f"500, their 300_model.pth 300 (`vpdist import-classifier --chunk-length` makes a model of it)"
    ]


def default_threads(context: LaunchContext, device: torch.device) -> int:
    """This node's cores divided by its ranks; with a GPU at most THREADS_BESIDE_GPU."""
    share = min(MOST_THREADS, max(1, available_cores() // context.local_world_size))
    return min(share, THREADS_BESIDE_GPU) if device.type == "cuda" else share


def token_budget(shapes: Mapping[str, EncoderShape], dtype: str, cuda_memory: int | None, chunk_length: int) -> int:
    """The default number of tokens per batch for encoders (by kind) that compute in `dtype`.

    `cuda_memory`: bytes of the device's memory; None on a CPU. `chunk_length` in bases bounds the longest sequence.
    """
    if shapes and not any(shape.layers for shape in shapes.values()):
        return LAYERLESS_TOKEN_BUDGET
    if cuda_memory is None:
        return CPU_TOKEN_BUDGET
    number_bytes = 4 if dtype == "float32" else 2
    weights = sum(number_bytes * shape.linear_flops_per_token // 2 for shape in shapes.values())
    biases = sum(bias_bytes(shape, number_bytes, chunk_length // BASES_PER_TOKEN) for shape in shapes.values())
    per_token = max(number_bytes * TEMPORARIES_PER_TOKEN * shape.width for shape in shapes.values())
    fitting = max(1, int(CUDA_MEMORY_SHARE * (cuda_memory - weights) - biases) // per_token)
    return min(CUDA_TOKEN_BUDGET, max(CUDA_LEAST_BUDGET, 1 << (fitting.bit_length() - 1)))


def bias_bytes(shape: EncoderShape, number_bytes: int, longest: int) -> int:
    """Bytes of an encoder's attention bias for sequences of up to `longest` tokens, and of the distances (float32) that
    it is made from; it grows with the square of the length, whatever the batch."""
    if not shape.family.attention_bias:
        return 0
    return (shape.heads * number_bytes + 4) * (longest + BIAS_MARGIN) ** 2


def cost_of(shape: EncoderShape) -> EncoderCost:
    """The plan's cost model of an encoder."""
    return EncoderCost(linear=shape.linear_flops_per_token, attention=shape.attention_flops_per_token_pair)


def limits(resolved: ResolvedConfig, shapes: dict[str, EncoderShape]) -> Limits:
    """The bounds of a unit under this configuration."""
    width = sum(shape.width for shape in shapes.values()) if resolved.embeddings else 0
    bytes_per_row = row_bytes(width, resolved.embedding_dtype, classified=True) + FRAGMENT_BYTES + SPARE_ROW_BYTES
    return Limits(
        token_budget=resolved.token_budget,
        unit_cost=UNIT_OPERATIONS[resolved.device] // COST_SCALE,
        unit_rows=max(1, ROW_BYTES_LIMIT // bytes_per_row),
    )
