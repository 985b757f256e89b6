"""Sequences that a model is not made for: no score, a flag, and no run for nothing."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.models.test_choose import asked, model_with, tables
from tests.sample import coding_sequence, write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.classify import classify
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.estimate.dry_run import forecast
from vpdist.models.bundle import Bundle
from vpdist.storage.atomic_files import write_file


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def write_reads(path: Path, lengths: list[int]) -> Path:
    rng = np.random.default_rng(4)
    path.write_text("".join(f">r{n}\n{coding_sequence(rng, length)}\n" for n, length in enumerate(lengths)))
    return path


@pytest.fixture(scope="module")
def strict(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model that judges chunks from 200 bases on. No test changes it."""
    folder = tmp_path_factory.mktemp("strict") / "strict"
    return model_with(models, folder, shortest_chunk=200, short_chunks="NA")


def test_short_sequences_have_no_score_and_say_so(strict: Bundle, tmp_path: Path) -> None:
    run = tmp_path / "run"
    source = write_reads(tmp_path / "reads.fa", [199, 200, 1600, 700])
    assert predict(asked(source, run, model=str(strict.folder), legacy_output=True)) == 0
    sequences, chunks = rows(run / "sequences.tsv"), rows(run / "chunks.tsv")
    first, second, third, fourth = sequences
    assert (first["virus_score"], first["prediction"], first["n_scored_chunks"]) == ("NA", "NA", "0")
    assert (first["status"], first["flags"], first["margin"]) == ("ok", "short", "NA")
    assert second["prediction"] != "NA"
    assert "short" not in second["flags"] + third["flags"] + fourth["flags"]
    assert [row["flags"] for row in chunks[:2]] == ["short", "none"]
    assert {row["virus_score"] for row in rows(run / "fragments.tsv") if row["seq_name"] == "r0"} == {"NA"}
    assert "r0_" not in (run / "prediction_results.txt").read_text()
    recorded = json.loads((run / "run.json").read_text())
    assert recorded["decisions"]["shortest_chunk"] == 200
    assert recorded["tables_from"]["shortest_chunk"] == 200
    assert any("1 of 4 sequences have no score" in line for line in recorded["warnings"])
    assert verify(run) == []


def test_a_run_of_short_sequences_stops_unless_it_is_wanted(
    strict: Bundle, models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    source = write_reads(tmp_path / "reads.fa", [150, 151, 152, 200, 600])
    settings = asked(source, run, model=str(strict.folder))
    told = forecast(asked(source, tmp_path / "none", model=str(strict.folder), dry_run=True), 1, None)
    assert any("3 of 5 sequences have no score" in line for line in told.warnings)
    with monkeypatch.context() as patched:
        patched.setattr("vpdist.commands.prepare.load_work", None)  # it would raise
        assert predict(settings) == 2
    message = json.loads((run / "status.json").read_text())["message"]
    assert "3 of 5 sequences" in message
    assert "median length is 152 bases" in message
    assert "from 200 bases on" in message
    assert "--allow-short" in message
    assert not (run / "sequences.tsv").exists()
    assert predict(asked(source, run, model=str(strict.folder), allow_short=True)) == 0
    assert Counter(row["prediction"] == "NA" for row in rows(run / "sequences.tsv")) == {True: 3, False: 2}
    assert json.loads((run / "run.json").read_text())["settings"]["allow_short"] is True
    again = tmp_path / "again"
    assert predict(models.settings(source, again)) == 0  # this classifier judges all
    before = tables(again)
    named = {"model": str(strict.folder), "consensus": None, "legacy_output": False, "progress": "none"}
    assert classify(again, None, **named) == 0
    assert tables(again) == tables(run) != before
    assert verify(again) == []


def test_another_limit_is_another_configuration(strict: Bundle, models: TinyModels, tmp_path: Path) -> None:
    source, run = write_reads(tmp_path / "reads.fa", [300, 400]), tmp_path / "run"
    assert predict(asked(source, run, model=str(strict.folder))) == 0
    other = model_with(models, tmp_path / "other", shortest_chunk=250, short_chunks="NA")
    assert predict(asked(source, run, model=str(other.folder))) == 2
    assert "was 200, is now 250" in (run / "logs" / "rank00000.log").read_text()


def test_a_model_that_judges_every_chunk_only_flags(models: TinyModels, tmp_path: Path) -> None:
    """Whatever shortest chunk it names: so does every model.json of an earlier version, and the original method."""
    source = write_reads(tmp_path / "reads.fa", [150, 299, 300, 1600])
    lax = model_with(models, tmp_path / "lax", shortest_chunk=400)
    assert "short_chunks" not in (lax.folder / "model.json").read_text()
    assert predict(asked(source, tmp_path / "run", model=str(lax.folder))) == 0
    found = rows(tmp_path / "run" / "sequences.tsv")
    assert [row["prediction"] == "NA" for row in found] == [False] * 4
    assert ["short" in row["flags"].split(",") for row in found] == [True, True, False, False]
    assert predict(models.settings(source, tmp_path / "plain")) == 0
    assert tables(tmp_path / "plain") == tables(tmp_path / "run")
    assert "shortest_chunk" not in json.loads((tmp_path / "run" / "run.json").read_text())["decisions"]


def without_counts(path: Path) -> None:
    """A block as earlier versions wrote it."""
    from vpdist.storage import hdf5_files

    with h5py.File(path) as file:
        datasets = {name: file[name][()] for name in file if name not in ("chunk_other_bases", "chunk_low_complexity")}
        attributes = {name: value for name, value in file.attrs.items() if name != "format_version"}
    assert len(datasets) > 10
    write_file(path, hdf5_files.image(datasets, attributes))


def test_a_run_of_an_earlier_version_goes_on(models: TinyModels, tmp_path: Path) -> None:
    source, run = write_contigs(tmp_path / "contigs.fa", 12), tmp_path / "run"
    with source.open("a") as file:
        file.write(">repeat\n" + "CAG" * 400 + "\n")
    assert predict(models.settings(source, run)) == 0
    before, parts = tables(run), {path.name: path.stat().st_mtime_ns for path in (run / "parts").iterdir()}
    assert rows(run / "sequences.tsv")[-1]["flags"] == "low_complexity"
    for path in (run / "tokens").glob("block-*.h5"):
        without_counts(path)
    assert predict(models.settings(source, run)) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (run / "parts").iterdir()} == parts
    assert rows(run / "sequences.tsv")[-1]["flags"] == "none"
    assert tables(run)[2] == before[2]
    assert verify(run) == []
