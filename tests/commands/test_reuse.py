"""`--reuse`: embeddings of the same fragments are taken over from another run, and only then."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.sample import write_contigs
from tests.tiny_models import TinyModels, write_dnabert_s
from vpdist.commands.early_checks import check_paths
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.errors import UsageError
from vpdist.results.parts import part_path
from vpdist.storage import hdf5_files
from vpdist.storage.run_folder import TABLES, RunFolder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_contigs(tmp_path_factory.mktemp("input") / "first.fa")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One more sample; its names are its own."""
    path = write_contigs(tmp_path_factory.mktemp("input") / "second.fa", n=7, seed=5)
    path.write_text(path.read_text().replace(">contig", ">other"))
    return path


@pytest.fixture(scope="module")
def earlier(models: TinyModels, first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the first sample; tests that change it work on a copy."""
    settings = models.settings(first, tmp_path_factory.mktemp("earlier") / "run", dtype="float32")
    assert predict(settings) == 0
    return settings.output


@pytest.fixture
def embedded_by(embedded: Callable[[], int]) -> Callable[[Settings], int]:
    """Run `predict`; returns how many sequences of tokens went through encoders."""

    def run(settings: Settings) -> int:
        embedded()
        assert predict(settings) == 0
        return embedded()

    return run


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


def scores_by_name(folder: Path) -> dict[str, list[str]]:
    lines = [line.split("\t") for line in (folder / "fragments.tsv").read_text().splitlines()]
    column = lines[0].index("virus_score")
    return {line[0]: line[column : column + 2] for line in lines[1:]}


def reused(folder: Path) -> int:
    return int(json.loads((folder / "run.json").read_text())["reused"]["fragments"])


def test_a_run_on_the_same_input_embeds_nothing_and_has_the_same_tables(
    models: TinyModels, first: Path, earlier: Path, embedded_by: Callable[[Settings], int], tmp_path: Path
) -> None:
    settings = models.settings(first, tmp_path / "run", dtype="float32", reuse=earlier)
    assert embedded_by(settings) == 0
    assert tables(settings.output) == tables(earlier)
    progress = [json.loads(line) for line in (settings.output / "progress.jsonl").read_text().splitlines()]
    assert progress


def test_one_more_sample_is_embedded_alone(
    models: TinyModels, first: Path, second: Path, earlier: Path, embedded_by: Callable[[Settings], int], tmp_path: Path
) -> None:
    both = {"inputs": (str(first), str(second)), "dtype": "float32"}
    whole = models.settings(first, tmp_path / "whole", **both)
    adding = models.settings(first, tmp_path / "adding", **both, reuse=earlier)
    alone = models.settings(second, tmp_path / "alone", dtype="float32")
    n_whole, n_added = embedded_by(whole), embedded_by(adding)
    assert 0 < n_added == embedded_by(alone) < n_whole
    assert 2 * reused(adding.output) == n_whole - n_added
    expected, found, before = map(scores_by_name, (whole.output, adding.output, earlier))
    assert found.keys() == expected.keys()
    assert [found[name] for name in before] == list(before.values())
    for name, scores in expected.items():
        np.testing.assert_allclose([*map(float, found[name])], [*map(float, scores)], atol=1e-5)


def test_longer_chunks_take_over_what_is_the_same(
    models: TinyModels, first: Path, earlier: Path, embedded_by: Callable[[Settings], int], tmp_path: Path
) -> None:
    settings = models.settings(first, tmp_path / "run", dtype="float32", chunk_length=600, classifier=None)
    with_reuse = replace(settings, output=tmp_path / "again", reuse=earlier)
    n_all, n_left = embedded_by(settings), embedded_by(with_reuse)
    assert 0 < n_left < n_all
    assert 2 * reused(with_reuse.output) == n_all - n_left


def test_what_is_damaged_failed_or_missing_in_the_earlier_run_is_embedded_by(
    models: TinyModels, first: Path, earlier: Path, embedded_by: Callable[[Settings], int], tmp_path: Path
) -> None:
    copy = RunFolder(Path(shutil.copytree(earlier, tmp_path / "earlier")))
    part_path(copy.parts, 0).unlink()
    with h5py.File(part_path(copy.parts, 1), "r+") as file:
        file["nucleotide"][:] = 0.0  # the digest tells
        damaged = len(file["failed"])
    with hdf5_files.opened(part_path(copy.parts, 2)) as file:
        datasets = {name: hdf5_files.read(file, name) for name in file}
        attributes = {name: value for name, value in hdf5_files.attributes(file).items() if name != "format_version"}
    datasets["failed"][0] = 1
    hdf5_files.write_atomic(
        part_path(copy.parts, 2), datasets, {name: value for name, value in attributes.items() if value is not None}
    )
    with hdf5_files.opened(part_path(RunFolder(earlier).parts, 0)) as file:
        missing = len(hdf5_files.read(file, "failed"))
    settings = models.settings(first, tmp_path / "run", dtype="float32", reuse=copy.path)
    assert embedded_by(settings) == 2 * (missing + damaged + 1)
    np.testing.assert_allclose(
        np.array(list(scores_by_name(settings.output).values()), dtype=float),
        np.array(list(scores_by_name(earlier).values()), dtype=float),
        atol=1e-5,
    )


def test_a_run_that_takes_over_resumes_with_or_without_the_earlier_one(
    models: TinyModels, first: Path, earlier: Path, embedded_by: Callable[[Settings], int], tmp_path: Path
) -> None:
    settings = models.settings(first, tmp_path / "run", dtype="float32", reuse=earlier)
    assert embedded_by(settings) == 0
    parts = RunFolder(settings.output).parts
    part_path(parts, 0).unlink()
    assert embedded_by(settings) == 0
    part_path(parts, 0).unlink()
    assert embedded_by(replace(settings, reuse=None)) > 0
    assert len(tables(settings.output)[0]) == len(tables(earlier)[0])


def test_embeddings_of_another_model_or_number_format_are_not_taken_over(
    models: TinyModels, first: Path, earlier: Path, tmp_path: Path
) -> None:
    other = write_dnabert_s(tmp_path / "other", seed=9)
    settings = models.settings(first, tmp_path / "run", dtype="float32", reuse=earlier)
    for changed, reason in (
        ({"nucleotide_model": str(other)}, "its nucleotide model is another one than this run's"),
        ({"dtype": "bfloat16"}, "its --dtype is float32, this run's is bfloat16"),
        ({"embedding_dtype": "float16"}, "its --embedding-dtype is float32, this run's is float16"),
        ({"protein_model": None, "classifier": None}, "it has embeddings of more encoders than this run"),
    ):
        run = replace(settings, output=tmp_path / f"run{len(list(tmp_path.iterdir()))}", **changed)
        assert predict(run) == 2
        status = json.loads((run.output / "status.json").read_text())
        assert status["message"] == f"--reuse {earlier}: {reason}"


def test_a_folder_without_embeddings_is_refused(models: TinyModels, first: Path, tmp_path: Path) -> None:
    without = models.settings(first, tmp_path / "without", dtype="float32", embeddings=False)
    assert predict(without) == 0
    settings = models.settings(first, tmp_path / "run", dtype="float32", reuse=without.output)
    assert predict(settings) == 2
    assert "holds no embeddings" in (settings.output / "status.json").read_text()
    for folder, reason in ((tmp_path, "holds no run"), (settings.output, "is the run folder itself")):
        with pytest.raises(UsageError, match=f"{re.escape(str(folder))}:? {reason}"):
            check_paths(replace(settings, reuse=folder))
