"""`vpdist train` from files to a model: the same on any number of ranks, resumable, and refused where it cannot be."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from tests.launched import PATIENCE_S, wait_until
from tests.tiny_models import TinyModels
from tests.training.labelled_sample import arguments, command, write_labelled
from vpdist.cli import app
from vpdist.commands.predict import predict
from vpdist.models.bundle import read_model
from vpdist.results.classifier import load_classifier
from vpdist.training.judge import LEVELS
from vpdist.training.metrics import NAMES

pytestmark = pytest.mark.launcher

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_labelled(tmp_path_factory.mktemp("labelled"))


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("CI", "OMP_NUM_THREADS")}


def run(arguments: list[str], code: int = 0) -> str:
    ended = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PATIENCE_S, env=environment(), check=False
    )
    assert ended.returncode == code, ended.stderr
    return ended.stderr


@pytest.fixture(scope="module")
def one_rank(models: TinyModels, files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that one rank has made; tests that change it work on a copy."""
    output = tmp_path_factory.mktemp("one") / "model"
    told = run_here(models, files, output)
    assert "80 labelled sequences in 40 groups" in told
    assert "epoch 6/6, loss 0." in told
    return output


def run_here(models: TinyModels, files: tuple[Path, Path], output: Path, *options: str, code: int = 0) -> str:
    """Run the command in this process, on one rank; returns what its log has."""
    given = arguments(models, files, output, "--nproc", "1", "--progress", "none", *options)[2:]
    log = output / "run" / "logs" / "rank00000.log"
    before = len(log.read_text()) if log.exists() else 0
    assert CliRunner().invoke(app, given).exit_code == code
    return log.read_text()[before:] + str(read_json(output / "run" / "status.json")["message"])


