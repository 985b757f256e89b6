"""The map, the timeline and the methods of a report, each by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.checks import read_by_multiqc
from tests.sample import write_contigs
from tests.snapshots import row, snapshot
from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict
from vpdist.report import embedding_map as maps
from vpdist.report import timeline as timelines
from vpdist.report.embedding_map import embedding_map
from vpdist.report.methods import methods
from vpdist.report.multiqc import write_multiqc
from vpdist.report.packed import NA, SCALE
from vpdist.report.pictures import write_png
from vpdist.report.timeline import POINTS, timeline
from vpdist.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def done(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("map")
    assert predict(models.settings(write_contigs(folder / "contigs.fa", n=30), folder / "run")) == 0
    return RunFolder(folder / "run")


def test_components_are_those_of_the_singular_values_and_part_two_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 50)
    for width in (8, 300):  # narrower and wider than it has rows
        matrix = (rng.normal(size=(100, width)) + 12 * groups[:, None] * (np.arange(width) % 3 == 0)).astype(np.float32)
        places, shares = maps._components(matrix - matrix.mean(0))
        centred = matrix - matrix.mean(0)
        _, values, axes = np.linalg.svd(centred, full_matrices=False)
        expected = centred @ axes[:2].T
        np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-2)
        np.testing.assert_allclose(shares, values[:2] ** 2 / (values**2).sum(), rtol=1e-4)
        first = places[:, 0]
        assert max(first[groups == 0].max(), first[groups == 1].max()) > 0
        assert (first[groups == 0].max() < first[groups == 1].min()) or (
            first[groups == 1].max() < first[groups == 0].min()
        )


def test_a_map_has_a_place_for_each_sequence_with_an_embedding(done: RunFolder, tmp_path: Path) -> None:
    record = np.arange(31)
    found = embedding_map(done, record, tmp_path / "x")
    assert len(found.columns["mapi"]) == 28  # three have no open frame
    for axis in ("mapx", "mapy"):
        values = np.asarray(found.columns[axis])
        assert (values.min(), values.max()) == (0, SCALE)
    first, last = (list(found.columns["mapi"]).index(number) for number in (0, 30))
    for axis in ("mapx", "mapy"):  # the same sequence, a second time
        assert abs(int(found.columns[axis][first]) - int(found.columns[axis][last])) <= 1
    assert "of 28 sequences" in found.told
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_map_it_says_why(
    done: RunFolder, models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "fewer than three" in embedding_map(done, np.arange(2), tmp_path / "x").told
    monkeypatch.setattr(maps, "MOST_POINTS", 5)
    assert "5 of 28 sequences, evenly spread" in embedding_map(done, np.arange(31), tmp_path / "x").told
    monkeypatch.setattr(maps, "MOST_BYTES", 10)
    assert "GB of embeddings" in embedding_map(done, np.arange(31), tmp_path / "x").told
    contigs = write_contigs(tmp_path / "contigs.fa", n=3)
    assert predict(models.settings(contigs, tmp_path / "run", embeddings=False)) == 0
    assert "--no-embeddings" in embedding_map(RunFolder(tmp_path / "run"), np.arange(4), tmp_path / "x").told


def line(elapsed: float, *tokens: int) -> str:
    ranks = [row(k, nucleotide_tokens=n) for k, n in enumerate(tokens)]
    return snapshot(elapsed, *ranks).to_json()


def test_a_timeline_goes_on_where_a_resumed_run_began_again(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    lines = [line(0, 0, 0), "{", line(10, 100, 50), line(0, 0, 0), "", line(5, 70, 30), '{"v": 99}']
    path.write_text("\n".join(lines) + "\n")
    found = timeline(path)
    assert found["t"] == [0, 10, 10, 15]
    assert found["tokens"] == [0, 150, 150, 250]
    assert [rank["tokens"] for rank in found["ranks"]] == [70, 30]
    assert found["mean"] == 50
    assert found["rates"] == [{"rank": 0, "tokens": [100, 0, 70]}, {"rank": 1, "tokens": [50, 0, 30]}]


def test_of_many_ranks_some_are_drawn_that_are_evenly_spread(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text(line(0, *[0] * 200) + "\n" + line(1, *range(200)) + "\n")
    found = timeline(path)
    assert len(found["ranks"]) == 200
    drawn = [row["rank"] for row in found["rates"]]
    assert drawn == list(range(0, 200, 4))
    assert [row["tokens"] for row in found["rates"]] == [[rank] for rank in drawn]


@pytest.mark.parametrize("most", [0, timelines.READ_WHOLE])
def test_of_a_long_history_a_few_moments_are_read_the_last_one_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(timelines, "READ_WHOLE", most)
    path = tmp_path / "progress.jsonl"
    path.write_text("".join(line(k, 10 * k) + "\n" for k in range(2000)))
    found = timeline(path)
    assert POINTS / 2 < len(found["t"]) <= POINTS + 12
    assert (found["t"][0], found["t"][-1]) == (0, 1999)
    assert found["tokens"] == [10 * t for t in found["t"]]


def test_without_a_history_there_is_an_empty_timeline(tmp_path: Path) -> None:
    assert timeline(tmp_path / "progress.jsonl") == {"t": [], "tokens": [], "ranks": [], "mean": 0, "rates": []}


def test_methods_name_versions_models_and_whom_to_cite() -> None:
    run = {
        "versions": {"vpdist": "9.9", "torch": "2.13"},
        "settings": {"nucleotide_model": "zhihan1996/DNABERT-S", "protein_model": "/secret/place/esm"},
        "decisions": {
            "input": [1, 2],
            "chunk_length": 300,
            "nucleotide_model": "f1",
            "protein_model": "f2",
            "protein_pooling": "other",
            "dtype": "float16",
            "embedding_dtype": "float16",
        },
        "platform": {"name": "H100"},
        "model": {"name": "mine", "digest": "sha256:d"},
        "tables_from": {"command": "predict", "classifier": "f3", "consensus": "max"},
    }
    text = "\n".join(methods(run, 1234))
    for each in (
        "1,234 sequences from 2 files",
        "300 bases",
        "vpdist 9.9",
        "torch 2.13",
        "f1",
        "f2",
        "f3",
        "H100",
        "max",
    ):
        assert each in text
    assert "zhihan1996/DNABERT-S" in text
    assert "secret" not in text
    assert "sha256:d" in text
    assert "arXiv:2402.08777" in text
    assert "science.ade2574" not in text  # another encoder of proteins
    assert methods({}, 0)[1] == "Nothing was classified."
    assert "10 sequences from 1 file were" in methods({"decisions": {"input": [1]}}, 10)[0]
    assert methods({"decisions": 5, "versions": []}, 0)


def test_methods_tell_the_rule_by_which_a_calibrated_run_is_called() -> None:
    run: dict[str, object] = {"tables_from": {"classifier": "f"}}
    by_score = "called virus where the virus score is at least the other"
    assert by_score in methods(run, 1)[1]
    judgement = {"calibrated_sequences": 1, "max_fdr": 0.05, "least_virus_probability": 0.5}
    told = methods(run | {"judgement": judgement | {"most_other_probability": 0.2}}, 1)[1]
    assert by_score not in told
    assert "is at most 0.05 and the probability at least 0.5, non-virus where the probability is below 0.2" in told
    assert by_score in methods(run | {"judgement": judgement | {"calibrated_sequences": 0}}, 1)[1]
    share = {"value": 0.5, "origin": "assumed", "estimate": 0.998, "low": 0.988, "high": 0.999}
    told = methods(run | {"judgement": judgement | {"prevalence": share}}, 1)[1]
    assert "is 0.5, assumed, as the estimate, 0.998 (0.988 to 0.999), is above 0.95" in told


@pytest.mark.parametrize(
    ("names", "samples"),
    [
        (["A/contigs.fa", "B/contigs.fa", "C/reads.fq"], ["A | contigs", "B | contigs", "reads"]),
        (["a.fa", "b/a.fa", "x/a.fa.fa"], ["a", "b | a", "x | a.fa"]),
        (["a.contigs.fa", "a.scaffolds.fa", "b.fa"], ["1 | a.contigs", "2 | a.scaffolds", "b"]),
        (["x.1/a.fa", "x.2/a.fa"], ["1 | a", "2 | a"]),
        (["a.contigs.fa", "a.fa", "2 | a.fa"], ["1 | a.contigs", "2 | a", "3 | 2 | a"]),
    ],
)
def test_multiqc_keeps_files_of_the_same_name_apart(names: list[str], samples: list[str], tmp_path: Path) -> None:
    counts = {"sequences": 10, "scored": 7, "virus": 3}
    path = write_multiqc(tmp_path, {"sources": [counts | {"name": name} for name in names]})
    assert list(json.loads(path.read_text())["data"]) == samples
    assert len({sample.partition(".")[0] for sample in samples}) == len(samples)


def test_multiqc_gets_a_sample_for_each_file(tmp_path: Path) -> None:
    counts = {"sequences": 10, "scored": 7, "virus": 3}
    sources = [counts | {"name": name} for name in ("/data/a.fq.gz", "b.fna", "-")]
    content = json.loads(write_multiqc(tmp_path, {"sources": sources}).read_text())
    assert list(content["data"]) == ["a", "b", "-"]
    assert list(content["data"]["a"].values()) == [3, 4, 3]


def test_multiqc_reads_every_sample_with_its_numbers(tmp_path: Path) -> None:
    program = read_by_multiqc.found()
    if program is None:
        pytest.skip("there is no MultiQC to read the file; make check-multiqc installs it")
    expected = read_by_multiqc.written(tmp_path, read_by_multiqc.made_up())
    assert len(expected) == len(read_by_multiqc.NAMES)
    assert read_by_multiqc.differences(expected, read_by_multiqc.as_read(program, tmp_path)) == []


def test_a_sample_that_multiqc_drops_renames_or_changes_is_told() -> None:
    written = {"a.sorted": {"virus": 1}, "b": {"virus": 2}, "c": {"virus": 3}}
    assert read_by_multiqc.differences(written, {"a": {"virus": 1}, "b": {"virus": 2}, "c": {"virus": 3}}) == []
    for read in ({"b": {"virus": 2}, "c": {"virus": 3}}, {"x": {"virus": 1}, "b": {"virus": 2}, "c": {"virus": 3}}):
        (line,) = read_by_multiqc.differences(written, read)
        assert line.startswith("a.sorted:")
    told = read_by_multiqc.differences(written, {"a": {"virus": 1}, "b": {"virus": 2}, "c": {"virus": 4}})
    assert [line.partition(":")[0] for line in told] == ["c", "c"]


def test_a_file_that_multiqc_cannot_read_is_no_success(tmp_path: Path) -> None:
    program = tmp_path / "multiqc"
    program.write_text("#!/bin/sh\necho nothing found\n")
    program.chmod(0o755)
    read_by_multiqc.written(tmp_path, read_by_multiqc.made_up())
    with pytest.raises(RuntimeError, match=r"ended with 0 and has not read vpdist_mqc\.json: nothing found"):
        read_by_multiqc.as_read(program, tmp_path)


@pytest.mark.parametrize("n", [0, 2])
def test_there_is_a_picture_where_nothing_is_scored(tmp_path: Path, n: int) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    columns = {"virus": np.full(n, NA), "call": np.zeros(n, np.uint8), "length": np.full(n, 300)}
    write_png(tmp_path / "report.png", columns, {"virus": 0, "sequences": n})
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
