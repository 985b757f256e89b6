"""A check that an encoder keeps what vpdist promises of its runs, for the tests of packages that plug one in.

    from vpdist.testing import check_encoder
    check_encoder(folder, "protein")

Results must not depend on which sequences share a batch, on their order, or on padding; tokens must be in the kind's
number format; the stated cost, from which plans are made, must be that of the operations; the pooling must be the
stated one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vpdist.encoder_kinds import KINDS
from vpdist.encoders.encoder import DTYPES, Encoder, load_encoder
from vpdist.encoders.model_files import fingerprinted
from vpdist.encoders.packing import Packing
from vpdist.ragged import Ragged
from vpdist.sequences.tokenizers import load_tokenizer

LETTERS = {"nucleotide": "ACGTN", "protein": "ACDEFGHIKLMNPQRSTVWYX"}
LENGTHS = (3, 3, 4, 7, 12, 12, 12, 40, 41, 100)
"""Letters of the sequences that are tried, unless others are given."""
COST_SHARE = 0.1
"""The stated cost may differ by this share from the counted operations."""
UNCOUNTED = 64
"""Where no product is counted, operations per token and number that may be stated."""
LONG = 400
"""Letters of the sequences whose cost is compared, for what grows with the square of their length."""


def check_encoder(
    folder: Path | str,
    kind: str,
    sequences: Sequence[str] | None = None,
    *,
    tolerance: float = 2e-5,
    narrow_tolerance: float = 0.1,
) -> None:
    """Check the encoder in `folder` as one of this kind, in float32 on the CPU.

    Args:
        sequences: texts of the kind's letters; by default random ones.
        tolerance: difference of a number that another batch may make.
        narrow_tolerance: error of an embedding in bfloat16, as a share of its length.

    Raises AssertionError that says what is not kept; VpdistError where the folder cannot be loaded.
    """
    folder, letters = Path(folder), LETTERS[KINDS[kind].reads]
    draw = random.Random(0)
    texts = list(sequences or ("".join(draw.choices(letters, k=length)) for length in LENGTHS))
    assert fingerprinted(folder) == fingerprinted(folder), "the fingerprint differs between two readings"
    encoder = load_encoder(folder, kind, DTYPES["float32"], torch.device("cpu"))
    tokens = _check_tokens(folder, kind, texts, encoder)
    rows_BD = encoder.embed(tokens)
    assert rows_BD.dtype == torch.float32, f"embeddings are {rows_BD.dtype}, not float32"
    assert tuple(rows_BD.shape) == (len(texts), encoder.width), f"{tuple(rows_BD.shape)} is not (sequences, width)"
    assert bool(rows_BD.isfinite().all()), "an embedding is not finite"
    _check_determinism(folder, encoder, tokens, rows_BD)
    _check_batches(encoder, tokens, rows_BD, tolerance, draw)
    _check_narrow(folder, kind, tokens, rows_BD, narrow_tolerance)
    _check_pooling(encoder, tokens, rows_BD, tolerance)
    _check_cost(encoder, tokens)
    long = ["".join(draw.choices(letters, k=LONG)) for _ in range(2)]
    _check_cost(encoder, _check_tokens(folder, kind, long, encoder))


def _check_tokens(folder: Path, kind: str, texts: Sequence[str], encoder: Encoder) -> Ragged:
    """The tokens of all texts, which must be those of each text alone, and fit the encoder."""
    tokenizer, family = load_tokenizer(kind, folder), encoder.shape.family
    tokens = tokenizer.encode(_ragged(texts))
    assert len(tokens) == len(texts), f"{len(texts)} texts gave tokens of {len(tokens)}"
    assert tokens.flat.dtype == KINDS[kind].token_type, f"tokens are {tokens.flat.dtype}, not {KINDS[kind].token_type}"
    assert int(tokens.lengths.min()) >= family.fewest_tokens, f"a text has fewer tokens than {family.fewest_tokens}"
    assert int(tokens.flat.max()) < encoder.shape.vocabulary, f"token {tokens.flat.max()} is not in the vocabulary"
    for row, text in enumerate(texts):
        alone = tokenizer.encode(_ragged([text]))
        assert np.array_equal(alone.flat, tokens[row]), f"{text!r} has other tokens alone than among others"
    assert len(tokenizer.encode(_ragged([]))) == 0, "no texts gave tokens"
    assert tokenizer.fingerprint == load_tokenizer(kind, folder).fingerprint, "the tokenizer's fingerprint changes"
    return tokens


def _ragged(texts: Sequence[str]) -> Ragged:
    return Ragged.from_lengths(np.frombuffer("".join(texts).encode("ascii"), np.uint8), [len(text) for text in texts])


def _check_determinism(folder: Path, encoder: Encoder, tokens: Ragged, rows_BD: torch.Tensor) -> None:
    assert torch.equal(encoder.embed(tokens), rows_BD), "the same batch gave other bits the second time"
    again = load_encoder(folder, encoder.kind, encoder.dtype, encoder.device)
    assert torch.equal(again.embed(tokens), rows_BD), "the same batch gave other bits when the model was loaded again"


def _check_batches(
    encoder: Encoder, tokens: Ragged, rows_BD: torch.Tensor, tolerance: float, draw: random.Random
) -> None:
    """Each sequence alone, and random batches in random order, must give what the whole batch gives."""
    for row in range(len(tokens)):
        alone = encoder.embed(tokens.between(row, row + 1))[0]
        error = float((alone - rows_BD[row]).abs().max())
        assert error <= tolerance, f"a sequence of {len(tokens[row])} tokens differs by {error:.3g} when it is alone"
    for _ in range(5):
        chosen = np.array(draw.sample(range(len(tokens)), k=max(1, len(tokens) * 2 // 3)))
        error = float((encoder.embed(tokens.take(chosen)) - rows_BD[torch.from_numpy(chosen)]).abs().max())
        assert error <= tolerance, f"embeddings differ by {error:.3g} in another batch, or in another order"


def _check_narrow(folder: Path, kind: str, tokens: Ragged, rows_BD: torch.Tensor, tolerance: float) -> None:
    narrow = load_encoder(folder, kind, DTYPES["bfloat16"], torch.device("cpu")).embed(tokens)
    assert narrow.dtype == torch.float32, f"embeddings of a bfloat16 model are {narrow.dtype}, not float32"
    errors_B = (narrow - rows_BD).norm(dim=1) / rows_BD.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    worst = float(errors_B.max())
    assert worst <= tolerance, f"in bfloat16 an embedding differs by {worst:.3g} of its length"


def _check_pooling(encoder: Encoder, tokens: Ragged, rows_BD: torch.Tensor, tolerance: float) -> None:
    """What the family says of its pooling must be what is computed."""
    family = encoder.shape.family
    assert family.pooling, "the pooling has no words"
    packing = Packing(tokens.lengths, encoder.device)
    with torch.inference_mode():
        output = encoder.model(torch.from_numpy(tokens.flat.astype(np.int32)), packing)
    expected = len(tokens) if family.pools else len(tokens.flat)
    what = "sequences" if family.pools else "tokens"
    assert tuple(output.shape) == (expected, encoder.width), (
        f"the model gives {tuple(output.shape)}, not ({what}, width)"
    )
    if family.pools:
        return
    ends = family.not_pooled
    for row, (a, b) in enumerate(pairwise(tokens.offsets.tolist())):
        mean = output[a + ends : b - ends].double().mean(0)
        error = float((mean - rows_BD[row]).abs().max())
        assert error <= tolerance, f"an embedding differs by {error:.3g} from the {family.pooling}"


def _check_cost(encoder: Encoder, tokens: Ragged) -> None:
    """The stated operations must be those that are counted."""
    shape, lengths = encoder.shape, tokens.lengths.astype(float)
    stated = float(
        shape.linear_flops_per_token * lengths.sum() + shape.attention_flops_per_token_pair * (lengths**2).sum()
    )
    with FlopCounterMode(display=False, custom_mapping=_further_operators()) as counter:
        encoder.embed(tokens)
    counted = float(counter.get_total_flops())
    if counted == 0:
        assert stated <= UNCOUNTED * shape.width * lengths.sum(), f"{stated:.3g} operations are stated, none is counted"
        return
    error = abs(stated - counted) / counted
    assert error <= COST_SHARE, (
        f"{stated:.4g} operations are stated for sequences of {int(lengths.max())} tokens, {counted:.4g} are counted"
    )


def _further_operators() -> dict[Any, Any]:
    """Operators of a CPU that torch does not count itself: linear layers through oneDNN, and attention."""

    def linear(inputs: Sequence[int], *others: Any, **_: Any) -> int:
        weight = [each for each in others if isinstance(each, torch.Size) and len(each) == 2][
            -1
        ]  # a factor is before it
        return 2 * prod(inputs) * int(weight[0])

    def attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    return {
        torch.ops.mkldnn._linear_pointwise: linear,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    }
