"""Runs of a model with a calibration: what tables and run.json say, and that it can be made again."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.calibrated_model import CALIBRATION, NULL_SCORES, write_calibrated
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.calibration.bound import false_within
from vpdist.calibration.judgement import CALLS, PRESETS, Choice, Evidence, judge
from vpdist.calibration.judging import BY_SCORE, NEARLY_ALL, Judging
from vpdist.calibration.prevalence import LEAST_SEQUENCES, PRIOR
from vpdist.commands.classify import classify
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.config import Settings
from vpdist.display.status import status, status_line
from vpdist.errors import UsageError, WeightsError
from vpdist.models.calibration_fields import judging_from_json
from vpdist.option_declarations import PRESET_NAMES
from vpdist.report.page import gather
from vpdist.storage.run_folder import RunFolder

JUDGED = ("probability", "q_value", "p_value", "call")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_calibrated(tmp_path_factory.mktemp("model") / "M").folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model without a calibration."""
    return write_calibrated(tmp_path_factory.mktemp("plain") / "M", None, None).folder


@pytest.fixture(scope="module")
def settings(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    source = tmp_path_factory.mktemp("input") / "in.fa"
    rng = np.random.default_rng(4)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")]
    with source.open("w") as file:
        for number in range(2 * LEAST_SEQUENCES):
            length = (290, 330, 450, 700, 1100)[number % 5]
            file.write(f">s{number}\n{''.join(rng.choice(codons, length // 3 + 1))[:length]}\n")
    output = tmp_path_factory.mktemp("run") / "R"
    return Settings(inputs=(str(source),), output=output, model=str(model), threads=1, progress="none")


@pytest.fixture(scope="module")
def done(settings: Settings) -> Path:
    assert predict(settings) == 0
    return settings.output


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "R"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sequences.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def run_of(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "run.json").read_text()))


def run_message(folder: Path) -> str:
    return str(json.loads((folder / "status.json").read_text())["message"])


def test_the_tables_say_what_the_calibration_says_of_the_scores(done: Path) -> None:
    table = rows(done)
    scores = [[float(row[name].replace("NA", "nan")) for row in table] for name in ("virus_score", "nonvirus_score")]
    bases = [min(int(row["length"]), 500 * int(row["n_scored_chunks"])) for row in table]
    evidence = Evidence(np.array(scores[0]), np.array(scores[1]), np.array(bases))
    expected = judge(evidence, CALIBRATION, NULL_SCORES, Choice())
    assert {row["call"] for row in table} == set(CALLS)
    for row, probability, q, p in zip(table, expected.probability, expected.q_value, expected.p_value, strict=True):
        if row["call"] == "NA":
            assert [row[name] for name in JUDGED] == ["NA"] * 4
            assert int(row["length"]) in (290, 1100) or row["status"] == "no_open_frame"
        else:
            # the scores in the table are rounded
            assert [float(row[name]) for name in JUDGED[:3]] == pytest.approx([probability, q, p], rel=2e-3)
            assert int(row["length"]) in (330, 450, 700, 1100)
    assert {row["length"] for row in table if row["call"] != "NA"} >= {"330", "450", "700"}


def test_run_json_has_the_share_of_viruses_the_rule_and_the_bound(done: Path) -> None:
    table, judgement = rows(done), run_of(done)["judgement"]
    assert isinstance(judgement, dict)
    called = [row for row in table if row["call"] == "virus"]
    assert judgement["calls"] == {name: sum(row["call"] == name for row in table) for name in CALLS}
    assert judgement["expected_false"] == pytest.approx(sum(1 - float(row["probability"]) for row in called), rel=1e-3)
    assert judgement["expected_false"] <= judgement["most_false"] <= len(called)
    assert judgement["prevalence"]["origin"] == "estimated"
    assert (judgement["preset"], judgement["max_fdr"]) == ("balanced", PRESETS["balanced"].max_fdr)
    message = run_message(done)
    assert f"{len(called):,} virus at q <= 0.05 (balanced), expected false" in message
    assert "share of viruses" in message


