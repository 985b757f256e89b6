"""`predict`, `embed` and `classify` on one rank, in this process: tables, resume, refusals, hostile input."""

import bz2
import csv
import errno
import gzip
import json
import lzma
import os
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.sample import bgzip_block, write_contigs
from tests.tiny_models import TinyModels, tiny_classifier, write_classifier, write_models
from vpdist.commands import run_record
from vpdist.commands.classify import classify
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.display.progress_lines import read_file
from vpdist.embedding import units_in_progress
from vpdist.errors import StorageError
from vpdist.estimate.dry_run import forecast
from vpdist.planning.plan_file import map_plan
from vpdist.results import parts
from vpdist.results.classifier import save_classifier
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile
from vpdist.storage.run_folder import RunFolder

TABLES = ("sequences.tsv", "chunks.tsv", "fragments.tsv")


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_contigs(tmp_path_factory.mktemp("input") / "contigs.fa")


def settings_for(models: TinyModels, output: Path, *inputs: Path, **options: object) -> Settings:
    return models.settings(inputs[0], output, **{"inputs": tuple(map(str, inputs)), **options})


@pytest.fixture(scope="module")
def settings(models: TinyModels, contigs: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_for(models, tmp_path_factory.mktemp("done") / "run", contigs, legacy_output=True)


@pytest.fixture(scope="module")
def done(settings: Settings) -> Path:
    """A finished run; tests that change it work on a copy."""
    assert predict(settings) == 0
    return settings.output


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


def status(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "status.json").read_text()))


def modified(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}


def test_every_record_has_a_row_with_a_status(done: Path) -> None:
    sequences = rows(done / "sequences.tsv")
    assert len(sequences) == 41
    assert Counter(row["status"] for row in sequences) == {"ok": 37, "no_open_frame": 4}
    assert [row["seq_name"] for row in sequences[:2]] == ["contig0", "contig1"]
    assert sequences[-1]["seq_name"] == "contig0__2"
    assert sequences[3]["description"] == "number 3"
    for row in sequences:
        scored = row["status"] == "ok"
        assert (row["prediction"] in ("virus", "non-virus")) == scored
        assert (row["virus_score"] != "NA") == scored


def test_equal_sequences_have_equal_scores(done: Path) -> None:
    first, *_, last = rows(done / "sequences.tsv")
    assert (first["virus_score"], first["nonvirus_score"]) == (last["virus_score"], last["nonvirus_score"])


def test_chunks_hold_the_largest_scores_of_their_fragments_and_sequences_the_mean_of_chunks(done: Path) -> None:
    fragments, chunks = rows(done / "fragments.tsv"), rows(done / "chunks.tsv")
    by_chunk: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in fragments:
        by_chunk.setdefault((row["seq_name"], row["chunk"]), []).append(row)
    assert any(int(row["n_fragments"]) > 1 for row in chunks)
    for row in chunks:
        mine = by_chunk.get((row["seq_name"], row["chunk"]), [])
        assert int(row["n_fragments"]) == len(mine)
        for column in ("virus_score", "nonvirus_score"):
            expected = max((float(each[column]) for each in mine), default=None)
            assert row[column] == "NA" if expected is None else float(row[column]) == expected
        if mine:
            assert row["prediction"] == (
                "virus" if float(row["virus_score"]) >= float(row["nonvirus_score"]) else "non-virus"
            )
    for row in rows(done / "sequences.tsv"):
        mine = [each for each in chunks if each["seq_name"] == row["seq_name"] and each["prediction"] != "NA"]
        assert int(row["n_scored_chunks"]) == len(mine)
        assert int(row["n_virus_chunks"]) == sum(each["prediction"] == "virus" for each in mine)
        if mine:
            mean = np.mean([float(each["virus_score"]) for each in mine])
            assert float(row["virus_score"]) == pytest.approx(mean, abs=1e-5)


def test_fragments_name_their_place(done: Path, contigs: Path) -> None:
    sequence = contigs.read_text().split(">")[1].split("\n")[1]
    for row in rows(done / "fragments.tsv"):
        if row["seq_name"] == "contig0":
            strand_frame = {"+": "F", "-": "R"}[row["strand"]] + row["frame"]
            assert row["fragment_id"] == f"contig0_chunk_{row['chunk']}{strand_frame}"
            assert 1 <= int(row["start"]) <= int(row["end"]) <= len(sequence)