def parameters(model: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(model / "classifier.safetensors")


def read_json(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("launcher", "options"),
    [(TORCHRUN, []), ([sys.executable], ["--nproc", "3"])],
    ids=["torchrun-2", "built-in-3"],
)
def test_a_model_is_the_same_on_any_number_of_ranks(
    one_rank: Path,
    models: TinyModels,
    files: tuple[Path, Path],
    tmp_path: Path,
    launcher: list[str],
    options: list[str],
) -> None:
    output = tmp_path / "model"
    run([*launcher, *arguments(models, files, output, *options)])
    expected = parameters(one_rank)
    for name, found in parameters(output).items():
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-5, msg=name)
    for mine, theirs in zip(history(output), history(one_rank), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert (output / "splits.tsv").read_bytes() == (one_rank / "splits.tsv").read_bytes()
    assert read_json(output / "train.json")["world_size"] == 2 + len(options) // 2


def history(model: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (model / "history.jsonl").read_text().splitlines()]


def test_the_model_describes_how_it_was_made(one_rank: Path, files: tuple[Path, Path]) -> None:
    model = read_model(one_rank).model
    read_model(one_rank).check_classifier()
    assert model.name == "model"
    assert model.chunk_length == 500
    assert load_classifier(one_rank / "classifier.safetensors").chunk_length == "500"
    assert model.training is not None
    assert [(each.file, each.label, each.records) for each in model.training.data] == [
        ("virus.fa", "virus", 40),
        ("other.fa", "host", 40),
    ]
    assert model.training.settings["learning_rate"] == 0.005
    assert model.training.splits["digest"] == read_json(one_rank / "train.json")["splits"]["digest"]  # type: ignore[index]
    card = (one_rank / "README.md").read_text()
    for heading in ("By length of the sequence", "Calls by source", "How the data were divided", "How it was fitted"):
        assert f"## {heading}\n" in card
    assert "| host | sequences |" in card
    assert re.search(r"^accuracy|AUROC 0\.\d{3}|AUROC 1\.000", model.accuracy)


def test_every_sequence_is_in_the_table_of_splits_with_its_accession_on_one_side(one_rank: Path) -> None:
    with open(one_rank / "splits.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["source"] for row in rows] == ["virus"] * 40 + ["host"] * 40
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["seq_name"].split(".")[0], set()).add(row["side"])
    assert len(sides) == 40
    assert all(len(found) == 1 for found in sides.values())
    for source in ("virus", "host"):
        assert {row["side"] for row in rows if row["source"] == source} == {
            "training",
            "validation",
            "test",
            "calibration",
        }


def test_figures_are_those_of_the_test_side_for_every_level(one_rank: Path) -> None:
    found = read_json(one_rank / "metrics.json")
    figures, confusion = found["figures"], found["confusion"]
    with open(one_rank / "splits.tsv", newline="") as file:
        test = sum(row["side"] == "test" for row in csv.DictReader(file, delimiter="\t"))
    for level in LEVELS:
        everything = figures[level]["all"]  # type: ignore[index]
        assert everything["n"] == sum(sum(calls.values()) - calls.get("NA", 0) for calls in confusion[level].values())  # type: ignore[index]
        assert set(NAMES) < everything.keys()
        classes = [each["n"] for name, each in figures[level].items() if name != "all"]  # type: ignore[index]
        assert sum(classes) == everything["n"]
    assert sum(sum(calls.values()) for calls in confusion["sequences"].values()) == test  # type: ignore[index]
    assert figures["sequences"]["all"]["auroc"]["value"] > 0.9  # type: ignore[index]


def test_plots_are_there_as_png_and_svg(one_rank: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ("precision_recall", "reliability", "roc", "scores")
    assert sorted(path.name for path in (one_rank / "plots").iterdir()) == [
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    ]
    assert (one_rank / "plots" / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert "](plots/roc.png)" in (one_rank / "README.md").read_text()


def test_predict_takes_the_model_and_calls_most_sequences_right(
    one_rank: Path, models: TinyModels, tmp_path: Path
) -> None:
    paths = write_labelled(tmp_path, n=12, seed=99)
    settings = models.settings(paths[0], tmp_path / "run", inputs=tuple(map(str, paths)))
    named = {"nucleotide_model": None, "protein_model": None, "classifier": None, "model": str(one_rank)}
    assert predict(replace(settings, **named)) == 0  # type: ignore[arg-type]
    with open(tmp_path / "run" / "sequences.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    right = [(row["prediction"] == "virus") == row["source"].endswith("virus.fa") for row in rows]
    assert np.mean(right) > 0.8


def test_a_model_of_one_kind_of_encoder_is_fitted_and_predicts(
    models: TinyModels, files: tuple[Path, Path], tmp_path: Path
) -> None:
    given = arguments(models, files, tmp_path / "model", "--nproc", "1", "--progress", "none")[2:]
    at = given.index("--nucleotide-model")
    assert CliRunner().invoke(app, given[:at] + given[at + 2 :]).exit_code == 0
    assert list(read_model(tmp_path / "model").model.encoders) == ["protein"]
    predicted = ["predict", str(files[0]), "-o", str(tmp_path / "run"), "--model", str(tmp_path / "model")]
    assert CliRunner().invoke(app, [*predicted, "--nproc", "1", "--threads", "1", "--progress", "none"]).exit_code == 0


def test_the_same_command_again_repeats_nothing_and_other_settings_fit_on_the_same_embeddings(
    one_rank: Path, models: TinyModels, files: tuple[Path, Path], tmp_path: Path
) -> None:
    output = Path(shutil.copytree(one_rank, tmp_path / "model"))
    times = {path.name: path.stat().st_mtime_ns for path in (output / "run" / "parts").iterdir()}
    again = run_here(models, files, output, "--name", "again")
    assert "the fit goes on after epoch 6" in again
    assert read_model(output).model.name == "again"
    assert all(torch.equal(value, parameters(one_rank)[name]) for name, value in parameters(output).items())
    other = run_here(models, files, output, "--seed", "7")
    assert "the fit goes on" not in other
    assert {path.name: path.stat().st_mtime_ns for path in (output / "run" / "parts").iterdir()} == times
    assert not torch.equal(parameters(output)["output_layer.weight"], parameters(one_rank)["output_layer.weight"])


def test_an_oversampled_source_has_its_fragments_several_times_in_an_epoch(
    one_rank: Path, models: TinyModels, files: tuple[Path, Path], tmp_path: Path
) -> None:
    output = Path(shutil.copytree(one_rank, tmp_path / "model"))
    splits = read_json(one_rank / "train.json")["splits"]
    assert isinstance(splits, dict)
    virus, other = ({side: each["fragments"] for side, each in sides.items()} for sides in splits["sides"].values())
    name = list(splits["sides"])[1]
    told = run_here(models, files, output, "--oversample", f"{name}=3")
    n, held_out = virus["training"] + 3 * other["training"], virus["validation"] + other["validation"]
    assert f"on {n:,} fragments, {held_out:,} for validation" in told
    settings = read_json(output / "train.json")["settings"]
    assert isinstance(settings, dict)
    assert settings["oversample"] == [f"{name}=3"]


def test_a_signal_stops_a_fit_on_two_ranks_so_that_it_can_be_resumed(
    one_rank: Path, models: TinyModels, files: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "model"
    endless = ["--epochs", "100000", "--patience", "100000", "--reuse", str(one_rank / "run")]
    stopped = [*command(models, files, output, *endless, "--nproc", "2", "--progress", "log")]
    with open(tmp_path / "console", "wb") as console:
        launched = subprocess.Popen(stopped, env=environment(), stderr=console, start_new_session=True)
    try:
        wait_until(lambda: (output / "history.jsonl").exists() and len(history(output)) >= 3, "three epochs")
        launched.send_signal(signal.SIGTERM)
        assert launched.wait(PATIENCE_S) == 143
    finally:
        if launched.poll() is None:
            os.killpg(launched.pid, signal.SIGKILL)
            launched.wait()
    told = (tmp_path / "console").read_text()
    assert "run the same command again to resume" in told, told
    state = read_json(output / "run" / "status.json")
    assert (state["state"], state["exit_code"]) == ("interrupted", 143)
    assert not (output / "model.json").exists()
    state_file = output / "fit" / "state.safetensors"
    with safetensors.safe_open(state_file, "pt") as kept:
        reached = json.loads(kept.metadata()["reached"])
    assert reached["history"] == history(output)


def test_what_cannot_be_used_is_refused_before_anything_is_embedded(
    models: TinyModels, files: tuple[Path, Path], tmp_path: Path
) -> None:
    virus, other = map(str, files)
    runner = CliRunner()
    encoders = ["--nucleotide-model", str(models.nucleotide), "--protein-model", str(models.protein)]
    for given, told in (
        (["--virus", virus], "--other"),
        (["--virus", virus, "--other", virus], "is named twice, as virus and as other"),
        (["--virus", virus, "--other", f"virus={other}"], "virus is the name of viruses and of others"),
        (["--virus", "-", "--other", other], "labelled sequences are read several times"),
        (["--virus", virus, "--other", other, "--groups", str(tmp_path / "none")], "none: cannot be read"),
        (["--virus", virus, "--other", other, "--dropout", "2"], "--dropout 2.0"),
        (["--virus", virus, "--other", other, "--oversample", "x=2"], "no such source; there are virus, other"),
        (["--virus", virus, "--other", other, "--oversample", "other=0"], "give NAME=N, N from 1 to 999"),
        (["--virus", virus, "--other", other, "--oversample", "other=2", "other=3"], "names a source twice"),
    ):
        ended = runner.invoke(app, ["train", *given, *encoders, "-o", str(tmp_path / "model")])
        assert ended.exit_code != 0
        assert told in f"{ended.output} {ended.exception}", ended.output
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.json").write_text("{}")
    ended = runner.invoke(
        app, ["train", "--virus", virus, "--other", other, *encoders, "-o", str(tmp_path / "foreign")]
    )
    assert "holds a model that was not made there by vpdist train" in str(ended.exception)


def test_both_labels_of_one_sequence_and_too_few_groups_end_the_command_with_their_codes(
    models: TinyModels, files: tuple[Path, Path], tmp_path: Path
) -> None:
    records = files[0].read_text().split(">")[1:]
    both = tmp_path / "both.fa"
    both.write_text(files[1].read_text() + ">copied\n" + records[4].split("\n")[1] + "\n")
    told = run_here(models, (files[0], both), tmp_path / "a", code=3)
    assert "both.fa, record copied: has the same sequence as NC_900002.1:4-13 of " in told
    assert not list((tmp_path / "a" / "run" / "parts").iterdir())
    few = tmp_path / "few.fa"
    few.write_text("".join(f">{record}" for record in records[:2]))
    few_others = tmp_path / "few_others.fa"
    few_others.write_text("".join(f">{record}" for record in files[1].read_text().split(">")[1:9]))
    told = run_here(models, (few, few_others), tmp_path / "b", code=2)
    assert "virus: one group only" in told


def test_several_files_may_follow_one_option(files: tuple[Path, Path], tmp_path: Path) -> None:
    ended = CliRunner().invoke(
        app,
        [
            *("train", "--virus", str(files[0]), str(tmp_path / "x.fa"), "--other", str(files[1])),
            *("-o", str(tmp_path / "m"), "--protein-model", str(tmp_path)),
        ],
    )
    assert "unexpected extra argument" not in ended.output.lower()
    assert ended.exit_code != 0
