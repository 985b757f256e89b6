"""Scripts of the demonstration: sample, models, classifier, summary; and the pinned versions."""

import gzip
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from tokenizers import Tokenizer
from transformers import EsmConfig, EsmForMaskedLM

from scripts.demo import make_models, make_sample, show
from scripts.demo.metrics import accuracy, auroc
from vpdist.encoders.encoder import load_encoder
from vpdist.ragged import Ragged

REPOSITORY = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_models.main(folder)
    return folder


# The sample


def test_the_same_seed_gives_the_same_sample_and_another_seed_another_one(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_sample.main(tmp_path / folder, seed=seed, training=3, contigs=4, reads=5)
    first, again, other = (contents(tmp_path / folder) for folder in "abc")
    assert sorted(first) == ["other.fa", "sample.fa.gz", "truth.tsv", "virus.fa"]
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_the_truth_lists_every_sequence_of_the_sample_in_order(tmp_path: Path) -> None:
    make_sample.main(tmp_path, seed=1, training=1, contigs=4, reads=5)
    names = re.findall(r">(\S+)", gzip.decompress((tmp_path / "sample.fa.gz").read_bytes()).decode())
    rows = show.read_table(tmp_path / "truth.tsv")
    assert [row["seq_name"] for row in rows] == names
    assert len(names) == 9
    assert {row["truth"] for row in rows} == {"virus", "non-virus"}


def test_organisms_of_the_sample_are_not_those_of_the_training_set(tmp_path: Path) -> None:
    make_sample.main(tmp_path, seed=1, training=200, contigs=200, reads=0)
    training = (tmp_path / "virus.fa").read_text() + (tmp_path / "other.fa").read_text()
    sample = gzip.decompress((tmp_path / "sample.fa.gz").read_bytes()).decode()
    stretches = {line[:60] for line in sample.splitlines() if not line.startswith(">")}
    both_strands = training + make_sample.reverse_complement(training)
    assert not any(stretch in both_strands for stretch in stretches)


def test_a_piece_from_the_reverse_strand_is_the_reverse_complement_of_its_positions() -> None:
    rng = np.random.default_rng(0)
    organism = make_sample.Organism("virus", "virus_01", "".join(rng.choice(list("ACGT"), 500)))
    pieces = [make_sample.cut(rng, organism, "x", 50) for _ in range(20)]
    assert {piece.strand for piece in pieces} == {"+", "-"}
    for piece in pieces:
        forward = organism.genome[piece.start - 1 : piece.end]
        assert piece.sequence == (forward if piece.strand == "+" else make_sample.reverse_complement(forward))
        assert piece.end - piece.start + 1 == 50


def test_a_genome_has_long_genes_on_both_strands() -> None:
    genome = make_sample.grow_organisms(np.random.default_rng(0), 1)[0].genome
    gene = re.compile(r"ATG(?:(?!TAA|TAG|TGA)[ACGT]{3}){250,}(?:TAA|TAG|TGA)")
    assert len(gene.findall(genome)) >= 5
    assert len(gene.findall(make_sample.reverse_complement(genome))) >= 5


# The models


def test_the_same_seed_gives_the_same_models_and_another_seed_other_weights(models: Path, tmp_path: Path) -> None:
    make_models.main(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(models)
    make_models.main(tmp_path / "other", seed=1)
    weights = Path("esm-2/model.safetensors")
    assert (tmp_path / "other" / weights).read_bytes() != (models / weights).read_bytes()


def test_dnabert_s_holds_the_same_tensors_in_either_file_format(models: Path, tmp_path: Path) -> None:
    make_models.main(tmp_path, safetensors=True)
    pickled = torch.load(models / "dnabert-s" / "pytorch_model.bin", weights_only=True)
    safe = safetensors.torch.load_file(tmp_path / "dnabert-s" / "model.safetensors")
    assert not (tmp_path / "dnabert-s" / "pytorch_model.bin").exists()
    assert pickled.keys() == safe.keys()
    assert all(torch.equal(pickled[name], safe[name]) for name in safe)


def test_dnabert_s_at_full_size_has_the_published_number_of_parameters() -> None:
    assert sum(int(np.prod(shape)) for _, shape in make_models.dnabert_s_shapes(12, 768)) == 117_068_544


def test_esm_2_has_the_names_and_shapes_that_transformers_gives_it(models: Path) -> None:
    with torch.device("meta"):
        reference = EsmForMaskedLM(EsmConfig.from_pretrained(models / "esm-2"))
    expected = {name: tuple(parameter.shape) for name, parameter in reference.named_parameters()}
    expected.pop("lm_head.decoder.weight", None)  # the same tensor as the word embeddings
    saved = safetensors.torch.load_file(models / "esm-2" / "model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items() if "inv_freq" not in name}
    assert shapes.pop("esm.embeddings.position_embeddings.weight") == (1026, 64)  # published, and unused
    assert shapes == expected


@pytest.mark.parametrize(("kind", "folder", "width"), [("nucleotide", "dnabert-s", 96), ("protein", "esm-2", 64)])
def test_the_encoders_load_them_and_tell_sequences_apart(models: Path, kind: str, folder: str, width: int) -> None:
    encoder = load_encoder(models / folder, kind, torch.float32, torch.device("cpu"))
    embeddings = encoder.embed(Ragged.from_lengths(np.array([1, 7, 8, 9, 2, 1, 9, 9, 7, 2], np.uint16), [5, 5]))
    assert embeddings.shape == (2, width)
    assert torch.isfinite(embeddings).all()
    assert (embeddings[0] - embeddings[1]).abs().max() > 0.1


def test_the_nucleotide_tokenizer_is_byte_pair_encoding_between_cls_and_sep(models: Path) -> None:
    tokenizer = Tokenizer.from_file(str(models / "dnabert-s" / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 4096
    assert [tokenizer.token_to_id(token) for token in ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")] == [0, 1, 2, 3, 4]
    strings = ["".join(bases) for bases in np.random.default_rng(1).choice(list("ACGT"), (20, 300))]
    encodings = tokenizer.encode_batch(strings)
    assert all(encoding.ids[0] == 1 and encoding.ids[-1] == 2 for encoding in encodings)
    assert ["".join(encoding.tokens[1:-1]) for encoding in encodings] == strings
    assert 4 < 300 / np.mean([len(encoding.ids) - 2 for encoding in encodings]) < 6
    assert 0 in tokenizer.encode("ACGTRACGT").ids


@pytest.mark.parametrize("size", ["12", "0x96", "3x-96", "axb"])
def test_a_size_that_is_not_layers_by_width_is_refused(tmp_path: Path, size: str) -> None:
    with pytest.raises(typer.BadParameter, match="LAYERSxWIDTH"):
        make_models.main(tmp_path, nucleotide=size)


def test_a_width_that_the_heads_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="12 heads"):
        make_models.main(tmp_path, nucleotide="2x100")


# Figures


def test_auroc_counts_pairs_in_order_and_ties_as_half() -> None:
    positive = np.array([True, True, False, False])
    assert auroc(positive, np.array([4.0, 3.0, 2.0, 1.0])) == 1.0
    assert auroc(positive, np.array([1.0, 2.0, 3.0, 4.0])) == 0.0
    assert auroc(positive, np.array([1.0, 3.0, 2.0, 0.0])) == 0.75
    assert auroc(positive, np.array([1.0, 1.0, 1.0, 1.0])) == 0.5
    assert np.isnan(auroc(np.array([True]), np.array([1.0])))


def test_a_score_of_zero_is_a_virus_call() -> None:
    assert accuracy(np.array([True, True, False, False]), np.array([0.0, -1.0, -1.0, 1.0])) == 0.5


# The classifier


# The summary


def test_the_summary_counts_calls_by_truth_and_leaves_uncalled_sequences_out_of_the_figures() -> None:
    truth = {"contig_1": "virus", "contig_2": "virus", "contig_3": "non-virus", "contig_4": "non-virus"}
    rows = [
        {"seq_name": "contig_1", "prediction": "virus", "virus_score": "0.9", "nonvirus_score": "0.1"},
        {"seq_name": "contig_2", "prediction": "non-virus", "virus_score": "0.3", "nonvirus_score": "0.7"},
        {"seq_name": "contig_3", "prediction": "non-virus", "virus_score": "0.2", "nonvirus_score": "0.8"},
        {"seq_name": "contig_4", "prediction": "NA", "virus_score": "NA", "nonvirus_score": "NA"},
    ]
    assert show.agreement(rows, truth) == "3 of 4 called, accuracy 0.667, AUROC 1.000"
    assert show.agreement(rows[3:], truth) == "no calls"
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(show.confusion(rows, truth))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["virus", "1", "1", "0"] in lines
    assert ["non-virus", "0", "1", "1"] in lines


# The versions


def pinned() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): release for name, release in pairs}


def test_every_dependency_is_pinned_to_a_release_that_its_requirement_allows() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    releases = pinned()
    for text in (*project["dependencies"], *extras["test"], *extras["check"], *extras["docs"]):
        requirement = Requirement(text)
        assert requirement.specifier.contains(releases[canonicalize_name(requirement.name)]), text


def test_torch_is_pinned_without_a_build_tag_and_nothing_names_a_place_to_install_from() -> None:
    text = (REPOSITORY / "constraints.txt").read_text()
    assert "+" not in "".join(pinned().values())
    assert not re.search(r"^-|://|/", text.replace("# ", ""), re.MULTILINE)


def test_the_changelog_has_an_entry_for_this_version() -> None:
    assert f"## [{version('vpdist')}]" in (REPOSITORY / "CHANGELOG.md").read_text()