def test_a_finished_run_says_so(done: Path) -> None:
    assert status(done)["state"] == "done"
    assert status(done)["exit_code"] == 0
    run = json.loads((done / "run.json").read_text())
    assert run["decisions"]["token_budget"] == 1024
    assert run["versions"]["torch"]
    assert run["statuses"] == {"ok": 37, "no_open_frame": 4}
    assert set(run["stage_seconds"]) >= {"ingest", "plan", "layout", "load", "embed", "check", "tables"}
    assert (done / "logs" / "rank00000.log").read_text()
    assert not (done / "lock").exists()


def test_progress_is_recorded_without_a_display(done: Path) -> None:
    last = json.loads((done / "progress.jsonl").read_text().splitlines()[-1])
    n_fragments = len(rows(done / "fragments.tsv"))
    assert last["totals"]["fragments"] == n_fragments
    assert last["totals"]["units"] == len(list((done / "parts").iterdir()))
    told, plan = last["run"], map_plan(RunFolder(done).plan)[0]
    assert (told["n_fragments"], told["deduplicated"]) == (n_fragments, n_fragments - plan.n_rows)
    assert told["deduplicated"] > 0
    assert (told["kept_units"], told["recomputed_units"], told["coming"]) == (0, 0, [])


def last_told(folder: Path) -> dict[str, Any]:
    """What displays were told of the last command."""
    told: dict[str, Any] = json.loads((folder / "progress.jsonl").read_text().splitlines()[-1])["run"]
    return told


def flip_a_bit(path: Path, dataset: str) -> None:
    with h5py.File(path) as file:
        position = file[dataset].id.get_offset()
    content = bytearray(path.read_bytes())
    content[position + 1] ^= 1
    path.write_bytes(content)


def test_the_same_command_again_recomputes_nothing(copy: Path, settings: Settings) -> None:
    before, written = tables(copy), modified(copy)
    assert predict(replace(settings, output=copy)) == 0
    assert tables(copy) == before
    assert modified(copy) == written


def test_every_command_is_listed_with_its_versions(
    copy: Path, settings: Settings, models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = json.loads((copy / "run.json").read_text())
    monkeypatch.setattr("vpdist.__version__", "99")
    monkeypatch.setattr("sys.argv", ["vpdist", "predict", *map(str, range(1000))])
    assert predict(replace(settings, output=copy)) == 0
    assert classify(copy, models.classifier, consensus=None, legacy_output=False, progress="none") == 0
    run = json.loads((copy / "run.json").read_text())
    assert [each["versions"]["vpdist"] for each in run["runs"]] == [first["versions"]["vpdist"], "99", "99"]
    assert run["runs"][0] == {name: first[name] for name in run_record.FIELDS}
    assert run["runs"][1]["command"][50] == "[... 902 arguments ...]"
    assert run["command"] == ["vpdist", "predict", *map(str, range(1000))]
    assert {name: run[name] for name in run_record.FIELDS[1:]} == {
        name: run["runs"][1][name] for name in run_record.FIELDS[1:]
    }


@pytest.mark.parametrize("recorded", [{}, {"runs": "x"}, {"runs": None}, {"runs": [7] * 1000}])
def test_a_list_of_commands_that_is_none_or_long_is_gone_on_with(recorded: dict[str, object]) -> None:
    for _ in range(3):
        recorded = {"runs": run_record.runs_with(recorded, {"command": ["vpdist"]})}
    listed = recorded["runs"]
    assert isinstance(listed, list)
    assert listed[-3:] == [{"command": ["vpdist"]}] * 3
    assert len(listed) in (3, run_record.MOST_RUNS)


def test_a_run_of_an_earlier_version_is_the_first_one_listed() -> None:
    recorded = {"command": ["old"], "versions": {"vpdist": "0"}, "decisions": {}}
    listed = run_record.runs_with(recorded, {"command": ["new"]})
    assert listed == [{"command": ["old"], "versions": {"vpdist": "0"}}, {"command": ["new"]}]


def test_missing_truncated_and_damaged_parts_are_redone_and_no_others(copy: Path, settings: Settings) -> None:
    before, written = tables(copy), modified(copy)
    paths = sorted((copy / "parts").iterdir())
    assert len(paths) > 4
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:3000])
    embedding = parts.read(copy / "parts", 2, ["nucleotide"])["nucleotide"].tobytes()
    content = bytearray(paths[2].read_bytes())
    content[content.index(embedding) + 100] ^= 1
    paths[2].write_bytes(content)
    assert predict(replace(settings, output=copy)) == 0
    assert tables(copy) == before
    changed = {name for name, when in modified(copy).items() if when != written[name]}
    assert changed == {path.name for path in paths[:3]}
    log, told = (copy / "logs" / "rank00000.log").read_text(), last_told(copy)
    assert "redone" in log
    assert (told["n_units"] - told["kept_units"], told["recomputed_units"]) == (2, 2), "one was absent, one found later"
    assert log.count("1 unit computed again: ") == 2
    assert "2 units recomputed" in told["told"]