def test_a_share_that_is_not_believed_is_told_alike_at_the_end_by_status_and_in_the_report(
    copy: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    run = run_of(copy)
    judgement = run["judgement"]
    assert isinstance(judgement, dict)
    share = {"value": 0.5, "origin": "assumed", "estimate": 0.99, "low": 0.98, "high": 0.995}
    assert gather(RunFolder(copy), copy / "report.html")[1]["warnings"] == []
    assert "warning:" not in (copy / "README.txt").read_text()
    monkeypatch.setattr(Judging, "described", lambda *_: judgement | {"prevalence": share})
    assert predict(replace(settings, output=copy, max_fdr=0.06)) == 0
    message = run_message(copy)
    assert message.startswith(f"{NEARLY_ALL}\n")
    assert "share of viruses 0.5, assumed, as the estimate, 0.99 (0.98 to 0.995), is above 0.95" in message
    assert ", 1 warning: nearly all sequences look like viruses" in status_line(copy, status(copy))
    meta = gather(RunFolder(copy), copy / "report.html")[1]
    assert meta["warnings"] == [NEARLY_ALL]
    assert f"{NEARLY_ALL}." in " ".join((copy / "README.txt").read_text().split())
    assert "is 0.5, assumed, as the estimate, 0.99 (0.98 to 0.995), is above 0.95" in " ".join(meta["methods"])


def test_the_presets_of_the_command_line_are_those_there_are() -> None:
    assert set(PRESET_NAMES) == set(PRESETS)


def test_the_same_command_with_another_choice_writes_tables_only(copy: Path, settings: Settings) -> None:
    parts = {path: path.stat().st_mtime_ns for path in (copy / "parts").iterdir()}
    before = rows(copy)
    assert predict(replace(settings, output=copy, prevalence=0.5, max_fdr=0.3, strict=True)) == 0
    after = rows(copy)
    assert {path: path.stat().st_mtime_ns for path in (copy / "parts").iterdir()} == parts
    assert [row["virus_score"] for row in before] == [row["virus_score"] for row in after]
    assert [row["probability"] for row in before] != [row["probability"] for row in after]
    for row in after:
        if row["call"] == "virus":
            assert float(row["q_value"]) <= 0.3
            assert float(row["probability"]) >= PRESETS["strict"].least_virus
    judgement = run_of(copy)["judgement"]
    assert isinstance(judgement, dict)
    assert judgement["prevalence"] == {"value": 0.5, "origin": "given", "estimate": None, "low": None, "high": None}
    assert (judgement["preset"], judgement["max_fdr"]) == ("strict", 0.3)
    assert verify(copy) == []
    assert predict(replace(settings, output=copy)) == 0
    assert rows(copy) == before


def test_classify_judges_embeddings_that_exist(copy: Path, done: Path, model: Path, plain: Path) -> None:
    assert classify(copy, None, model=str(plain), consensus=None, legacy_output=False, progress="none") == 0
    assert {tuple(row[name] for name in JUDGED) for row in rows(copy)} == {("NA",) * 4}
    assert not (copy / "calibration.json").exists()
    assert run_of(copy)["judgement"] is None
    assert "; they are not calibrated, so `probability` and `call` are NA" in run_message(copy)
    assert verify(copy) == []
    again = {"consensus": None, "legacy_output": False, "progress": "none"}
    assert classify(copy, None, model=str(model), **again) == 0  # type: ignore[arg-type]
    assert rows(copy) == rows(done)
    assert verify(copy) == []
    own = model / "classifier.safetensors"
    assert classify(copy, own, **again) == 0  # type: ignore[arg-type]
    assert {row["call"] for row in rows(copy)} == {"NA"}
    assert [row["margin"] for row in rows(copy)] == [row["margin"] for row in rows(done)]


def test_verify_makes_the_tables_again_from_what_the_folder_keeps(copy: Path) -> None:
    """The digests are gone, as where a file was copied badly; the model is not asked."""
    run = run_of(copy)
    del run["tables"]
    (copy / "run.json").write_text(json.dumps(run))
    assert verify(copy) == []
    table = copy / "sequences.tsv"
    whole = table.read_text()
    changed = next(row for row in rows(copy) if row["call"] == "virus")
    table.write_text(whole.replace(f"\t{changed['probability']}\t", "\t0.999\t", 1))
    (problem,) = verify(copy)
    assert "probability is '0.999', must be" in problem
    table.write_text(whole)
    kept = json.loads((copy / "calibration.json").read_text())
    kept["calibration"]["classes"][0]["slope"] = 0.5
    (copy / "calibration.json").write_text(json.dumps(kept))
    assert any("probability is" in problem or "call is" in problem for problem in verify(copy))
    (copy / "calibration.json").write_text("{}")
    assert any("calibration.json: calibration is missing" in problem for problem in verify(copy))


def test_a_changed_calibration_is_told_by_its_digest(copy: Path) -> None:
    path = copy / "calibration.json"
    path.write_text(path.read_text().replace("calibrated", "calibrate!"))
    (problem,) = verify(copy)
    assert "calibration.json: is not the file that was written" in problem


def test_the_program_of_the_documents_runs(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "trust.md").read_text()
    program = text.split("```python\n", 1)[1].split("```", 1)[0]
    names: dict[str, object] = {}
    exec(program.replace('Path("MODEL")', f"Path({str(model)!r})"), names)
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert list(names["found"].call > 0) == [True, True, True]  # type: ignore[attr-defined]


def test_few_sequences_get_the_stated_prior(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "few.fa"
    lines = Path(settings.inputs[0]).read_text().splitlines(keepends=True)
    source.write_text("".join(lines[: 2 * LEAST_SEQUENCES // 2]))
    assert predict(replace(settings, inputs=(str(source),), output=tmp_path / "R")) == 0
    judgement = run_of(tmp_path / "R")["judgement"]
    assert isinstance(judgement, dict)
    share = judgement["prevalence"]
    assert share == {"value": PRIOR, "origin": "assumed", "estimate": None, "low": None, "high": None}
    message = json.loads((tmp_path / "R" / "status.json").read_text())["message"]
    assert f"share of viruses {PRIOR}, assumed, as fewer than {LEAST_SEQUENCES} sequences are calibrated" in message


def test_where_no_sequence_has_a_call_the_files_say_that_they_go_by_the_larger_score(
    settings: Settings, done: Path, tmp_path: Path
) -> None:
    source = tmp_path / "short.fa"
    lines = Path(settings.inputs[0]).read_text().splitlines(keepends=True)
    source.write_text("".join(line[:140].rstrip() + "\n" for line in lines[:80]))
    assert predict(replace(settings, inputs=(str(source),), output=tmp_path / "R", allow_short=True)) == 0
    assert {row["call"] for row in rows(tmp_path / "R")} == {"NA"}
    assert "virus" in {row["prediction"] for row in rows(tmp_path / "R")}
    assert f"\n{BY_SCORE}\n" in run_message(tmp_path / "R")
    assert f"{BY_SCORE}." in " ".join((tmp_path / "R" / "README.txt").read_text().split())
    assert BY_SCORE not in run_message(done)
    assert BY_SCORE not in " ".join((done / "README.txt").read_text().split())


def test_a_run_of_a_version_that_was_not_cautious_is_known_by_its_calibration(copy: Path) -> None:
    path = copy / "calibration.json"
    kept = json.loads(path.read_text())
    assert kept.pop("cautious") is True
    assert not judging_from_json(path, kept).cautious
    assert not judging_from_json(path, kept | {"cautious": False}).cautious
    for value in (0, "true", None):
        with pytest.raises(WeightsError, match=r"calibration\.json: cautious must be true or false"):
            judging_from_json(path, kept | {"cautious": value})


def test_tables_of_a_version_that_was_not_cautious_are_not_judged_anew_without_a_word(
    copy: Path, model: Path, settings: Settings
) -> None:
    path, told = copy / "calibration.json", "warning: the tables that were here had been judged by an earlier version"
    kept = json.loads(path.read_text())
    del kept["cautious"]
    path.write_text(json.dumps(kept))
    assert predict(replace(settings, output=copy)) == 0
    assert told in run_message(copy)
    assert predict(replace(settings, output=copy)) == 0
    assert told not in run_message(copy)
    for content, word in ((json.dumps(kept), True), ("damaged", False)):
        path.write_text(content)
        assert classify(copy, None, model=str(model), consensus=None, legacy_output=False, progress="none") == 0
        assert (told in run_message(copy)) == word
    assert json.loads(path.read_text())["cautious"] is True


def test_only_the_mean_is_calibrated(settings: Settings, tmp_path: Path) -> None:
    assert predict(replace(settings, output=tmp_path / "R", consensus="max")) == 0
    assert {tuple(row[name] for name in JUDGED) for row in rows(tmp_path / "R")} == {("NA",) * 4}
    assert predict(replace(settings, output=tmp_path / "R", consensus="max", prevalence=0.1)) == 2
    status = json.loads((tmp_path / "R" / "status.json").read_text())
    assert status["state"] == "done"


def test_an_option_that_would_do_nothing_is_refused(
    settings: Settings, models: TinyModels, tmp_path: Path, done: Path, plain: Path
) -> None:
    contigs = write_contigs(tmp_path / "contigs.fa")
    for given in ({"prevalence": 0.1}, {"max_fdr": 0.1}, {"strict": True}):
        assert predict(models.settings(contigs, tmp_path / "R", **given)) == 2
        assert predict(replace(settings, model=str(plain), output=tmp_path / "S", **given)) == 2
    for folder in ("R", "S"):
        assert not (tmp_path / folder / "sequences.tsv").exists()
    given = {"consensus": None, "legacy_output": False, "progress": "none", "choice": Choice(prevalence=0.2)}
    assert classify(done, plain / "classifier.safetensors", **given) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"prevalence": 0.0}, "--prevalence 0.0: must be between 0 and 1"),
        ({"prevalence": float("nan")}, "--prevalence nan: must be between 0 and 1"),
        ({"max_fdr": 1.0}, "--max-fdr 1.0: must be between 0 and 1"),
        ({"sensitive": True, "strict": True}, "--sensitive and --strict: choose one"),
    ],
)
def test_a_choice_that_is_none_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Settings(inputs=("a.fa",), output=Path("R"), model="mini", **given)  # type: ignore[arg-type]


def test_virus_files_and_the_report_have_the_calls_that_the_run_counts(done: Path, tmp_path: Path) -> None:
    called = [row["seq_name"] for row in rows(done) if row["call"] == "virus"]
    judgement = run_of(done)["judgement"]
    assert isinstance(judgement, dict)
    assert sorted(row.split("\t")[0] for row in (done / "virus.tsv").read_text().splitlines()[1:]) == sorted(called)
    columns, meta = gather(RunFolder(done), tmp_path / "report.html")
    assert meta["virus"] == int((np.asarray(columns["call"]) == 2).sum()) == judgement["calls"]["virus"] == len(called)
    assert (meta["most_false"], meta["confidence"]) == (judgement["most_false"], "95%")
    p_value = np.asarray(columns["p_value"])[np.asarray(columns["call"]) == 2].astype(float)
    assert false_within(np.array(meta["envelope"]), p_value) == judgement["most_false"]
