"""A report does not outlive the tables that it shows."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.report.synthetic import write_run
from tests.sample import write_contigs
from tests.tiny_models import TinyModels, write_classifier
from vpdist.cli import app
from vpdist.commands.classify import classify
from vpdist.report import renewed
from vpdist.report.page import write_report
from vpdist.report.renewed import renew_report
from vpdist.storage.run_folder import is_report

FILES = ("report.html", "report.png", "vpdist_mqc.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a report of older tables."""
    folder = tmp_path / "run"
    write_run(folder, 20)
    for path, _ in write_report(folder, multiqc=True):
        os.utime(path, (1, 1))
    return folder


def here(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(("report", "vpdist_mqc"))}


def test_a_report_is_written_again_with_the_files_that_came_with_it_and_no_others(run: Path) -> None:
    told = renew_report(run)
    assert [line.split(": ")[0] for line in told] == [f"{run}/report.html", f"{run}/vpdist_mqc.json"]
    assert here(run) == {"report.html", "vpdist_mqc.json"}
    assert all((run / name).stat().st_mtime > 1 for name in here(run))


def test_where_there_is_no_report_of_ours_nothing_is_written_or_renamed(run: Path) -> None:
    (run / "report.html").write_text("<title>mine</title>")
    assert renew_report(run) == []
    (run / "report.html").unlink()
    assert renew_report(run) == []
    assert here(run) == {"vpdist_mqc.json"}


def test_a_report_that_cannot_be_written_again_is_renamed_and_that_is_told(run: Path) -> None:
    (run / "status.json").write_text('{"state": "failed", "exit_code": 3}')
    (told,) = renew_report(run)
    assert told.startswith(f"warning: the report in {run} is of earlier calls and now named report.earlier.html, ")
    assert "the run is not complete" in told
    assert here(run) == {"report.earlier.html", "vpdist_mqc.earlier.json"}


def test_a_process_that_ends_meanwhile_leaves_no_report_of_the_old_tables(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(renewed, "write_report", ends)
    with pytest.raises(KeyboardInterrupt):
        renew_report(run)
    assert here(run) == {"report.earlier.html", "vpdist_mqc.earlier.json"}


def test_classify_and_predict_write_the_report_again(models: TinyModels, tmp_path: Path) -> None:
    contigs, folder = write_contigs(tmp_path / "contigs.fa", n=4), tmp_path / "run"
    encoders = ["--nucleotide-model", str(models.nucleotide), "--protein-model", str(models.protein)]
    numbers = ["--threads", "1", "--dtype", "float32", "--nproc", "1", "--progress", "none"]
    predict = ["predict", str(contigs), "-o", str(folder), *encoders, "--classifier", str(models.classifier), *numbers]
    assert CliRunner().invoke(app, predict).exit_code == 0
    assert not (folder / "report.html").exists()
    write_report(folder)
    first = (folder / "report.html").read_bytes()
    other = write_classifier(tmp_path / "other.safetensors", seed=7)
    for command in (["classify", str(folder), "--classifier", str(other), "--progress", "none"], predict):
        os.utime(folder / "report.html", (1, 1))
        ended = CliRunner().invoke(app, command)
        assert ended.exit_code == 0
        assert f"{folder}/report.html: written again, for the new tables" in ended.output
        assert is_report(folder / "report.html")
        assert (folder / "report.html").stat().st_mtime > 1
        if command[0] == "classify":
            assert (folder / "report.html").read_bytes() != first
    (folder / "vpdist_mqc.json").write_text("of the report")
    ended = classify(folder, other, consensus=None, legacy_output=False, progress="none")  # and then it is killed
    assert ended == 0
    assert here(folder) == {"report.earlier.html", "vpdist_mqc.earlier.json"}
    assert CliRunner().invoke(app, predict).exit_code == 0
    assert here(folder) == {"report.html", "vpdist_mqc.json"}
    assert json.loads((folder / "vpdist_mqc.json").read_text())["id"] == "vpdist"
    assert json.loads((folder / "status.json").read_text())["exit_code"] == 0