def test_a_rank_that_computes_before_rank_0_does_is_no_crash_and_its_unit_is_not_told_as_computed_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, output=tmp_path / "run")
    folder, published = RunFolder(settings.output), units_in_progress.two_lists_of_units

    def another_begins(text: str, n_units: int) -> tuple[list[int], list[int]]:
        begun = units_in_progress.UnitsInProgress(folder, rank=1)
        begun.begin(0)
        (folder.parts / "unit-000001.h5").write_bytes(b"written by it, or nearly so")
        return published(text, n_units)

    monkeypatch.setattr(sys.modules["vpdist.commands.units"], "two_lists_of_units", another_begins)
    assert predict(settings) == 0
    assert "deaths" not in json.loads(folder.run.read_text())
    assert [path.name.split(".")[0] for path in folder.at_work.iterdir()] == ["rank00001"]
    assert last_told(settings.output)["recomputed_units"] == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("name", ["parts/unit-000002.h5", "tokens/plan.h5", "tokens/block-000000.h5"])
def test_a_file_that_cannot_be_read_ends_the_run_and_none_is_removed_or_written(
    copy: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    number: int,
) -> None:
    before, kept = tables(copy), {path: path.read_bytes() for path in copy.rglob("*.h5")}
    real = hdf5_files.open_regular

    def fail(path: Path, **how: bool) -> object:
        if path == copy / name:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, **how)

    with monkeypatch.context() as patched:
        patched.setattr(hdf5_files, "open_regular", fail)
        assert predict(replace(settings, output=copy)) == 6
    assert f"{copy / name}: cannot be read: {os.strerror(number)}" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in copy.rglob("*.h5")} == kept
    written = modified(copy)
    assert predict(replace(settings, output=copy)) == 0
    assert (tables(copy), modified(copy)) == (before, written)


def test_a_damaged_part_stays_until_its_replacement_is_there(
    copy: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(copy)
    path = parts.part_path(copy / "parts", 2)
    flip_a_bit(path, "nucleotide")
    damaged = path.read_bytes()

    def fail(*_: object) -> int:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(parts, "write", fail)
        assert predict(replace(settings, output=copy)) == 6
    assert path.read_bytes() == damaged
    assert predict(replace(settings, output=copy)) == 0
    assert tables(copy) == before
    assert path.read_bytes() != damaged


@pytest.mark.parametrize("dataset", ["nucleotide", "logits"])
def test_damage_in_a_complete_run_is_found_and_redone(copy: Path, settings: Settings, dataset: str) -> None:
    before, written = tables(copy), modified(copy)
    flip_a_bit(parts.part_path(copy / "parts", 2), dataset)
    assert predict(replace(settings, output=copy)) == 0
    assert tables(copy) == before
    assert {name for name, when in modified(copy).items() if when != written[name]} == {"unit-000002.h5"}


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("block-000000.h5", "protein_tokens"), ("shard-00000.h5", "nucleotide_tokens"), ("plan.h5", "unit_cost")],
)
def test_damage_in_the_token_store_is_found_and_mended(copy: Path, settings: Settings, name: str, dataset: str) -> None:
    before, whole = tables(copy), (copy / "tokens" / name).read_bytes()
    flip_a_bit(copy / "tokens" / name, dataset)
    if name.startswith("block"):
        (copy / "tokens" / "shard-00000.h5").unlink()  # so that the block is read again
    (copy / "parts" / "unit-000001.h5").unlink()
    assert predict(replace(settings, output=copy)) == 0
    assert tables(copy) == before
    assert (copy / "tokens" / name).read_bytes() == whole


