"""From flat tokens to one embedding per fragment, as the original pools.

Enters: a model folder; then batches of tokens, in any order. Leaves: (B, width) float32 on the device.
A batch's result is a function of the batch, the weights and the dtype. The caller chooses dtype and device.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vpdist.encoder_kinds import resolve
from vpdist.encoders.cpu_kernels import keep_freed_pages
from vpdist.encoders.cuda_kernels import compiles, exact_products
from vpdist.encoders.packing import MOST_PER_HEAD, Packing, has_varlen_kernel, to_device
from vpdist.encoders.shape import EncoderShape, encoder_shape
from vpdist.environment import bound_kernel_caches
from vpdist.errors import UsageError, WeightsError
from vpdist.ragged import Ragged

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CUDA_LENGTH_BUCKET = 16
"""On CUDA many lengths within 16 tokens share a kernel, and its padding (see packing.LENGTHS_APART)."""


class Encoder:
    """A loaded model that embeds batches of tokens."""

    def __init__(
        self,
        kind: str,
        model: nn.Module,
        shape: EncoderShape,
        folder: Path,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.kind, self.model, self.shape, self.folder = kind, model, shape, folder
        self.dtype, self.device = dtype, device
        self.length_bucket = CUDA_LENGTH_BUCKET if self.device.type == "cuda" else 1
        """See `Packing`."""

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self.shape.width

    def padding(self, lengths: np.ndarray) -> int:
        """Tokens of padding that attention computes in a batch of these lengths. Linear layers never see any."""
        varlen = not self.shape.family.attention_bias and has_varlen_kernel(self.device, self.dtype)
        if varlen or not self.shape.heads:
            return 0
        return Packing(lengths, self.device, self.length_bucket).padded_tokens

    def operations(self, lengths: np.ndarray) -> int:
        """Of linear layers and attention in a batch of these lengths."""
        return self.shape.operations(lengths)

    @torch.inference_mode()
    def embed(self, tokens: Ragged) -> Tensor:
        """(B, width) float32 on the device: the mean vector of every sequence.

        `tokens`: B sequences of any integer type, computed in order of length, returned in the order given. Raises
        ValueError for a sequence without a token to pool, WeightsError for a token outside the vocabulary.
        """
        lengths = tokens.lengths
        if len(lengths) == 0:
            return torch.empty(0, self.width, device=self.device)
        family = self.shape.family
        if lengths.min() <= 2 * family.not_pooled:
            raise ValueError(f"a {self.kind} sequence of {lengths.min()} tokens has none to pool")
        if (largest := int(tokens.flat.max())) >= self.shape.vocabulary:
            raise WeightsError(
                f"{self.folder}: token {largest} is not in the model's vocabulary of {self.shape.vocabulary}; "
                f"does its tokenizer belong to another model?"
            )
        order = np.argsort(lengths, kind="stable")
        in_order = bool((order[:-1] < order[1:]).all())
        if not in_order:
            tokens, lengths = tokens.take(order), lengths[order]
        packing = Packing(lengths, self.device, self.length_bucket)
        pooled_BD = self.model(to_device(tokens.flat.astype(np.int32), self.device), packing)
        # EncoderFamily.pooling describes the pooling; parts record that text, so that another one is recognised
        if family.pools:
            pooled_BD = pooled_BD.float()
        else:
            pooled_BD = packing.means(pooled_BD, first=family.not_pooled, last=family.not_pooled)
        if in_order:
            return pooled_BD
        return torch.empty_like(pooled_BD).index_copy_(0, to_device(order, self.device), pooled_BD)


def load_encoder(folder: Path, kind: str, dtype: torch.dtype, device: torch.device) -> Encoder:
    """The encoder in `folder`, its weights as `dtype` on `device`.

    Built without memory, then filled tensor by tensor, so that weights exist once, whatever their dtype on disk.
    Raises WeightsError naming the folder when its model is no encoder of this kind, for weights that do not fit its
    config.json, or heads too large for the device's kernels.
    """
    bound_kernel_caches()
    keep_freed_pages()
    exact_products()
    if device.type == "cuda":
        # cuDNN plans for tens of milliseconds whenever a length group has a new size
        torch.backends.cuda.enable_cudnn_sdp(False)
    shape = encoder_shape(folder)
    family = shape.family
    if kind not in family.kinds:
        raise WeightsError(f"{folder}: is {family.name}, which is no {kind} encoder")
    if shape.head_size > MOST_PER_HEAD and not family.attention_bias and has_varlen_kernel(device, dtype):
        raise WeightsError(
            f"{folder}: has heads of {shape.head_size} numbers, on a GPU half precision takes at most {MOST_PER_HEAD}; "
            f"--dtype float32 takes any"
        )
    model: nn.Module = resolve(family.loader)(folder, dtype, device)
    if device.type == "cuda":
        compiles(device)  # now, so that the log tells it at the start, and the first batch does not wait
    return Encoder(kind, model.eval().requires_grad_(False), shape, folder, dtype, device)


def choose_dtype(name: str, device: torch.device) -> str:
    """The dtype of weights and products, one of DTYPES: `name`, unless that is 'auto'.

    'auto' is float16 on CUDA, bfloat16 on a CPU with bfloat16 products of its own (AVX512-BF16, AMX), else float32.
    Raises UsageError for float16 on a CPU (a third of float32's speed).
    """
    if name == "auto":
        if device.type == "cuda":
            return "float16"
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
        return "bfloat16" if native else "float32"
    if name == "float16" and device.type == "cpu":
        raise UsageError("--dtype float16: is slower than float32 on a CPU; choose auto, float32 or bfloat16")
    return name
