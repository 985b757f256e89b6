"""`vpdist train` to `predict`: a model with a calibration, from labelled sequences of many groups."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.sample import CODONS
from vpdist.calibration.fit import LEAST_GROUPS, Scored, fit
from vpdist.calibration.judgement import Evidence
from vpdist.cli import app
from vpdist.commands.verify import verify
from vpdist.models.bundle import read_model
from vpdist.training.calibration_figures import calibration_figures

N = 220
OPTIONS = [
    *("--threads", "1", "--dtype", "float32", "--optimizer", "adamw", "--learning-rate", "0.005", "--hidden", "16"),
    *("--batch-size", "256", "--epochs", "4", "--bootstraps", "20", "--nproc", "1", "--progress", "none"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """N contigs of either label, each a group of its own, which differ a little in their codons."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("labelled")
    paths = folder / "virus.fa", folder / "other.fa"
    for path, letters, first in zip(paths, ("GC", "AT"), ("NC_7", "NC_6"), strict=True):
        weight = np.array([4.0 + sum(letter in letters for letter in codon) for codon in CODONS])
        texts = ("".join(rng.choice(CODONS, 200, p=weight / weight.sum())) for _ in range(N))
        path.write_text("".join(f">{first}{number:05d}.1\n{text}\n" for number, text in enumerate(texts)))
    return paths


def train(files: tuple[Path, Path], model: Path, *options: str) -> str:
    """What the command says at its end."""
    given = ["train", "--virus", str(files[0]), "--other", f"host={files[1]}", "-o", str(model), "--model", "mini"]
    assert CliRunner().invoke(app, [*given, *OPTIONS, *options]).exit_code == 0
    return str(json.loads((model / "run" / "status.json").read_text())["message"])