def test_any_flipped_bit_in_a_part_is_a_damaged_file_and_nothing_else(copy: Path, done: Path) -> None:
    path = parts.part_path(copy / "parts", 0)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    n_found = 0
    for _ in range(300):
        content = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            content[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            for name in ("fragment", "row", "failed", "logits", "nucleotide", "protein"):
                parts.read(copy / "parts", 0, [name])
        except DamagedFile:
            n_found += 1
    assert n_found > 200


def test_parts_of_another_input_are_not_taken_even_without_run_json(models: TinyModels, tmp_path: Path) -> None:
    one, other = tmp_path / "one.fa", tmp_path / "other.fa"
    one.write_text(">a\n" + "ATGGCTGCTGCA" * 20 + "\n")
    other.write_text(">a\n" + "ATGGCTGCTGCG" * 20 + "\n")
    runs = [settings_for(models, tmp_path / name, path) for name, path in (("run", one), ("fresh", other))]
    assert [predict(each) for each in runs] == [0, 0]
    for name in ("run.json", "tokens/store.json"):
        (tmp_path / "run" / name).unlink()
    assert predict(replace(runs[0], inputs=(str(other),))) == 0
    assert tables(tmp_path / "run")[1:] == tables(tmp_path / "fresh")[1:]


def test_temporary_files_of_killed_processes_are_removed(copy: Path, settings: Settings) -> None:
    left = [copy / "parts" / ".unit-000001.h5.123.tmp", copy / ".sequences.tsv.123.tmp"]
    for path in left:
        path.write_text("half")
    assert predict(replace(settings, output=copy)) == 0
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("name", ["store.json", "plan.h5", "shard-00000.h5", "names.h5"])
def test_a_lost_piece_of_the_token_store_is_made_again(copy: Path, settings: Settings, name: str) -> None:
    before, written = tables(copy), modified(copy)
    (copy / "tokens" / name).unlink()
    (copy / "parts" / "unit-000001.h5").unlink()
    assert predict(replace(settings, output=copy)) == 0
    assert tables(copy) == before
    assert {name for name, when in modified(copy).items() if when != written[name]} == {"unit-000001.h5"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"chunk_length": 300, "classifier": None}, "--chunk-length was 500, is now 300"),
        ({"min_length": 200}, "--min-length was 0, is now 200"),
        ({"token_budget": 512}, "--token-budget was 1024, is now 512"),
        ({"threads": 2}, "--threads was 1, is now 2"),
        ({"dtype": "bfloat16"}, "--dtype was float32, is now bfloat16"),
        ({"embedding_dtype": "float16"}, "--embedding-dtype was float32, is now float16"),
        ({"embeddings": False}, "--no-embeddings was False, is now True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_setting_is_refused_by_the_name_of_its_field(
    done: Path, settings: Settings, change: dict[str, object], field: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = status(done)
    assert predict(replace(settings, **change)) == 2
    assert field in capfd.readouterr().err
    assert status(done) == before


def test_another_input_encoder_or_classifier_is_refused_by_name(
    copy: Path, settings: Settings, contigs: Path, models: TinyModels, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here = replace(settings, output=copy)
    longer = tmp_path / "contigs.fa"
    longer.write_text(contigs.read_text() + ">more\nACGTACGT\n")
    assert predict(replace(here, inputs=(str(longer),))) == 2
    assert "input was" in capfd.readouterr().err
    other = write_models(tmp_path / "other")
    config = json.loads((other.protein / "config.json").read_text()) | {"layer_norm_eps": 1e-4}
    (other.protein / "config.json").write_text(json.dumps(config))
    assert predict(replace(here, protein_model=str(other.protein))) == 2
    assert "--protein-model was" in capfd.readouterr().err
    classifier = write_classifier(tmp_path / "c.safetensors", seed=9)
    assert predict(replace(here, classifier=classifier)) == 2
    assert "`vpdist classify` makes new calls" in capfd.readouterr().err


def test_an_input_that_changed_under_its_name_is_refused(
    models: TinyModels, contigs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.fa"
    shutil.copy(contigs, mine)
    settings = settings_for(models, tmp_path / "run", mine)
    assert predict(settings) == 0
    mine.write_text(mine.read_text().replace("ACG", "ACT", 1))
    assert predict(settings) == 2
    assert f"input {mine}, its" in capfd.readouterr().err


def spoilt(models: TinyModels, folder: Path) -> dict[str, dict[str, object]]:
    """Changes of a command's settings, each with something that ends it."""
    good = (folder / "good.fa").read_text()
    (folder / "protein.fa").write_text(good + ">last\nMKVLAAGIVGLPF*\n")
    (folder / "cut.fa.gz").write_bytes(gzip.compress(good.encode())[:-20])
    weights = Path(shutil.copytree(models.protein, folder / "weights")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return {
        "no such input": {"inputs": (str(folder / "mistyped.fa"),)},
        "one of two inputs missing": {"inputs": (str(folder / "good.fa"), str(folder / "mistyped.fa"))},
        "a protein at the end": {"inputs": (str(folder / "protein.fa"),)},
        "a truncated input": {"inputs": (str(folder / "cut.fa.gz"),)},
        "no such model": {"protein_model": str(folder / "mistyped")},
        "another kind of model": {"protein_model": str(models.nucleotide)},
        "truncated weights": {"protein_model": str(weights.parent)},
        "no such classifier": {"classifier": folder / "mistyped.safetensors"},
        "a classifier for another chunk length": {"chunk_length": 300},
        "a number format that the device lacks": {"dtype": "float16"},
        "a file of the run as input": {"inputs": (str(folder / "run" / "sequences.tsv"),)},
    }


@pytest.mark.parametrize(
    ("what", "code"),
    [
        *((what, 3) for what in ("no such input", "one of two inputs missing", "a protein at the end")),
        ("a truncated input", 3),
        *((what, 4) for what in ("no such model", "another kind of model", "truncated weights", "no such classifier")),
        ("a classifier for another chunk length", 4),
        *((what, 2) for what in ("a number format that the device lacks", "a file of the run as input")),
    ],
)
def test_restart_keeps_the_run_until_all_that_the_new_one_needs_is_checked(
    copy: Path, settings: Settings, models: TinyModels, contigs: Path, what: str, code: int
) -> None:
    shutil.copy(contigs, copy.parent / "good.fa")
    change = spoilt(models, copy.parent)[what]
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert predict(replace(settings, output=copy, restart=True, **change)) == code
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_restart_discards_and_computes_anew(copy: Path, settings: Settings) -> None:
    before, written = tables(copy), modified(copy)
    assert predict(replace(settings, output=copy, restart=True)) == 0
    assert tables(copy) == before
    assert all(when != written[name] for name, when in modified(copy).items())
    assert predict(replace(settings, output=copy, restart=True, chunk_length=300, classifier=None)) == 0


def test_classify_repeats_predict_to_the_bit(copy: Path, models: TinyModels) -> None:
    before = tables(copy)
    for name in TABLES:
        (copy / name).unlink()
    legacy = (copy / "prediction_results.txt").read_bytes()
    written = modified(copy)
    assert classify(copy, models.classifier, consensus=None, legacy_output=True, progress="none") == 0
    assert tables(copy) == before
    assert (copy / "prediction_results.txt").read_bytes() == legacy
    assert modified(copy) == written
    told = last_told(copy)
    assert (told["command"], told["inputs"], told["coming"]) == ("classify", ["contigs.fa"], [])
    assert [name for name, _ in told["stages"]] == ["classify", "tables"]
    at_last = list(read_file(copy / "progress.jsonl"))[-1].rows[0]
    assert at_last.in_stage("steps") == at_last.planned_steps > 0


def test_another_classifier_makes_other_calls_without_embedding(copy: Path, tmp_path: Path) -> None:
    before = tables(copy)
    other = write_classifier(tmp_path / "other.safetensors", seed=7)
    assert classify(copy, other, consensus="max", legacy_output=False, progress="none") == 0
    assert tables(copy)[2] != before[2]
    assert json.loads((copy / "run.json").read_text())["tables_from"]["consensus"] == "max"


def test_classify_refuses_a_run_that_is_not_complete(
    copy: Path, models: TinyModels, capfd: pytest.CaptureFixture[str]
) -> None:
    next((copy / "parts").iterdir()).unlink()
    assert classify(copy, models.classifier, consensus=None, legacy_output=False, progress="none") == 2
    assert "1 of" in capfd.readouterr().err


def test_legacy_files_of_another_classifier_do_not_stay(copy: Path, tmp_path: Path) -> None:
    other = write_classifier(tmp_path / "other.safetensors", seed=7)
    assert (copy / "prediction_results.txt").exists()
    assert classify(copy, other, consensus=None, legacy_output=False, progress="none") == 0
    assert not list(copy.glob("prediction_results*"))


def test_classify_refuses_a_classifier_of_another_width_or_chunk_length(
    copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = status(copy)
    short = tmp_path / "short.safetensors"
    save_classifier(tiny_classifier(), short, {"chunk_length": "300"})
    assert classify(copy, short, consensus=None, legacy_output=False, progress="none") == 4
    assert "was trained on chunks of 300 bases" in capfd.readouterr().err
    assert status(copy) == before
    wide = write_classifier(tmp_path / "wide.safetensors", protein_width=99)
    assert classify(copy, wide, consensus=None, legacy_output=False, progress="none") == 4
    assert "numbers" in capfd.readouterr().err


def test_embedding_only_and_classifying_later_equals_predicting(
    done: Path, settings: Settings, models: TinyModels, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert predict(replace(settings, output=output, classifier=None, legacy_output=False)) == 0
    assert {row["prediction"] for row in rows(output / "fragments.tsv")} == {"NA"}
    assert classify(output, models.classifier, consensus=None, legacy_output=False, progress="none") == 0
    assert tables(output) == tables(done)


def test_one_encoder_alone_can_embed(settings: Settings, models: TinyModels, tmp_path: Path) -> None:
    for kind in ("nucleotide", "protein"):
        alone = replace(
            settings, output=tmp_path / kind, classifier=None, legacy_output=False, **{f"{kind}_model": None}
        )
        assert predict(alone) == 0
        left = {"nucleotide": "protein", "protein": "nucleotide"}[kind]
        assert parts.read(tmp_path / kind / "parts", 0, [left])[left].shape[0] > 0


def test_without_embeddings_the_tables_are_the_same_and_the_parts_small(
    done: Path, settings: Settings, tmp_path: Path, models: TinyModels, capfd: pytest.CaptureFixture[str]
) -> None:
    assert predict(replace(settings, output=tmp_path / "run", embeddings=False)) == 0
    assert tables(tmp_path / "run") == tables(done)
    assert classify(tmp_path / "run", models.classifier, consensus=None, legacy_output=False, progress="none") == 2
    assert "has no embeddings" in capfd.readouterr().err


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_compressed_input_gives_the_same_scores(
    done: Path, settings: Settings, contigs: Path, tmp_path: Path, pack
) -> None:  # type: ignore[no-untyped-def]
    packed = tmp_path / "reads.dat"
    packed.write_bytes(pack(contigs.read_bytes()))
    assert predict(replace(settings, output=tmp_path / "run", inputs=(str(packed),))) == 0
    assert tables(tmp_path / "run")[1:] == tables(done)[1:]


def test_several_files_keep_their_order_and_number_names_over_all(
    settings: Settings, contigs: Path, tmp_path: Path
) -> None:
    fastq = tmp_path / "reads.fq"
    bases = "ATGGCTGCTGCTGCTGGTGCTGCA"
    fastq.write_text(f"@contig1 again\n{bases}\n+\n{'I' * len(bases)}\n")
    assert predict(replace(settings, output=tmp_path / "run", inputs=(str(contigs), str(fastq)))) == 0
    last = rows(tmp_path / "run" / "sequences.tsv")[-1]
    assert (last["seq_name"], last["source"], last["description"]) == ("contig1__2", str(fastq), "again")


def test_an_empty_input_gives_tables_with_headers_only_and_a_warning(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.fa"
    empty.write_text("")
    here = replace(settings, output=tmp_path / "run", inputs=(str(empty),))
    assert predict(here) == 0
    assert [len(content.splitlines()) for content in tables(tmp_path / "run")] == [1, 1, 1]
    assert "warning: the input holds no sequences" in capfd.readouterr().err


def test_sequences_without_open_frames_are_listed_not_scored(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "x.fa"
    source.write_text(">a\nTTAATTAATTAG\n>b\nAC\n>c\n\n>d\nTTAATTAATTAGTTAATTAATTAG\n")
    here = replace(settings, output=tmp_path / "run", inputs=(str(source),), min_length=13)
    assert predict(here) == 0
    assert [row["status"] for row in rows(tmp_path / "run" / "sequences.tsv")] == [
        "filtered",
        "too_short",
        "too_short",
        "no_open_frame",
    ]
    assert "nothing can be scored" in capfd.readouterr().err


def test_one_of_a_thing_is_told_in_the_singular(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.fa").write_text(">a\nAC\n")
    here = replace(settings, output=tmp_path / "run", inputs=(str(tmp_path / "x.fa"),))
    assert predict(here) == 0
    told = capfd.readouterr().err + (here.output / "logs" / "rank00000.log").read_text()
    assert "1 sequence, 0 chunks, 0 fragments (0 different) in 0 units" in told
    assert "warning: the only sequence is shorter than 3 bases, so nothing can be scored" in told
    assert "1 sequence (1 too_short) in " in told
    assert "1 sequences" not in told


@pytest.mark.parametrize(("min_length", "least"), [(13, "--min-length 13"), (3, "3 bases"), (0, "3 bases")])
def test_it_is_told_when_all_sequences_are_too_short(
    settings: Settings,
    models: TinyModels,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    min_length: int,
    least: str,
) -> None:
    source = tmp_path / "x.fa"
    source.write_text(">a\nTTAATTAATTAG\n>b\nAC\n" if min_length == 13 else ">a\nAC\n>b\n\n")
    here = replace(settings, output=tmp_path / "run", inputs=(str(source),), min_length=min_length)
    told = f"warning: all 2 sequences are shorter than {least}, so nothing can be scored"
    assert predict(here) == 0
    assert told in capfd.readouterr().err
    assert classify(here.output, models.classifier, consensus=None, legacy_output=False, progress="none") == 0
    assert told in capfd.readouterr().err
    planned = forecast(replace(here, dry_run=True), 1, None)
    assert planned.warnings == [told]
    assert planned.lines()[-1] == "time       no sequence has a chunk: there is nothing to embed"


HOSTILE = {
    "truncated gz": (lambda fasta: gzip.compress(fasta)[:-20], "input.fa"),
    "bad checksum": (lambda fasta: gzip.compress(fasta)[:-8] + b"\0" * 8, "input.fa"),
    "binary rubbish": (lambda fasta: bytes(range(256)) * 40, "input.fa"),
    "protein letters": (lambda fasta: fasta + b">prot\nMKLVEFPQ\n", "record prot"),
    "no records": (lambda fasta: b"hello\nworld\n", "input.fa"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_ends_with_code_3_naming_the_place_before_a_model_is_loaded(
    settings: Settings, contigs: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, place = HOSTILE[name]
    source = tmp_path / "input.fa"
    source.write_bytes(damage(contigs.read_bytes()))
    assert predict(replace(settings, output=tmp_path / "run", inputs=(str(source),))) == 3
    message = capfd.readouterr().err
    assert str(source) in message
    assert place in message
    assert status(tmp_path / "run")["exit_code"] == 3
    assert "stage load" not in (tmp_path / "run" / "logs" / "rank00000.log").read_text()


def test_a_missing_input_and_a_folder_as_input_end_with_code_3(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "nothing.fa", tmp_path):
        assert predict(replace(settings, output=tmp_path / "run", inputs=(str(path),))) == 3
        assert str(path) in capfd.readouterr().err


def test_odd_but_legal_input_is_read_as_people_expect(settings: Settings, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    from tests.sample import coding_sequence

    bases = coding_sequence(rng, 300)
    plain, odd = tmp_path / "plain.fa", tmp_path / "odd.fa"
    plain.write_text(f">a x\n{bases}\n>b\n{bases[:90]}N{bases[91:]}\n")
    odd.write_bytes(
        f">a x\r\n{bases[:50].lower()}\r\n\r\n{bases[50:].replace('T', 'U')}\r\n>b\r\n{bases[:90]}N{bases[91:]}\r\n".encode()
    )
    for source in (plain, odd):
        assert predict(replace(settings, output=tmp_path / source.stem, inputs=(str(source),))) == 0
    assert tables(tmp_path / "plain")[1:] == tables(tmp_path / "odd")[1:]


@pytest.mark.slow
def test_the_whole_parity_set_comes_out_as_the_original_answers(shared: Path, tmp_path: Path) -> None:
    parity = shared / "parity"
    settings = Settings(
        inputs=(str(parity / "input.fa"),),
        output=tmp_path / "run",
        nucleotide_model=str(parity / "dnabert_s_tiny"),
        protein_model=str(parity / "esm2_tiny"),
        classifier=parity / "classifier_original_format.pth",
        chunk_length=500,
        dtype="float32",
        progress="none",
        legacy_output=True,
    )
    assert predict(settings) == 0
    found, expected = (
        [line.split("\t") for line in path.read_text().splitlines()]
        for path in (tmp_path / "run" / "prediction_results.txt", parity / "prediction_results.500.txt")
    )
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert [float(score) for score in mine[2:]] == pytest.approx([float(score) for score in theirs[2:]], abs=1e-5)
    calls = tmp_path / "run" / "prediction_results_highestscore.csv"
    assert calls.read_bytes() == (parity / "prediction_results_highestscore.500.csv").read_bytes()


def test_missing_weights_end_with_code_4(settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    here = replace(settings, output=tmp_path / "run", nucleotide_model=str(tmp_path / "nothing"), offline=True)
    assert predict(here) == 4
    assert "nothing" in capfd.readouterr().err


def test_swapped_encoders_end_with_code_4_naming_the_option(
    settings: Settings, models: TinyModels, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert predict(replace(settings, output=tmp_path / "run", nucleotide_model=str(models.protein))) == 4
    assert "--nucleotide-model" in capfd.readouterr().err


def test_a_classifier_for_other_encoders_or_chunks_ends_with_code_4(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wide = write_classifier(tmp_path / "wide.safetensors", protein_width=99)
    assert predict(replace(settings, output=tmp_path / "a", classifier=wide)) == 4
    assert "takes" in capfd.readouterr().err
    assert predict(replace(settings, output=tmp_path / "b", chunk_length=300)) == 4
    assert "was trained on chunks of 500 bases" in capfd.readouterr().err


def test_a_folder_in_use_is_refused(copy: Path, settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    from vpdist.storage.run_lock import Lock

    lock = Lock(RunFolder(copy))
    lock.take()
    assert predict(replace(settings, output=copy)) == 2
    assert "is in use" in capfd.readouterr().err
    lock.release()


def test_letters_that_stopped_a_run_are_read_as_n_when_that_is_asked_for_and_told_ever_after(
    models: TinyModels, contigs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.fa"
    source.write_text(contigs.read_text().replace("A", "*", 2))
    settings = settings_for(models, tmp_path / "run", source)
    assert predict(settings) == 3
    assert "'*'" in (told := capfd.readouterr().err)
    assert "--replace-unknown reads such letters as N" in told
    assert predict(replace(settings, replace_unknown=True)) == 0
    warning = "warning: 2 letters of 1 sequences are no nucleotides and were read as N, the first '*' in contig0 of"
    assert warning in capfd.readouterr().err
    assert json.loads((settings.output / "run.json").read_text())["warnings"][0].startswith(warning)
    expected = tables(settings.output)
    os.utime(source, ns=(1, 1))  # a touched input is read again, in the same way
    assert predict(settings) == 0
    assert warning in capfd.readouterr().err
    assert tables(settings.output) == expected


def test_a_file_that_was_cut_off_is_named_with_its_last_record_wherever_a_run_tells_its_end(
    settings: Settings, models: TinyModels, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cut, whole = tmp_path / "cut.fa.gz", tmp_path / "whole.fa.gz"
    text = b"".join(b">c%d\n%s\n" % (i, b"ATGGCTGCTGGTGCA" * 20) for i in range(4))
    cut.write_bytes(bgzip_block(text[:700]))
    whole.write_bytes(bgzip_block(text) + bgzip_block(b""))
    here = replace(settings, output=tmp_path / "run", inputs=(str(whole), str(cut)))
    told = f"warning: {cut} has no end marker of bgzip: it was probably cut off, and its last record, c2, may be short"
    for again in range(2):  # a run that is resumed does not read its input again
        assert predict(here) == 0, again
        assert told in capfd.readouterr().err.splitlines()
        assert told in json.loads((tmp_path / "run" / "status.json").read_text())["message"].splitlines()
        assert json.loads((tmp_path / "run" / "run.json").read_text())["warnings"][0] == told
    quiet = {"consensus": None, "legacy_output": False, "progress": "none"}
    assert classify(tmp_path / "run", models.classifier, **quiet) == 0
    assert told in capfd.readouterr().err.splitlines()


def test_files_without_records_among_others_are_named_at_the_end_and_in_the_run(
    settings: Settings, done: Path, contigs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [str(contigs), *(str(tmp_path / f"{number}.fa") for number in range(12))]
    for name in names[1:]:
        Path(name).write_text("\n")
    few = replace(settings, output=tmp_path / "few", inputs=tuple(names[:3]))
    assert predict(few) == 0
    told = f"warning: 2 of 3 files hold no sequences: {names[1]}, {names[2]}"
    assert told in capfd.readouterr().err.splitlines()
    assert told in json.loads((tmp_path / "few" / "status.json").read_text())["message"].splitlines()
    assert tables(tmp_path / "few") == tables(done)
    many = replace(settings, output=tmp_path / "many", inputs=tuple(names))
    assert predict(many) == 0
    told = f"warning: 12 of 13 files hold no sequences: {', '.join(names[1:11])}, ... (run.json names all)"
    assert told in capfd.readouterr().err.splitlines()
    run = json.loads((tmp_path / "many" / "run.json").read_text())
    assert told in run["warnings"]
    assert run["files_without_records"] == names[1:]
