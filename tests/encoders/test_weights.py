from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny_models import write_dnabert_s, write_esm2
from vpdist.encoders import esm2
from vpdist.encoders.encoder import load_encoder
from vpdist.encoders.family import DNABERT_S, ESM2
from vpdist.encoders.hub import PINNED_REVISIONS, resolve_model
from vpdist.encoders.packing import Packing
from vpdist.encoders.shape import EncoderShape, encoder_shape, read_config
from vpdist.encoders.weights import load_state_dict, model_fingerprint
from vpdist.errors import WeightsError

CPU = torch.device("cpu")
REVISION = "0123456789abcdef0123456789abcdef01234567"


class Payload:
    """Unpickling it runs a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def sharded(folder: Path, *, pickled: bool) -> Path:
    """The folder's weights in two shards with an index, in place of the single file."""
    state = load_state_dict(folder)
    (folder / ("pytorch_model.bin" if pickled else "model.safetensors")).unlink()
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    weight_map = {}
    for number in (1, 2):
        names = sorted(state)[number - 1 :: 2]
        shard = f"{stem}-{number:05}-of-00002.{suffix}"
        part = {name: state[name].clone() for name in names}
        torch.save(part, folder / shard) if pickled else save_file(part, folder / shard)
        weight_map |= dict.fromkeys(names, shard)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def configured(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache in place of the user's, and no hub to be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def cached(cache: Path, name: str, revision: str, write=write_esm2) -> Path:
    """A model in the hub cache's layout: blobs by digest, a snapshot of links to them."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot, blobs = root / "snapshots" / revision, root / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(write(snapshot).iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    return snapshot


def test_planning_needs_no_torch(tmp_path) -> None:
    folder = write_esm2(tmp_path)
    script = (
        "import sys\n"
        "from vpdist.encoders.hub import resolve_model\n"
        "from vpdist.encoders.shape import encoder_shape\n"
        "from vpdist.encoders.weights import model_fingerprint\n"
        "folder = resolve_model(sys.argv[1], offline=True); encoder_shape(folder); model_fingerprint(folder)\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, folder], check=True, timeout=600)


def test_the_shape_is_read_from_the_configuration(tmp_path) -> None:
    assert encoder_shape(write_dnabert_s(tmp_path / "n")) == EncoderShape(
        family=DNABERT_S, layers=2, width=48, heads=6, intermediate=96, gated=True, vocabulary=154
    )
    assert encoder_shape(write_esm2(tmp_path / "p")) == EncoderShape(
        family=ESM2, layers=2, width=32, heads=2, intermediate=64, gated=False, vocabulary=33
    )


@pytest.mark.parametrize(("kind", "write"), [("nucleotide", write_dnabert_s), ("protein", write_esm2)])
@pytest.mark.parametrize("tokens", [16, 48])
def test_the_cost_formula_counts_what_torch_counts(tmp_path, kind, write, tokens) -> None:
    folder = write(tmp_path)
    shape, encoder = (
        encoder_shape(folder),
        load_encoder(folder, kind, torch.float64, CPU),
    )  # whose products torch counts
    ids = torch.arange(tokens) % 20 + 5
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # of products that torch counts
    with torch.inference_mode(), FlopCounterMode(display=False) as counter, plain:
        encoder.model(ids, Packing(torch.tensor([tokens]).numpy(), CPU))
    expected = shape.linear_flops_per_token * tokens + shape.attention_flops_per_token_pair * tokens**2
    assert counter.get_total_flops() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "neither DNABERT-S .* nor ESM-2"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, not 0"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers must be a positive integer, not '2'"),
        ({"num_attention_heads": 3}, "not a multiple of 3"),
        ({"intermediate_size": None}, "intermediate_size"),
    ],
)
def test_a_configuration_of_something_else_is_refused(tmp_path, changes, message) -> None:
    with pytest.raises(WeightsError, match=message):
        encoder_shape(configured(write_esm2(tmp_path), **changes))


@pytest.mark.parametrize(
    ("content", "message"), [("{", "as JSON"), ("[]", "not a JSON object"), (None, "no such file")]
)
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, content, message) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=rf"config\.json: .*{message}"):
        encoder_shape(tmp_path)


def test_the_fingerprint_does_not_depend_on_path_or_files_that_are_not_read(tmp_path) -> None:
    one, other = write_esm2(tmp_path / "one"), write_esm2(tmp_path / "another" / "place")
    (other / "README.md").write_text("a model")
    (other / "pytorch_model.bin").write_bytes(b"not read where safetensors are")
    assert model_fingerprint(one) == model_fingerprint(other)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_the_fingerprint_changes_with_one_bit_of_any_file_that_is_read(tmp_path, name) -> None:
    folder = write_esm2(tmp_path)
    before = model_fingerprint(folder)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    assert model_fingerprint(folder, ESM2) != before
    assert model_fingerprint(folder, replace(ESM2, fingerprint="2")) != model_fingerprint(folder, ESM2)


def test_the_fingerprint_covers_every_shard(tmp_path) -> None:
    folder = sharded(write_esm2(tmp_path), pickled=False)
    before = model_fingerprint(folder)
    shard = folder / "model-00002-of-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert model_fingerprint(folder) != before


@pytest.mark.parametrize(("write", "pickled"), [(write_esm2, False), (write_dnabert_s, True)])
def test_shards_give_the_same_tensors_as_one_file(tmp_path, write, pickled) -> None:
    whole = load_state_dict(write(tmp_path / "whole"))
    parts = load_state_dict(sharded(write(tmp_path / "parts"), pickled=pickled))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_missing_shard_is_named(tmp_path) -> None:
    folder = sharded(write_esm2(tmp_path), pickled=False)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00002\.safetensors"):
        load_state_dict(folder)


@pytest.mark.parametrize("index", ['{"weight_map": {"a": "../elsewhere.safetensors"}}', '{"weight_map": {}}', "[]"])
def test_an_index_that_leads_nowhere_is_refused(tmp_path, index) -> None:
    (tmp_path / "elsewhere.safetensors").write_bytes(b"")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightsError, match=r"weight_map|elsewhere"):
        load_state_dict(tmp_path / "model")


def test_shards_that_repeat_a_name_are_refused(tmp_path) -> None:
    folder = sharded(write_esm2(tmp_path), pickled=False)
    first, second = (folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    repeated = sorted(load_file(first))[0]
    save_file(load_file(second) | {repeated: load_file(first)[repeated]}, second)
    with pytest.raises(WeightsError, match=f"{repeated} is also in another shard"):
        load_state_dict(folder)


def test_a_folder_without_weights_says_which_are_looked_for(tmp_path) -> None:
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_state_dict(tmp_path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 31\n"


@pytest.mark.parametrize(("write", "pickled"), [(write_dnabert_s, True), (write_esm2, False)])
def test_a_git_lfs_pointer_in_place_of_any_file_that_is_read_is_named_as_one(tmp_path, write, pickled) -> None:
    names = {path.name for path in sharded(write(tmp_path / "whole"), pickled=pickled).iterdir()}
    read = {name for name in names if name != "tokenizer_config.json"}
    assert len(read) >= 5
    for name in sorted(read):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / name)
        (folder / name).write_text(POINTER)
        with pytest.raises(WeightsError, match=rf"{name}: is a Git LFS pointer.*git lfs pull"):
            (encoder_shape(folder), model_fingerprint(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_weights_are_refused(tmp_path, name) -> None:
    folder = (write_esm2 if name.endswith("tensors") else write_dnabert_s)(tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=name):
        load_state_dict(folder)


@pytest.mark.parametrize("zip_format", [True, False])
def test_weights_with_code_in_them_are_refused_and_it_does_not_run(tmp_path, zip_format) -> None:
    proof, path = tmp_path / "proof", write_dnabert_s(tmp_path / "model") / "pytorch_model.bin"
    torch.save({"a": Payload(f"touch '{proof}'")}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        load_state_dict(path.parent)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()


def test_what_a_refused_file_asked_for_is_named_without_advice_to_load_it_unsafely(tmp_path) -> None:
    path = write_dnabert_s(tmp_path) / "pytorch_model.bin"
    torch.save({"a": Payload("true")}, path)
    with pytest.raises(WeightsError) as refused:
        load_state_dict(tmp_path)
    assert f"{os.system.__module__}.system" in str(refused.value)
    assert "weights_only=False" not in str(refused.value)


def test_a_pickle_that_is_no_mapping_of_tensors_is_refused(tmp_path) -> None:
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="not a mapping of names to tensors"):
        load_state_dict(tmp_path)


def test_a_local_folder_is_taken_as_it_is(tmp_path) -> None:
    assert resolve_model(str(write_esm2(tmp_path))) == tmp_path


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no/such/folder", "is neither a folder nor a hub id"),
        ("/no/such/folder", "is neither a folder nor a hub id"),
        ("../owner", "is neither a folder nor a hub id"),
        ("folder", "is neither a folder nor a hub id"),
        ("owner/name", "no pinned revision; name owner/name@<commit>"),
    ],
)
def test_what_is_neither_folder_nor_known_id_says_what_to_give(cache, model, message) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve_model(model, offline=True)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="is a file"):
        resolve_model(str(tmp_path / "model.safetensors"))


def test_pinned_revisions_are_whole_commit_ids() -> None:
    assert len(set(PINNED_REVISIONS.values())) == len(PINNED_REVISIONS) >= 7
    assert all(len(revision) == 40 and int(revision, 16) for revision in PINNED_REVISIONS.values())


@pytest.mark.parametrize(
    ("name", "write"), [("facebook/esm2_t6_8M_UR50D", write_esm2), ("zhihan1996/DNABERT-S", write_dnabert_s)]
)
@pytest.mark.parametrize("offline", [True, False])
def test_a_known_id_is_found_in_the_cache_at_its_pinned_revision(cache, name, write, offline) -> None:
    newer = cached(cache, name, "f" * 40, write)
    pinned = newer.with_name(PINNED_REVISIONS[name])
    shutil.copytree(newer, pinned, symlinks=True)
    assert resolve_model(name, offline=offline) == pinned
    assert load_state_dict(pinned)


def test_a_revision_given_with_the_id_is_taken(cache) -> None:
    snapshot = cached(cache, "owner/name", REVISION)
    assert resolve_model(f"owner/name@{REVISION}", offline=True) == snapshot


def test_offline_without_the_model_says_how_to_get_it(cache) -> None:
    with pytest.raises(WeightsError, match=r"facebook/esm2_t6_8M_UR50D@c731040.*without --offline"):
        resolve_model("facebook/esm2_t6_8M_UR50D", offline=True)


def test_a_half_downloaded_model_is_refused(cache) -> None:
    snapshot = cached(cache, "owner/name", REVISION)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no weights"):
        load_state_dict(resolve_model(f"owner/name@{REVISION}", offline=True))


def test_a_hub_that_cannot_be_reached_says_so(cache, monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the hub library's tries
    with pytest.raises(WeightsError, match="check the network"):
        resolve_model("facebook/esm2_t6_8M_UR50D")


def with_tensor(folder: Path, name: str, change) -> Path:
    """The folder's weights with one tensor changed, in a file of the same kind."""
    state = {each: tensor.clone() for each, tensor in load_state_dict(folder).items()}
    state[name] = change(state[name])
    if (folder / "model.safetensors").exists():
        save_file(state, folder / "model.safetensors")
    else:
        torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("kind", ["nucleotide", "protein"])
def test_weights_in_other_number_formats_are_refused_not_cast(tmp_path, kind: str, dtype: torch.dtype) -> None:
    folder = write_dnabert_s(tmp_path) if kind == "nucleotide" else write_esm2(tmp_path)
    name = next(name for name in load_state_dict(folder) if name.endswith("LayerNorm.weight"))
    with_tensor(folder, name, lambda tensor: tensor.to(dtype))
    with pytest.raises(WeightsError, match=f"{name} is {str(dtype).removeprefix('torch.')}; weights are float32"):
        load_encoder(folder, kind, torch.float32, CPU)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_any_format_of_weights_are_read(tmp_path, dtype: torch.dtype) -> None:
    folder = write_dnabert_s(tmp_path)
    with_tensor(folder, "embeddings.LayerNorm.weight", lambda tensor: tensor.to(dtype))
    load_encoder(folder, "nucleotide", torch.float32, CPU)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: torch.zeros(1).expand(1 << 17, 1 << 17),  # 64 GiB
        lambda tensor: tensor[:1].clone().expand(tensor.shape),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
    ],
    ids=["terabytes", "a repeated row", "sparse", "meta"],
)
def test_numbers_that_are_not_in_the_file_are_refused(tmp_path, change) -> None:
    folder = write_dnabert_s(tmp_path)
    with_tensor(folder, "pooler.dense.weight", lambda tensor: change(tensor))
    assert (folder / "pytorch_model.bin").stat().st_size < 1 << 20
    with pytest.raises(WeightsError, match=r"pooler\.dense\.weight has .* not all stored in the file"):
        load_state_dict(folder)


def test_what_is_not_needed_of_a_configuration_is_not_read(tmp_path) -> None:
    folder = configured(write_esm2(tmp_path), num_labels=200_000_000, dtype="odd", vocab_list=7, problem_type=[])
    described = esm2.read_config(read_config(folder), folder)  # the library makes a name for each label
    assert (described.num_labels, described.hidden_size) == (2, 32)
    load_encoder(folder, "protein", torch.float32, CPU)
