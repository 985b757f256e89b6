"""Model types that the transformers library computes: the numbers of its own classes, for any batch; odd values refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as words
from torch.utils.flop_counter import FlopCounterMode

from tests.library_models import change_config, letters_tokenizer, saved
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.encoders.encoder import Encoder, load_encoder
from vpdist.encoders.family import ESM2, NATIVE, NATIVE_TYPES
from vpdist.encoders.native_types import TYPES
from vpdist.encoders.shape import encoder_shape
from vpdist.errors import WeightsError
from vpdist.ragged import Ragged
from vpdist.sequences.tokenizers import load_tokenizer

CPU = torch.device("cpu")
LETTERS = ["[PAD]", "<pad>", "[UNK]", "[CLS]", "[SEP]", *"ACDEFGHIKLMNPQRSTVWYX"]
TEXTS = ["ACGTACGTAA", "A", "GGT", "ACG", "TTACGAACCATAGGATACAGAT", "GATTACA", "CATTACA"]
TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}


@dataclass(frozen=True)
class Case:
    """A tiny model of the library and the special tokens of its tokenizer."""

    model: str
    config: Callable[[], transformers.PretrainedConfig]
    ends: tuple[str | None, str | None] = ("[CLS]", "[SEP]")
    whole: str = ""
    """A class with a head, which the weights are saved of."""


def size(**values: object) -> dict[str, object]:
    return {**TINY, "vocab_size": len(LETTERS), **values}


T5_SIZE = {"d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 3, "num_heads": 4, "vocab_size": len(LETTERS)}
SPECIAL = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
CASES = {
    "bert": Case(
        "BertModel", lambda: transformers.BertConfig(**size(), max_position_embeddings=64), whole="BertForMaskedLM"
    ),
    "esm": Case(
        "EsmModel",
        lambda: transformers.EsmConfig(
            **size(),
            pad_token_id=1,
            mask_token_id=2,
            max_position_embeddings=64,
            token_dropout=True,
            emb_layer_norm_before=True,
        ),
    ),
    "modernbert": Case(
        "ModernBertModel",
        lambda: transformers.ModernBertConfig(**size(), **SPECIAL, local_attention=6),
        whole="ModernBertForMaskedLM",
    ),
    "llama": Case(
        "LlamaModel",
        lambda: transformers.LlamaConfig(**size(num_key_value_heads=2, attention_bias=True), head_dim=12),
        ends=("[CLS]", None),
        whole="LlamaForCausalLM",
    ),
    "mistral": Case(
        "MistralModel",
        lambda: transformers.MistralConfig(**size(num_key_value_heads=2), sliding_window=5),
        ends=("[CLS]", None),
        whole="MistralForCausalLM",
    ),
    "t5": Case("T5EncoderModel", lambda: transformers.T5Config(**T5_SIZE), ends=(None, "[SEP]")),
    "t5 gated": Case(
        "T5EncoderModel",
        lambda: transformers.T5Config(**T5_SIZE, feed_forward_proj="gated-gelu"),
        ends=(None, "[SEP]"),
        whole="T5ForConditionalGeneration",
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, case in CASES.items():
        found[name] = tmp_path_factory.mktemp(name)
        saved(found[name], getattr(transformers, case.whole or case.model), case.config())
        letters_tokenizer(found[name], LETTERS, *case.ends)
    return found


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> dict[str, Encoder]:
    return {name: load_encoder(folder, "nucleotide", torch.float32, CPU) for name, folder in folders.items()}


def tokens_of(folder: Path, texts: list[str], kind: str = "nucleotide") -> Ragged:
    flat = np.frombuffer("".join(texts).encode(), np.uint8)
    return load_tokenizer(kind, folder).encode(Ragged.from_lengths(flat, [len(each) for each in texts]))


def own_model(name: str, folder: Path, attention: str = "sdpa") -> torch.nn.Module:
    return (
        getattr(transformers, CASES[name].model)
        .from_pretrained(folder, dtype=torch.float32, attn_implementation=attention, local_files_only=True)
        .eval()
    )


def test_every_type_is_tested() -> None:
    assert {name.split()[0] for name in CASES} == set(TYPES) == set(NATIVE_TYPES)


@every_case
def test_it_gives_what_the_librarys_class_gives(
    name: str, folders: dict[str, Path], encoders: dict[str, Encoder]
) -> None:
    tokens, own = tokens_of(folders[name], TEXTS), own_model(name, folders[name])
    first, last = (int(end is not None) for end in CASES[name].ends)
    rows = encoders[name].embed(tokens)
    assert rows.std(dim=0).min() > 1e-3  # sequences differ
    for row in range(len(TEXTS)):
        ids = torch.from_numpy(tokens[row].astype(np.int64))[None]
        assert ids.shape[1] == len(TEXTS[row]) + first + last
        with torch.inference_mode():
            hidden = own(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        torch.testing.assert_close(rows[row], hidden[first : len(hidden) - last].mean(0), atol=2e-5, rtol=0)


@every_case
def test_a_batch_of_mixed_lengths_gives_what_each_gives_alone(
    name: str, folders: dict[str, Path], encoders: dict[str, Encoder]
) -> None:
    tokens = tokens_of(folders[name], TEXTS)
    rows = encoders[name].embed(tokens)
    alone = torch.cat([encoders[name].embed(tokens.between(row, row + 1)) for row in range(len(TEXTS))])
    torch.testing.assert_close(rows, alone, atol=2e-5, rtol=0)


@every_case
def test_bfloat16_is_close(name: str, folders: dict[str, Path], encoders: dict[str, Encoder]) -> None:
    tokens = tokens_of(folders[name], TEXTS)
    half = load_encoder(folders[name], "nucleotide", torch.bfloat16, CPU).embed(tokens)
    assert torch.cosine_similarity(half, encoders[name].embed(tokens)).min() > 0.98


@every_case
def test_its_cost_is_that_of_the_counted_operations(name: str, folders: dict[str, Path]) -> None:
    shape, own, n = encoder_shape(folders[name]), own_model(name, folders[name], "eager"), 50
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        own(input_ids=torch.full((1, n), 7))
    expected = n * shape.linear_flops_per_token + n**2 * shape.attention_flops_per_token_pair
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.05)


def test_absolute_positions_have_an_end_and_tokens_are_cut_there(folders: dict[str, Path]) -> None:
    for name, longest in (("bert", 64), ("esm", 62), ("t5", None)):
        assert encoder_shape(folders[name]).longest == longest
        tokens = tokens_of(folders[name], ["ACGT" * 40, "AC"])
        ends = sum(end is not None for end in CASES[name].ends)
        assert tokens.lengths.tolist() == [longest or 160 + ends, 2 + ends]
        load_encoder(folders[name], "nucleotide", torch.float32, CPU).embed(tokens)
    assert tokens_of(folders["t5"], ["A" * 2000], "protein").lengths.tolist() == [1025]


def test_a_run_with_one_in_either_place_is_whole(folders: dict[str, Path], models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa")
    run = TinyModels(folders["modernbert"], folders["mistral"], models.classifier)
    run_settings = run.settings(source, tmp_path / "run", classifier=None)
    assert predict(run_settings) == 0
    assert verify(run_settings.output) == []
    decisions = json.loads((run_settings.output / "run.json").read_text())["decisions"]
    assert decisions["protein_pooling"] == decisions["nucleotide_pooling"] == NATIVE.pooling


def test_letters_are_spaced_where_the_tokenizer_needs_it(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["bert"] / "config.json", tmp_path)
    by_word = tokenizer_of_words(tmp_path)
    tokens = tokens_of(tmp_path, ["ACX", "A"], "protein")
    assert tokens.flat.tolist() == [*by_word.encode("A C X").ids, *by_word.encode("A").ids]
    letters_tokenizer(tmp_path, [token for token in LETTERS if token != "G"], "[CLS]", "[SEP]")
    with pytest.raises(WeightsError, match=r"tokenizer\.json: does not know all of the letters ACGT"):
        load_tokenizer("nucleotide", tmp_path)


def tokenizer_of_words(folder: Path) -> Tokenizer:
    """As ProtBERT's: a token per word."""
    ids = {token: number for number, token in enumerate(LETTERS)}
    tokenizer = Tokenizer(words.WordPiece(vocab=ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def test_types_that_are_not_allowed_are_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["bert"], tmp_path, dirs_exist_ok=True)
    change_config(tmp_path, model_type="gpt2", auto_map={"AutoModel": "modeling.Own"})
    (tmp_path / "modeling.py").write_text("raise SystemExit(77)")
    with pytest.raises(WeightsError, match=r"describes neither .* model_type is 'gpt2'"):
        load_encoder(tmp_path, "protein", torch.float32, CPU)
    change_config(tmp_path, model_type="esm", position_embedding_type="rotary")
    assert encoder_shape(tmp_path).family is ESM2


VALUES = (
    *(None, True, False, 0, -1, 1, 1.5, 1 << 31, 1 << 70, 10**400, math.nan, math.inf, "", "1", "x" * 300, [], [1]),
    *({}, {"rope_type": "yarn", "factor": 2.0}, {"a": {"b": [1]}}, [[[]]], "eager"),
)


@every_case
def test_odd_values_in_a_config_are_refused_or_not_read(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[name], tmp_path, dirs_exist_ok=True)
    described = json.loads((folders[name] / "config.json").read_text())
    further = {"num_labels", "id2label", "rope_scaling", "_attn_implementation", "quantization_config", "torch_dtype"}
    outcomes: set[bool] = set()

    @given(st.sampled_from(sorted({*described, *further} - {"model_type"})), st.sampled_from(VALUES))
    @settings(max_examples=50, derandomize=True, deadline=None)
    def each(key: str, value: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**described, key: value}))
        try:
            load_encoder(tmp_path, "nucleotide", torch.float32, CPU)
        except WeightsError:
            outcomes.add(False)
        else:
            outcomes.add(True)

    each()
    assert outcomes == {True, False}
