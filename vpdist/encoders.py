"""From flat tokens to one embedding per fragment, as the original pools.

Enters: a model folder; then batches of tokens, in any order. Leaves: (B, width) float32 on the device.
A batch's result is a function of the batch, the weights and the dtype. Nothing is chosen quietly: dtype and device are
the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vpdist import dnabert_s, esm2, packed_linear
from vpdist.environment import bound_kernel_caches
from vpdist.errors import UsageError, WeightsError
from vpdist.heap import keep_freed_pages
from vpdist.packing import Packing, has_varlen_kernel
from vpdist.ragged import Ragged
from vpdist.transfer import to_device
from vpdist.weights import encoder_shape, fitted, load_state_dict, read_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CUDA_GRANULE = 16
"""On CUDA lengths within 16 tokens share a kernel (and its padding): launches cost more than a few padded tokens."""


class Encoder:
    """A model ready to embed: DNABERT-S (kind 'nucleotide') or ESM-2 (kind 'protein')."""

    def __init__(self, kind: str, model: nn.Module, width: int, vocabulary: int, folder: Path) -> None:
        weight = next(model.parameters())
        self.kind, self.model, self.width, self.vocabulary, self.folder = kind, model, width, vocabulary, folder
        self.device, self.dtype = weight.device, weight.dtype
        self.special = 0 if kind == "nucleotide" else 1
        """Tokens at either end that do not enter the mean: the original counts [CLS] and [SEP], not <cls> and <eos>."""

        self.granule = CUDA_GRANULE if self.device.type == "cuda" else 1
        """See `Packing`."""

    def padding(self, lengths: np.ndarray) -> int:
        """Tokens of padding that attention computes in a batch of these lengths. Linear layers never see any."""
        if self.kind == "protein" and has_varlen_kernel(self.device, self.dtype):
            return 0
        return Packing(lengths, self.device, self.granule).padded_tokens

    @torch.inference_mode()
    def embed(self, tokens: Ragged) -> Tensor:
        """(B, width) float32 on the device: the mean vector of every sequence.

        `tokens`: B sequences of any integer type. They are computed in order of length and returned in the order
        given. Raises ValueError for a sequence without a token to pool, WeightsError for a token that the model does
        not know (a tokenizer of another model).
        """
        lengths = tokens.lengths
        if len(lengths) == 0:
            return torch.empty(0, self.width, device=self.device)
        if lengths.min() <= 2 * self.special:
            raise ValueError(f"a {self.kind} sequence of {lengths.min()} tokens has none to pool")
        if (largest := int(tokens.flat.max())) >= self.vocabulary:
            raise WeightsError(
                f"{self.folder}: token {largest}, but the model knows {self.vocabulary}: another model's tokenizer?"
            )
        order = np.argsort(lengths, kind="stable")
        in_order = bool((order[:-1] < order[1:]).all())
        if not in_order:
            tokens, lengths = tokens.take(order), lengths[order]
        packing = Packing(lengths, self.device, self.granule)
        hidden_TD = self.model(to_device(tokens.flat.astype(np.int32), self.device), packing)
        pooled_BD = packing.means(hidden_TD, first=self.special, last=self.special)
        if in_order:
            return pooled_BD
        return torch.empty_like(pooled_BD).index_copy_(0, to_device(order, self.device), pooled_BD)


def load_encoder(folder: Path, kind: str, dtype: torch.dtype, device: torch.device) -> Encoder:
    """The encoder in `folder`, its weights as `dtype` on `device`.

    Built without memory, then filled tensor by tensor, so that weights exist once, whatever their dtype on disk.
    Raises WeightsError naming the folder when it holds another kind of model than `kind` ('nucleotide' or 'protein'),
    or weights that do not fit its config.json.
    """
    bound_kernel_caches()
    keep_freed_pages()
    if device.type == "cuda":
        # it plans anew, for tens of milliseconds, whenever a run of sequences has a size it has not seen
        torch.backends.cuda.enable_cudnn_sdp(False)
    shape = encoder_shape(folder)
    if shape.kind != kind:
        names = {"nucleotide": "DNABERT-S", "protein": "ESM-2"}
        raise WeightsError(f"{folder}: is {names[shape.kind]}, the {kind} model must be {names[kind]}")
    model = _load_dnabert_s(folder, dtype, device) if kind == "nucleotide" else _load_esm2(folder, dtype, device)
    return Encoder(kind, model.eval().requires_grad_(False), shape.width, shape.vocabulary, folder)


def _load_dnabert_s(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    config = dnabert_s.read_config(read_config(folder), folder)
    with torch.device("meta"):
        model = dnabert_s.DnabertS(config, with_pooler=False)
    state = dnabert_s.published_names(load_state_dict(folder))
    wanted = {name: (name,) for name, _ in model.named_parameters()}
    return _filled(model, state, wanted, dtype, device, folder, dnabert_s.UNUSED)


def _load_esm2(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    config = esm2.read_config(read_config(folder), folder)
    with torch.device("meta"):
        model = esm2.Esm2(config)
    state = esm2.published_names(load_state_dict(folder), folder)
    if (inv_freq := state.pop(esm2.INV_FREQ, None)) is not None:
        model.set_frequencies(inv_freq)
    wanted = {name: esm2.sources(name) for name, _ in model.named_parameters()}

    def arrange(name: str, tensor: Tensor) -> Tensor:
        return esm2.interleaved(name, tensor, config.num_attention_heads)

    return _filled(model, state, wanted, dtype, device, folder, esm2.UNUSED, arrange)


def _filled(
    model: nn.Module,
    state: dict[str, Tensor],
    wanted: Mapping[str, tuple[str, ...]],
    dtype: torch.dtype,
    device: torch.device,
    folder: Path,
    unused: re.Pattern[str],
    arrange: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
) -> nn.Module:
    """`model`, each of its parameters a copy of the tensors of `state` that `wanted` names for it, one below the other,
    their rows as `arrange` orders them.

    Copied (and laid out for the processor) one by one, so that the host never holds a second set; copied at all,
    because the tensors are mapped from files that someone may replace while the run goes on.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    fit = fitted(
        state,
        [
            (source, (shapes[name][0] // len(names), *shapes[name][1:]))
            for name, names in wanted.items()
            for source in names
        ],
        folder,
        unused,
    )
    packs = packed_linear.serves(device, dtype)
    for name, names in wanted.items():
        filled = torch.empty(shapes[name], dtype=dtype, device=device)
        for part, source in zip(filled.chunk(len(names)), names, strict=True):
            part.copy_(arrange(source, fit[source]))
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, leaf, nn.Parameter(filled, requires_grad=False))
        if packs and not any(tensor.is_meta for tensor in module.parameters()):
            packed_linear.pack(model, owner)
    return model


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of weights and products: `name` is 'auto' or one of DTYPES.

    'auto' is float16 on CUDA, bfloat16 on a CPU with bfloat16 products of its own (AVX512-BF16, AMX), else float32.
    Raises UsageError for another name, and for float16 on a CPU (a third of float32's speed).
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
        return torch.bfloat16 if native else torch.float32
    if name not in DTYPES:
        raise UsageError(f"--dtype {name}: choose auto, {', '.join(DTYPES)}")
    if name == "float16" and device.type == "cpu":
        raise UsageError("--dtype float16: slower than float32 on a CPU; choose auto, float32 or bfloat16")
    return DTYPES[name]
