"""The table of encoder kinds: what files say of the two of the method, a changed pooling, and a third kind."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.codon_encoder import WIDTH, write_codon_vectors
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.encoder_kinds import KINDS, in_files, pooling_text
from vpdist.encoders.family import DNABERT_S, ESM2, FAMILIES
from vpdist.storage import hdf5_files


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_contigs(tmp_path_factory.mktemp("input") / "contigs.fa")


def settings_for(models: TinyModels, contigs: Path, output: Path) -> Settings:
    return models.settings(contigs, output, classifier=None)


def parts(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "parts").iterdir())}


def test_files_name_the_methods_encoders_even_where_one_does_not_run() -> None:
    assert in_files({"protein": "p"}, "") == {"nucleotide": "", "protein": "p"}
    both = "nucleotide: mean over all tokens; protein: mean over residues"
    assert pooling_text({"protein": "p"}, {}) == pooling_text({"nucleotide": "n", "protein": "p"}, {}) == both
    assert pooling_text({"protein": "p"}, {"protein": "sum"}) == "nucleotide: mean over all tokens; protein: sum"


def test_the_methods_own_encoders_pool_as_their_kinds_say() -> None:
    assert {family.kinds[0]: family.pooling for family in (DNABERT_S, ESM2)} == {
        name: kind.pooling for name, kind in KINDS.items()
    }


def test_tokens_that_a_mean_leaves_out_are_told_apart_in_words() -> None:
    texts = [replace(ESM2, not_pooled=number).pooling for number in range(4)]
    assert len(set(texts)) == 4
    assert [replace(ESM2, not_pooled=number).fewest_tokens for number in range(4)] == [2, 3, 5, 7]


def test_parts_with_another_pooling_are_computed_again(
    models: TinyModels, contigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(models, contigs, tmp_path / "run")
    assert predict(settings) == 0
    before = parts(settings.output)
    (settings.output / "parts" / next(iter(before))).unlink()
    monkeypatch.setitem(FAMILIES, "ESM-2", replace(ESM2, not_pooled=0))
    assert predict(settings) == 0
    anew = replace(settings, output=tmp_path / "anew")
    assert predict(anew) == 0
    resumed = parts(settings.output)
    assert len(before) > 2
    assert resumed == parts(anew.output)
    for name in before:
        assert resumed[name] != before[name]
        with hdf5_files.opened(settings.output / "parts" / name) as part:
            text = hdf5_files.attributes(part)["pooling"]
        assert text == "nucleotide: mean over all tokens; protein: mean over all tokens"


def with_codons(*arguments: Path | str) -> None:
    command = [sys.executable, "-m", "tests.codon_encoder", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_third_kind_is_a_file_and_two_rows(models: TinyModels, contigs: Path, tmp_path: Path) -> None:
    folder, run = write_codon_vectors(tmp_path / "codon"), tmp_path / "run"
    with_codons(contigs, run, folder, models.protein)
    with h5py.File(run / "tokens" / "block-000000.h5") as block:
        tokens, offsets = block["codon_tokens"][:], block["codon_token_offsets"][:]
    vectors = load_file(folder / "model.safetensors")["codons.weight"][tokens]
    expected = np.stack([vectors[a + 1 : b - 1].mean(0) for a, b in itertools.pairwise(offsets)])
    seen = np.zeros(len(expected), bool)
    for path in (run / "parts").iterdir():
        with hdf5_files.opened(path) as part:
            attributes = hdf5_files.attributes(part)
            fragment, row = part["fragment"][:], part["row"][:]
            np.testing.assert_allclose(part["codon"][:][row], expected[fragment], rtol=1e-5, atol=1e-6)
            assert part["codon"].shape[1] == WIDTH
            assert "protein" in part
            assert "nucleotide" not in part
            assert (attributes["nucleotide_model"], len(attributes["codon_model"])) == ("", 32)
            assert attributes["pooling"].endswith("; codon: mean over codons")
        seen[fragment] = True
    assert seen.all()
    assert len(seen) > 50
    last = json.loads((run / "progress.jsonl").read_text().splitlines()[-1])
    assert 0 < last["totals"]["codon_tokens"] <= offsets[-1]
    assert json.loads((run / "run.json").read_text())["decisions"]["codon_model"]
    written = {path: path.stat().st_mtime_ns for path in (run / "parts").iterdir()}
    with_codons(contigs, run, folder, models.protein)
    assert written == {path: path.stat().st_mtime_ns for path in (run / "parts").iterdir()}


def test_a_further_row_leaves_runs_without_it_as_they_are(models: TinyModels, contigs: Path, tmp_path: Path) -> None:
    plain = replace(settings_for(models, contigs, tmp_path / "plain"), nucleotide_model=None)
    assert predict(plain) == 0
    with_codons(contigs, tmp_path / "run", "-", models.protein)
    assert parts(tmp_path / "run") == parts(plain.output)
    for name in ("tokens/block-000000.h5", "tokens/plan.h5", "tokens/store.json", "fragments.tsv"):
        assert (tmp_path / "run" / name).read_bytes() == (plain.output / name).read_bytes()
    one, other = (json.loads((run / "run.json").read_text()) for run in (tmp_path / "run", plain.output))
    assert one["decisions"] == other["decisions"]
