import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmConfig, EsmModel

from tests.tiny_models import write_esm2
from vpdist.encoders import esm2
from vpdist.encoders.encoder import load_encoder
from vpdist.encoders.packing import Packing, has_varlen_kernel
from vpdist.encoders.shape import read_config
from vpdist.errors import WeightsError
from vpdist.ragged import Ragged

CPU = torch.device("cpu")

SIZES = {  # layers, width, heads, parameters of EsmModel without pooler and contact head
    "8M": (6, 320, 20, 7_408_960),
    "35M": (12, 480, 20, 33_269_280),
    "150M": (30, 640, 20, 147_728_000),
    "650M": (33, 1280, 20, 649_400_320),
    "3B": (36, 2560, 40, 2_832_442_880),
}


def sequences(*lengths: int) -> Ragged:
    """Proteins of `lengths` residues as tokens with <cls> and <eos>."""
    parts = [[0, *((7 * k + length) % 20 + 4 for k in range(length)), 2] for length in lengths]
    return Ragged.from_lengths(np.concatenate(parts).astype(np.uint8), [len(part) for part in parts])


def library_model(folder) -> EsmModel:
    """The library's own way: plain attention, one sequence at a time."""
    model = EsmModel(EsmConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
    model.config._attn_implementation = "eager"
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return model.eval()


@pytest.mark.parametrize("size", SIZES)
def test_every_published_size_constructs_without_memory(size: str, tmp_path) -> None:
    layers, width, heads, parameters = SIZES[size]
    config = read_config(write_esm2(tmp_path)) | {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }
    with torch.device("meta"):
        model = esm2.Esm2(esm2.read_config(config, tmp_path))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert all(parameter.is_meta for parameter in model.parameters())


@torch.inference_mode()
def test_a_packed_batch_gives_what_the_library_gives_for_each_sequence(tmp_path) -> None:
    folder = write_esm2(tmp_path)
    encoder, library = load_encoder(folder, "protein", torch.float32, CPU), library_model(folder)
    tokens = sequences(1, 8, 8, 30, 31, 120)
    for length_bucket in (1, 16):
        hidden = encoder.model(
            torch.from_numpy(tokens.flat.astype(np.int64)), Packing(tokens.lengths, CPU, length_bucket)
        )
        for start, stop in pairwise(tokens.offsets):
            alone = library(torch.from_numpy(tokens.flat[start:stop].astype(np.int64))[None]).last_hidden_state[0]
            torch.testing.assert_close(hidden[start:stop], alone, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_embedding_scale_of_token_dropout_survives_packing(tmp_path) -> None:
    encoder = load_encoder(write_esm2(tmp_path), "protein", torch.float32, CPU)
    seen = []
    encoder.model.embeddings.register_forward_hook(lambda module, given, embedded: seen.append(embedded.clone()))
    tokens = sequences(5, 50)
    encoder.embed(tokens)
    words = encoder.model.embeddings.word_embeddings.weight[torch.from_numpy(tokens.flat.astype(np.int64))]
    torch.testing.assert_close(seen[0], 0.88 * words)


def test_tokens_of_other_sequences_change_nothing(tmp_path) -> None:
    encoder = load_encoder(write_esm2(tmp_path), "protein", torch.float32, CPU)
    tokens = sequences(5, 5)
    before = encoder.embed(tokens)
    tokens[1][1:-1] = 9
    after = encoder.embed(tokens)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_queries_and_keys_reordered_alike_are_rotated_as_the_library_rotates_them() -> None:
    torch.manual_seed(0)
    heads, size, length, width = 3, 8, 5, 24
    weight = torch.randn(heads * size, width)
    hidden = torch.randn(length, width)
    angle = torch.rand(length, size // 2)
    cos, sin = (torch.cat((part, part), 1)[:, None] for part in (angle.cos(), angle.sin()))
    plain = (hidden @ weight.T).unflatten(1, (heads, size))
    expected = plain * cos + torch.cat((-plain[..., size // 2 :], plain[..., : size // 2]), -1) * sin
    reordered = esm2.interleaved("encoder.layer.0.attention.self.query.weight", weight, heads)
    turned = esm2.rotated(
        (hidden @ reordered.T).unflatten(1, (heads, size)), torch.polar(torch.ones(1), angle)[:, None]
    )
    expected = expected.unflatten(2, (2, -1)).transpose(2, 3).flatten(2)
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)


def test_halves_are_rotated_in_place_with_the_bits_of_a_rotation_in_float32() -> None:
    states = torch.randn(500, 4, 16, generator=torch.Generator().manual_seed(0)).mul(100).half()
    angle = torch.arange(500)[:, None] * torch.logspace(0, -3, 8)
    rotation = torch.polar(torch.ones_like(angle), angle)[:, None]
    expected = esm2.rotated(states.float(), rotation).half()
    turned = esm2.rotated(states, rotation)
    assert torch.equal(turned, expected)
    assert turned.data_ptr() == states.data_ptr()


def test_the_hub_layout_gives_the_same_embeddings(tmp_path) -> None:
    tokens = sequences(3, 40)
    plain = load_encoder(write_esm2(tmp_path / "plain"), "protein", torch.float32, CPU)
    hub = load_encoder(write_esm2(tmp_path / "hub", masked_lm=True), "protein", torch.float32, CPU)
    assert torch.equal(plain.embed(tokens), hub.embed(tokens))


def changed(folder, change) -> None:
    """Rewrite the folder's weights after `change` worked on them."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_rotary_frequencies_come_from_the_checkpoint_and_stay_float32(tmp_path) -> None:
    name = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
    folder = write_esm2(tmp_path, masked_lm=True)
    stored = torch.linspace(1.0003, 0.0101, 8)

    def other_frequencies(state) -> None:
        for layer in range(2):
            state[name.format(layer)] = stored.clone()

    changed(folder, other_frequencies)
    model = load_encoder(folder, "protein", torch.bfloat16, CPU).model
    assert model.inv_freq.dtype == torch.float32
    assert torch.equal(model.inv_freq, stored)

    changed(folder, lambda state: state[name.format(1)].mul_(2))
    with pytest.raises(WeightsError, match=r"inv_freq.* differ"):
        load_encoder(folder, "protein", torch.float32, CPU)


def test_a_wrong_number_of_rotary_frequencies_is_refused(tmp_path) -> None:
    folder = write_esm2(tmp_path)
    changed(folder, lambda state: state.update({"rotary_embeddings.inv_freq": torch.ones(5)}))
    with pytest.raises(WeightsError, match=r"inv_freq is \(5,\), not \(8,\)"):
        load_encoder(folder, "protein", torch.float32, CPU)


def test_old_layer_norm_names_are_understood(tmp_path) -> None:
    folder = write_esm2(tmp_path)
    before = load_encoder(folder, "protein", torch.float32, CPU).embed(sequences(9))

    def old_names(state) -> None:
        for name in [name for name in state if ".LayerNorm." in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            state[old] = state.pop(name)

    changed(folder, old_names)
    assert torch.equal(before, load_encoder(folder, "protein", torch.float32, CPU).embed(sequences(9)))


@pytest.mark.parametrize(
    "change",
    [
        {"position_embedding_type": "absolute"},
        {"is_decoder": True},
        {"emb_layer_norm_before": True},
        {"hidden_size": "wide"},
    ],
)
def test_another_kind_of_esm_is_refused(tmp_path, change) -> None:
    config = json.loads((write_esm2(tmp_path) / "config.json").read_text())
    with pytest.raises(WeightsError, match=str(tmp_path)):
        esm2.read_config(config | change, tmp_path)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_variable_length_kernel_agrees_with_float32(tmp_path, dtype: torch.dtype) -> None:
    folder, device = write_esm2(tmp_path), torch.device("cuda")
    if not has_varlen_kernel(device, dtype):
        pytest.skip("this GPU has no variable-length kernel")
    tokens = sequences(1, 8, 30, 200, 31, 1022)
    exact = load_encoder(folder, "protein", torch.float32, CPU).embed(tokens)
    encoder = load_encoder(folder, "protein", dtype, device)
    cosine = torch.nn.functional.cosine_similarity(exact, encoder.embed(tokens).cpu(), dim=1)
    assert cosine.min() > 0.999
