from __future__ import annotations

import csv
import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.tiny_models import TinyModels, write_dnabert_s, write_esm2, write_models
from vpdist.encoders.encoder import Encoder, choose_dtype, load_encoder
from vpdist.errors import UsageError, WeightsError
from vpdist.ragged import Ragged
from vpdist.results.classifier import load_classifier
from vpdist.sequences.tokenizers import NucleotideTokenizer, ProteinTokenizer

CPU = torch.device("cpu")
PARITY_FOLDERS = {"nucleotide": "dnabert_s_tiny", "protein": "esm2_tiny"}

# Nucleotides, protein, the first four numbers of both embeddings, logits: of the tiny models, in float32.
GOLDEN = [
    ("GAC", "D",
     (-0.085998, 0.045577, -0.021352, 0.515548), (-0.209281, -0.531276, 0.020246, 0.218151), (-1.061756, -0.537042)),
    ("AAG", "K",
     (0.590292, 0.214195, 0.049707, 0.185533), (0.553327, 0.520434, 1.458273, -0.153399), (-0.431537, -0.031152)),
    ("TCCTCGAAA", "SSK",
     (-0.532778, -0.371644, -0.625049, -0.363802), (0.571043, 0.470189, 0.612514, 0.219386), (-0.396404, 0.249457)),
    ("ATGGGCGGAACCCTT", "MGGTL",
     (0.547068, -0.283966, 0.021349, -0.187657), (-0.235512, -0.712131, 0.911280, -0.264432), (-1.119236, 0.435357)),
    ("GAATGTAAAAAGTCAATGTCCCCA", "ECKKSMSP",
     (-0.415109, -0.692119, -0.002663, -0.555117), (0.151259, 0.137826, 0.546312, -0.561613), (0.035769, -0.159995)),
    ("CGTCTAGGCATGGTACGTTTTTGTGACGAA", "RLGMVRFCDE",
     (-0.480384, -0.635970, -0.055869, -0.262908), (0.165357, 0.210204, 0.739348, -0.340924), (-0.093914, -0.066015)),
    ("TGTTCAGGACCTGATGCCCGTTTCGGTACTGTTGACGTTT", "CSGPDARFGTVDV",
     (-0.788055, -0.434811, -0.193529, -0.366961), (-0.052716, -0.309255, 0.625025, -0.205939), (-0.711251, -0.029596)),
    ("ATAGCGTTTACACTAAAGCAGGGGGTAGGTGGAAGACAGTGCCAAATCC", "IAFTLKQGVGGRQCQI",
     (0.095807, -0.602776, 0.104402, -0.662499), (0.526412, 0.170858, 0.627458, -0.352560), (-0.301224, 0.619878)),
    ("TGTCGTTACTTTCTCACCAGTTTTTTAGCTGAAGTACAATCCCGGCGTTGTCGATTGCAGG", "CRYFLTSFLAEVQSRRCRLQ",
     (-0.163376, -0.680596, -0.062100, -0.505395), (0.700600, 0.189568, 0.798180, -0.076882), (-0.103571, 0.098537)),
    ("CATGTGTGTGCTTACGAGCATACTGGAAGTTCGAAAATCCTATTCAATGAACCCATGGTGAGGCTTGCCG", "HVCAYEHTGSSKILFNEPMVRLA",
     (-0.095859, -0.470172, 0.291263, -0.536646), (0.581602, 0.006125, 0.501185, 0.076639), (-0.201675, 0.219434)),
    ("TTTATNCTATCCCTTGTATCCATGGCCA", "FLSLVSMAK",
     (-0.329933, -0.315745, 0.019156, -0.349056), (0.944860, -0.075222, 1.101735, 0.423668), (-0.407271, 0.223410)),
    ("AGACACTTAGCTTTACACRYNACAAGTGCGGTAACCTGGG", "RHLALHTSAVTWV",
     (-0.420615, -0.307615, 0.119920, -0.535395), (0.802181, -0.188296, 0.431042, 0.653723), (-0.256448, -0.272446)),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny products are slower on several threads, much slower on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nucleotide_batch(folder, strings: list[str]) -> Ragged:
    return NucleotideTokenizer(folder).encode(as_ragged(strings))


def protein_batch(folder, strings: list[str]) -> Ragged:
    return ProteinTokenizer(folder).encode(as_ragged(strings))


def as_ragged(strings: list[str]) -> Ragged:
    return Ragged.from_lengths(np.frombuffer("".join(strings).encode(), np.uint8), [len(one) for one in strings])


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def scores(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> TinyModels:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def encoders(models) -> dict[str, Encoder]:
    return {kind: load_encoder(getattr(models, kind), kind, torch.float32, CPU) for kind in ("nucleotide", "protein")}


@pytest.fixture(scope="module")
def batches(models) -> dict[str, Ragged]:
    """The golden fragments as tokens."""
    return {
        "nucleotide": nucleotide_batch(models.nucleotide, [golden[0] for golden in GOLDEN]),
        "protein": protein_batch(models.protein, [golden[1] for golden in GOLDEN]),
    }


@pytest.fixture(scope="module")
def parity(shared) -> dict[str, tuple[Ragged, np.ndarray]]:
    """The parity set's fragments as tokens, and what the original makes of them."""
    folder = shared / "parity"
    with (folder / "fragments.500.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with h5py.File(folder / "embeddings.500.h5") as file:
        expected = {kind: file[kind][...] for kind in PARITY_FOLDERS}
        assert [row["fragment_id"] for row in rows] == [name.decode() for name in file["fragment_id"][...]]
    return {
        "nucleotide": (
            nucleotide_batch(folder / "dnabert_s_tiny", [row["nucleotide"] for row in rows]),
            expected["nucleotide"],
        ),
        "protein": (protein_batch(folder / "esm2_tiny", [row["protein"] for row in rows]), expected["protein"]),
    }


def test_golden_embeddings_and_logits(encoders, batches, models) -> None:
    nucleotide, protein = (encoders[kind].embed(batches[kind]).numpy() for kind in ("nucleotide", "protein"))
    np.testing.assert_allclose(nucleotide[:, :4], [golden[2] for golden in GOLDEN], atol=2e-5, rtol=0)
    np.testing.assert_allclose(protein[:, :4], [golden[3] for golden in GOLDEN], atol=2e-5, rtol=0)
    logits = load_classifier(models.classifier).logits(nucleotide, protein)
    np.testing.assert_allclose(logits, [golden[4] for golden in GOLDEN], atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", PARITY_FOLDERS)
@given(order=st.permutations(range(len(GOLDEN))), cuts=st.sets(st.integers(1, len(GOLDEN) - 1)))
@settings(max_examples=25)
def test_any_composition_and_order_of_batches_gives_the_same_embeddings(encoders, batches, kind, order, cuts) -> None:
    together = encoders[kind].embed(batches[kind]).numpy()
    for part in np.split(np.array(order), sorted(cuts)):
        embedded = encoders[kind].embed(batches[kind].take(part)).numpy()
        np.testing.assert_allclose(embedded, together[part], atol=5e-6, rtol=0)


@pytest.mark.parametrize("kind", PARITY_FOLDERS)
def test_the_same_batch_gives_the_same_bits(encoders, batches, kind) -> None:
    assert torch.equal(encoders[kind].embed(batches[kind]), encoders[kind].embed(batches[kind]))


@pytest.mark.parametrize("kind", PARITY_FOLDERS)
@pytest.mark.slow
def test_parity_in_float32_packed_alone_and_in_random_batches(shared, parity, kind) -> None:
    encoder = load_encoder(shared / "parity" / PARITY_FOLDERS[kind], kind, torch.float32, CPU)
    batch, expected = parity[kind]
    random = np.random.default_rng(7)
    compositions = [[np.arange(len(expected))], np.arange(len(expected))[:, None]]
    cuts = np.sort(random.choice(len(expected), 60, replace=False))
    compositions.append([part for part in np.split(random.permutation(len(expected)), cuts) if len(part)])
    for composition in compositions:
        embedded = np.empty_like(expected)
        for part in composition:
            embedded[part] = encoder.embed(batch.take(part)).numpy()
        np.testing.assert_allclose(embedded, expected, atol=2e-5, rtol=0)


def test_parity_in_bfloat16_of_embeddings_scores_and_labels(shared, parity) -> None:
    every_other = np.arange(0, len(parity["protein"][1]), 2)  # bfloat16 is slow on a CPU without products of its own
    embedded, exact = {}, {}
    for kind, name in PARITY_FOLDERS.items():
        encoder = load_encoder(shared / "parity" / name, kind, torch.bfloat16, CPU)
        batch, expected = parity[kind]
        parts = np.array_split(every_other, 8)
        embedded[kind] = np.concatenate([encoder.embed(batch.take(part)).numpy() for part in parts])
        exact[kind] = expected[every_other]
        assert cosine(embedded[kind], exact[kind]).min() >= 0.999
    classifier = load_classifier(shared / "parity" / "classifier_original_format.pth")
    virus, exact_virus = (
        scores(classifier.logits(rows["nucleotide"], rows["protein"]))[:, 1] for rows in (embedded, exact)
    )
    assert np.abs(virus - exact_virus).max() <= 0.05
    clear = np.abs(exact_virus - 0.5) > 0.05
    assert clear.sum() > 250
    np.testing.assert_array_equal(virus[clear] > 0.5, exact_virus[clear] > 0.5)


def test_an_empty_batch_gives_no_rows(encoders) -> None:
    for kind, encoder in encoders.items():
        empty = encoder.embed(Ragged.from_lengths(np.zeros(0, np.uint8), []))
        assert empty.shape == (0, encoder.width), kind


@pytest.mark.parametrize(("kind", "tokens"), [("nucleotide", 0), ("protein", 2)])
def test_a_sequence_without_tokens_to_pool_is_an_error(encoders, kind, tokens) -> None:
    with pytest.raises(ValueError, match="none to pool"):
        encoders[kind].embed(Ragged.from_lengths(np.zeros(tokens + 9, np.uint8), [9, tokens]))


def test_tokens_of_another_model_are_refused_before_they_reach_the_device(encoders, models) -> None:
    with pytest.raises(WeightsError, match=f"{models.protein}: token 33 is not in the model's vocabulary of 33"):
        encoders["protein"].embed(Ragged.from_lengths(np.array([0, 33, 2], np.uint8), [3]))


@pytest.mark.parametrize(("kind", "other"), [("nucleotide", "protein"), ("protein", "nucleotide")])
def test_a_model_of_the_other_kind_is_refused_naming_its_folder(models, kind, other) -> None:
    folder = getattr(models, other)
    with pytest.raises(WeightsError, match=f"{folder}: is .*, which is no {kind} encoder"):
        load_encoder(folder, kind, torch.float32, CPU)


@pytest.mark.parametrize("write", [write_dnabert_s, write_esm2])
def test_every_weight_has_the_dtype_asked_for_and_memory(tmp_path, write) -> None:
    kind = "nucleotide" if write is write_dnabert_s else "protein"
    encoder = load_encoder(write(tmp_path), kind, torch.bfloat16, CPU)
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.bfloat16}
    assert not any(tensor.is_meta for tensor in encoder.model.state_dict().values())
    assert encoder.embed(Ragged.from_lengths(np.arange(5, 12, dtype=np.uint8), [7])).dtype == torch.float32


def test_overwriting_the_file_during_a_run_changes_nothing(tmp_path) -> None:
    tokens = Ragged.from_lengths(np.arange(5, 30, dtype=np.uint8), [10, 15])
    encoder = load_encoder(write_esm2(tmp_path), "protein", torch.float32, CPU)
    before = encoder.embed(tokens)
    path = tmp_path / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    assert torch.equal(encoder.embed(tokens), before)


def test_missing_surprising_and_misshapen_weights_are_all_listed(tmp_path) -> None:
    folder = write_esm2(tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.bias"], state["embeddings.word_embeddings.weight"]
    state["encoder.layer.2.output.dense.bias"] = torch.zeros(32)
    state["encoder.layer.0.output.dense.bias"] = torch.zeros(31)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(WeightsError) as refused:
        load_encoder(folder, "protein", torch.float32, CPU)
    message = str(refused.value)
    assert message.startswith(str(folder))
    assert "missing: embeddings.word_embeddings.weight, encoder.layer.1.output.dense.bias" in message
    assert "unknown: encoder.layer.2.output.dense.bias" in message
    assert "encoder.layer.0.output.dense.bias is (31,), not (32,)" in message


def test_a_configuration_of_another_size_is_refused(tmp_path) -> None:
    folder = write_dnabert_s(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(WeightsError, match=r"missing: encoder\.layer\.2\.attention"):
        load_encoder(folder, "nucleotide", torch.float32, CPU)


@pytest.mark.parametrize(
    ("native", "dtype"),
    [({}, "float32"), ({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16")],
)
def test_auto_on_a_cpu_depends_on_native_bfloat16_products(monkeypatch, native, dtype) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False} | native)
    assert choose_dtype("auto", CPU) == dtype


def test_auto_on_cuda_is_float16() -> None:
    assert choose_dtype("auto", torch.device("cuda", 1)) == "float16"


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_named_dtype_is_taken(name: str) -> None:
    assert choose_dtype(name, CPU) == name


def test_float16_on_a_cpu_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--dtype float16"):
        choose_dtype("float16", CPU)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", PARITY_FOLDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_agrees_with_the_cpu(models, batches, encoders, kind, dtype) -> None:
    encoder = load_encoder(getattr(models, kind), kind, dtype, torch.device("cuda"))
    exact, embedded = encoders[kind].embed(batches[kind]).numpy(), encoder.embed(batches[kind]).cpu().numpy()
    assert cosine(embedded, exact).min() >= 0.999
    if dtype == torch.float32:
        np.testing.assert_allclose(embedded, exact, atol=2e-3 if torch.backends.cuda.matmul.allow_tf32 else 2e-5)


MANY_SHAPES = """
import sys
from pathlib import Path
import numpy as np, torch
from vpdist.encoders.encoder import load_encoder
from vpdist.ragged import Ragged

def anonymous_mb():
    [line] = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1000

torch.set_num_threads(1)
encoder = load_encoder(Path(sys.argv[1]), "nucleotide", torch.bfloat16, torch.device("cpu"))
for n_tokens in range(600, 800):
    encoder.embed(Ragged.from_lengths(np.full(n_tokens, 5), [300, n_tokens - 300]))
    if n_tokens == 610:
        before = anonymous_mb()
print(anonymous_mb() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads anonymous memory from Linux's /proc")
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 kernels")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_batch_shapes(tmp_path):
    folder = write_dnabert_s(tmp_path / "dnabert-s")
    done = subprocess.run([sys.executable, "-c", MANY_SHAPES, folder], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40, "200 shapes took over 200 MB when their kernels were all kept"
