from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.tiny_models import Draw, dnabert_s_state, write_dnabert_s
from vpdist.encoders import dnabert_s
from vpdist.encoders.dnabert_s import DnabertS, DnabertSConfig, alibi_slopes
from vpdist.encoders.encoder import load_encoder
from vpdist.encoders.packing import Packing
from vpdist.errors import WeightsError
from vpdist.ragged import Ragged

CPU = torch.device("cpu")
TINY = DnabertSConfig(width=48, layers=2, heads=6, intermediate=96, vocabulary=154)


def tiny_state() -> dict[str, torch.Tensor]:
    return dnabert_s_state(48, 2, 96, 154, Draw(1))


def without_pooler(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not dnabert_s.UNUSED.fullmatch(name)}


def tiny_model() -> DnabertS:
    model = DnabertS(TINY)
    model.load_state_dict(without_pooler(tiny_state()))
    return model.eval()


def packed(*lengths: int, length_bucket: int = 1) -> tuple[torch.Tensor, Packing]:
    tokens = (torch.arange(sum(lengths)) * 37 + 11) % TINY.vocabulary
    return tokens, Packing(np.array(lengths, dtype=np.int64), CPU, length_bucket)


def plain_reference(tokens: torch.Tensor, state: dict[str, torch.Tensor], heads: int = 6) -> torch.Tensor:
    """One sequence in float64, written out after the published description."""
    weights = {name: tensor.double() for name, tensor in state.items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def product(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))

    x = weights["embeddings.word_embeddings.weight"][tokens] + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    position = torch.arange(len(tokens)).double()
    for layer in range(2):
        name = f"encoder.layer.{layer}"
        parts = product(x, f"{name}.attention.self.Wqkv").chunk(3, -1)
        attended = []
        for head, slope in enumerate(alibi_slopes(heads)):
            query, key, value = (part.chunk(heads, -1)[head] for part in parts)
            scores = query @ key.T / query.shape[-1] ** 0.5 - slope * (position[:, None] - position).abs()
            attended.append(scores.softmax(-1) @ value)
        x = norm(
            x + product(torch.cat(attended, -1), f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
        )
        gate, inner = product(x, f"{name}.mlp.gated_layers").chunk(2, -1)
        gelu = gate * 0.5 * (1 + torch.erf(gate / 2**0.5))
        x = norm(x + product(gelu * inner, f"{name}.mlp.wo"), f"{name}.mlp.layernorm")
    return x


def test_the_full_size_model_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = DnabertS(DnabertSConfig())
    pooler = 768 * 768 + 768  # part of the checkpoint, not of the embedding
    assert sum(parameter.numel() for parameter in model.parameters()) + pooler == 117_068_544


def test_the_full_size_model_loads_a_state_dict_with_the_published_names() -> None:
    published = {
        "embeddings.word_embeddings.weight": (4096, 768),
        "embeddings.token_type_embeddings.weight": (2, 768),
        "embeddings.LayerNorm.weight": (768,),
        "embeddings.LayerNorm.bias": (768,),
        "pooler.dense.weight": (768, 768),
        "pooler.dense.bias": (768,),
    }
    for layer in range(12):
        published |= {
            f"encoder.layer.{layer}.attention.self.Wqkv.weight": (2304, 768),
            f"encoder.layer.{layer}.attention.self.Wqkv.bias": (2304,),
            f"encoder.layer.{layer}.attention.output.dense.weight": (768, 768),
            f"encoder.layer.{layer}.attention.output.dense.bias": (768,),
            f"encoder.layer.{layer}.attention.output.LayerNorm.weight": (768,),
            f"encoder.layer.{layer}.attention.output.LayerNorm.bias": (768,),
            f"encoder.layer.{layer}.mlp.gated_layers.weight": (6144, 768),
            f"encoder.layer.{layer}.mlp.wo.weight": (768, 3072),
            f"encoder.layer.{layer}.mlp.wo.bias": (768,),
            f"encoder.layer.{layer}.mlp.layernorm.weight": (768,),
            f"encoder.layer.{layer}.mlp.layernorm.bias": (768,),
        }
    with torch.device("meta"):
        model = DnabertS(DnabertSConfig())
        state = {f"bert.{name}": torch.empty(shape) for name, shape in published.items()}
    model.load_state_dict(without_pooler(dnabert_s.published_names(state)), strict=True, assign=True)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [0.00390625]),
        (4, [0.25, 0.0625, 0.015625, 0.00390625]),
        (6, [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]),
        (12, [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625, 0.70710678, 0.35355339, 0.1767767, 0.08838835]),
    ],
)  # fmt: skip
def test_slopes_follow_the_rule_for_any_number_of_heads(heads: int, slopes: list[float]) -> None:
    assert alibi_slopes(heads) == pytest.approx(slopes)


@torch.inference_mode()
@pytest.mark.parametrize("length_bucket", [1, 16])
def test_a_packed_batch_gives_what_a_plain_reference_gives_for_each_sequence(length_bucket: int) -> None:
    tokens, packing = packed(2, 9, 9, 30, 31, 70, length_bucket=length_bucket)
    hidden = tiny_model()(tokens, packing)
    for start, stop in pairwise(packing.offsets):
        expected = plain_reference(tokens[start:stop], tiny_state()).float()
        torch.testing.assert_close(hidden[start:stop], expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_long_sequence_after_a_short_one_widens_the_bias() -> None:
    model = tiny_model()
    model(*packed(20))
    tokens, packing = packed(400)
    torch.testing.assert_close(model(tokens, packing), plain_reference(tokens, tiny_state()).float(), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_bfloat16_stays_near_float32() -> None:
    tokens, packing = packed(60, 60, 90)
    exact, model = tiny_model()(tokens, packing), tiny_model().to(torch.bfloat16)
    cosine = torch.nn.functional.cosine_similarity(exact, model(tokens, packing).float(), dim=1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize(
    "layout", [{"prefix": "bert."}, {"safetensors": True}, {"prefix": "bert.", "safetensors": True}]
)
def test_every_published_layout_gives_the_same_embeddings(tmp_path, layout) -> None:
    tokens = Ragged.from_lengths(np.arange(5, 45, dtype=np.uint16), [15, 25])
    folders = write_dnabert_s(tmp_path / "plain"), write_dnabert_s(tmp_path / "other", **layout)
    plain, other = (load_encoder(folder, "nucleotide", torch.float32, CPU).embed(tokens) for folder in folders)
    assert torch.equal(plain, other)


def test_another_activation_is_refused(tmp_path) -> None:
    with pytest.raises(WeightsError, match="relu"):
        dnabert_s.read_config({"hidden_act": "relu"}, tmp_path)


def test_a_size_missing_from_the_configuration_is_named(tmp_path) -> None:
    with pytest.raises(WeightsError, match="num_hidden_layers"):
        dnabert_s.read_config({"hidden_size": 48}, tmp_path)