@pytest.fixture(scope="module")
def model(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "M"
    told = train(files, path, "--calibration-share", "0.3", "--test-share", "0.2")
    assert "warning: no calibration for sequences of 1,000 to 2,999, 3,000 to 9,999, 10,000 and more scored" in told
    return path


def sides(model: Path) -> dict[str, str]:
    with (model / "splits.tsv").open(newline="") as file:
        return {row["seq_name"]: row["side"] for row in csv.DictReader(file, delimiter="\t")}


def test_the_model_has_a_calibration_of_groups_that_nothing_else_was_fitted_on(model: Path) -> None:
    found = read_model(model).model
    assert found.calibration is not None
    assert found.null_scores is not None
    assert [each.least_bases for each in found.calibration.classes] == [150, 300, 500]
    n_groups = list(sides(model).values()).count("calibration")
    for each, nulls in zip(found.calibration.classes, found.null_scores.classes, strict=True):
        assert each.slope > 0
        assert each.virus_groups >= LEAST_GROUPS
        assert each.virus_groups + each.other_groups <= n_groups < 0.33 * 2 * N
        assert len(nulls.scores) == each.other_sequences
    metrics = json.loads((model / "metrics.json").read_text())["calibration"]
    assert list(metrics) == ["500"]  # the test side's sequences have 600 bases
    assert metrics["500"]["n"] == list(sides(model).values()).count("test")
    for when in ("before", "after"):
        assert set(metrics["500"][when]) == {"ece", "brier"}
    assert found.training is not None
    assert "ECE" in {each.name for each in found.training.metrics if each.of.startswith("probabilities")}
    by_length = json.loads((model / "metrics.json").read_text())["by_length"]
    assert list(by_length) == ["150", "300", "500"]  # there are none of 1,000 and 3,000 bases
    n_test = list(sides(model).values()).count("test")
    for length, figures in by_length.items():
        assert figures["n"] == (4 if length == "150" else 2 if length == "300" else 1) * n_test
        assert figures["groups"] == n_test
        assert figures["auroc"]["low"] <= figures["auroc"]["value"] <= figures["auroc"]["high"]
        assert (figures["false_discovery"]["value"] is None) == (figures["found"]["value"] == 0.0)
    assert found.training.splits["shares"]["calibration"] == 0.3
    card = (model / "README.md").read_text()
    assert "\n## Calibration\n" in card
    assert "| 500 to 999 |" in card
    assert " The last length class also judges what is longer, up to 2,999 scored bases. Other lengths " in card
    auroc = by_length["500"]["auroc"]
    told = f"{auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f})"
    assert f"\n| 500 | {n_test:,} | {told} | " in card
    assert "\n| 3,000 | 0 | not measured | " in card
    assert ("no calls |" in card) == any(figures["found"]["value"] == 0.0 for figures in by_length.values())
    assert verify(model / "calibration-run") == []


def test_predict_takes_the_calibration_of_the_model(files: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    given = ["predict", *map(str, files), "-o", str(tmp_path / "R"), "--model", str(model)]
    alone = ["--nproc", "1", "--threads", "1", "--progress", "none", "--sensitive"]
    assert CliRunner().invoke(app, [*given, *alone]).exit_code == 0
    with (tmp_path / "R" / "sequences.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    unseen = {name for name, side in sides(model).items() if side == "test"}
    judged = [row for row in rows if row["seq_name"] in unseen]
    called = [row["source"].endswith("virus.fa") for row in judged if row["call"] == "virus"]
    assert len(called) > 10
    assert np.mean(called) > 0.75
    judgement = json.loads((tmp_path / "R" / "run.json").read_text())["judgement"]
    assert judgement["prevalence"]["value"] == pytest.approx(0.5, abs=0.15)


def test_the_same_command_again_embeds_nothing_and_other_pieces_are_embedded_anew(
    files: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "M"))
    shares = ("--calibration-share", "0.3", "--test-share", "0.2")

    def parts() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (copy / "calibration-run" / "parts").iterdir()}

    before = parts()
    assert before
    train(files, copy, *shares)
    assert parts() == before
    assert read_model(copy).model == read_model(model).model
    lost = sorted(before)[-1]
    (copy / "calibration-run" / "parts" / lost).unlink()
    train(files, copy, *shares)
    assert {name for name, time in parts().items() if time != before[name]} == {lost}
    assert read_model(copy).model == read_model(model).model
    train(files, copy, *shares, "--seed", "3")
    assert parts() != before
    other = read_model(copy).model
    assert other.calibration is not None
    assert other.calibration != read_model(model).model.calibration


def test_without_a_calibration_side_there_is_none(files: tuple[Path, Path], tmp_path: Path) -> None:
    told = train(files, tmp_path / "M", "--calibration-share", "0")
    found = read_model(tmp_path / "M").model
    assert (found.calibration, found.null_scores) == (None, None)
    assert "no calibration" not in told
    assert "calibration" not in sides(tmp_path / "M").values()
    card = (tmp_path / "M" / "README.md").read_text()
    assert "## Calibration" not in card
    by_length = json.loads((tmp_path / "M" / "metrics.json").read_text())["by_length"]
    assert by_length["150"]["auroc"]["value"] is not None
    assert by_length["150"]["false_discovery"]["value"] is None
    row = re.search(r"\n\| 150 \| .*", card)
    assert row is not None
    assert row[0].endswith(" | not measured |")


def test_figures_compare_probabilities_with_what_is_true() -> None:
    """Scores that are three times too sure: their calibration divides them by three."""
    rng = np.random.default_rng(6)
    virus = rng.random(3000) < 0.3
    true = 2 * (rng.normal(size=3000) + np.where(virus, 1, -1))
    share = 1 / (1 + np.exp(-3 * true))
    evidence = Evidence(share, 1 - share, np.full(3000, 700))
    calibration, _ = fit(Scored(3 * true, evidence.bases, virus, np.arange(3000)))
    assert calibration is not None
    found = calibration_figures(evidence, virus, np.arange(3000), calibration, resamples=20, seed=1)
    assert found["500"]["n"] == 3000
    assert found["500"]["virus"] == virus.sum()
    assert found["500"]["after"]["ece"]["value"] < 0.03 < 0.06 < found["500"]["before"]["ece"]["value"]
    assert found["500"]["after"]["brier"]["value"] < found["500"]["before"]["brier"]["value"]
