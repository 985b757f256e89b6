"""`vpdist train --heads`: classifiers for shorter chunks and the summary, the same on any number of ranks."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.launched import PATIENCE_S
from tests.models.test_choose import asked
from tests.models.test_heads import described as described_model
from tests.sample import coding_sequence
from tests.tiny_models import TinyModels, tiny_classifier
from tests.training.labelled_sample import arguments, write_labelled
from tests.training.test_train import environment, run_here
from vpdist.commands.beside import Beside, FittedHead
from vpdist.commands.labelled_sides import LabelledSides
from vpdist.commands.predict import predict
from vpdist.commands.train_heads import Embedded, with_judged_fragments
from vpdist.commands.verify import verify
from vpdist.display.progress_lines import read_file
from vpdist.errors import UsageError
from vpdist.models.bundle import Bundle, read_model
from vpdist.models.description import Model
from vpdist.models.load_heads import load_heads
from vpdist.results.embedding_summary import load_summary
from vpdist.training.embedding_fit import LEAST, distances, draw, summarise, with_thresholds
from vpdist.training.fragments import Fragments
from vpdist.training.head_lengths import HeadLength, head_lengths, parsed_heads, shortest_chunk_of

OPTIONS = ("--heads", "150,300=nucleotide", "--heads-hidden", "12", "--validation-share", "0.3", "--test-share", "0.3")
FILES = (
    "model.json",
    "classifier.safetensors",
    "summary.safetensors",
    "heads/150.safetensors",
    "heads/300.safetensors",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def trained(models: TinyModels, files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """No test changes it."""
    output = tmp_path_factory.mktemp("heads") / "model"
    told = run_here(models, files, output, *OPTIONS)
    assert "a classifier for chunks of 150 bases, from 90 on" in told
    assert "pieces of 150 bases, its own classifier: AUROC" in told
    return read_model(output)


def test_displays_are_told_which_stages_come_also_of_runs_inside_the_command(trained: Bundle) -> None:
    told = [each.run for each in read_file(trained.folder / "run" / "progress.jsonl")]
    embedding = ("ingest", "plan", "layout", "load", "embed", "check", "tables")
    ends = {"": ("rows", "fit", "head-150", "head-300", "calibration-run", "judge"), "calibration-run": ("judge",)}
    ends |= {"head-150": ("rows", "fit", "head-300", "calibration-run", "judge")}
    ends |= {"head-300": ("rows", "fit", "calibration-run", "judge")}
    assert {run.command for run in told} <= {"", "train"}
    assert {(run.output, run.n_inputs) for run in told if run.command} == {(str(trained.folder), 2)}
    seen = {run.coming for run in told}
    every = {(*embedding, *after)[at:] for after in ends.values() for at in range(len(embedding) + len(after) + 1)}
    assert seen <= {(), ("groups", *embedding, *ends[""]), *every}
    assert (*embedding, *ends[""]) in seen
    assert told[-1].coming == ()
    assert [name for name, _ in told[-1].stages].count("embed") == 4


def test_the_model_has_them(trained: Bundle) -> None:
    model = trained.model
    trained.check_classifier()
    assert (model.shortest_chunk, model.short_chunks, model.classifier_from) == (90, "NA", 387)
    heads = [(head.from_bases, head.chunk_length, head.kinds) for head in model.heads]
    assert heads == [(90, 150, ("nucleotide", "protein")), (212, 300, ("nucleotide",))]
    card = (trained.folder / "README.md").read_text()
    assert all(f"fingerprint {each.fingerprint} |" in card for each in (*model.heads, model.classifier, model.summary))
    loaded = load_heads(trained.classifier, trained)
    assert len({classifier.fingerprint for _, classifier in loaded.classifiers}) == 3
    assert model.training is not None
    measured = {(metric.name, metric.of) for metric in model.training.metrics}
    for of in ("pieces of 150 bases", "pieces of 150 bases, by the classifier for 500", "pieces of 300 bases"):
        assert {("AUROC", of), ("share of others called virus", of)} <= measured
    assert ("AUROC", "pieces of 300 bases, by the classifier for 500") not in measured  # it takes proteins, too
    assert json.loads((trained.folder / "metrics.json").read_text())["heads"].keys() == {"150", "300"}
    summary = load_summary(trained.folder / "summary.safetensors")
    known = dict(zip(summary.begins.tolist(), np.isfinite(summary.thresholds).tolist(), strict=True))
    assert known[150]
    assert not known[300]  # nobody has embedded pieces of that length with both encoders


def test_all_of_it_is_used(trained: Bundle, tmp_path: Path) -> None:
    """Reads of 150 bases are judged by their own classifier; random ones lie far from these codons."""
    rng = np.random.default_rng(8)
    reads = [coding_sequence(rng, 150) for _ in range(20)] + ["A" * 150, coding_sequence(rng, 80)]
    source = tmp_path / "reads.fa"
    source.write_text("".join(f">r{n}\n{read}\n" for n, read in enumerate(reads)))
    assert predict(asked(source, tmp_path / "run", model=str(trained.folder))) == 0
    with (tmp_path / "run" / "sequences.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    flags = [set(row["flags"].split(",")) for row in rows]
    assert {"few_chunks", "low_complexity", "out_of_distribution"} <= flags[20]
    assert flags[21] == {"short"}
    assert rows[21]["prediction"] == "NA"
    assert Counter("out_of_distribution" in each for each in flags[:20])[False] > 10
    assert verify(tmp_path / "run") == []


def test_two_ranks_make_the_same_model(
    trained: Bundle, models: TinyModels, files: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / trained.folder.name
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [*arguments(models, files, output, "--progress", "none", *OPTIONS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment(), check=False)
    assert ended.returncode == 0, ended.stderr
    for name in FILES[1:]:
        assert (output / name).read_bytes() == (trained.folder / name).read_bytes(), name
    ours, theirs = read_model(output).model, trained.model
    assert (ours.heads, ours.summary, ours.training) == (theirs.heads, theirs.summary, theirs.training)


def test_the_same_command_goes_on(
    trained: Bundle, models: TinyModels, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """A classifier that was lost is fitted again, from embeddings that are there, if they are of the same pieces."""
    output = tmp_path / trained.folder.name
    shutil.copytree(trained.folder, output)
    (output / "model.json").unlink()
    (output / "head-150" / "fit" / "state.safetensors").unlink()
    with (output / "head-300" / "pieces.fa").open("a") as file:
        file.write(">another\nACGT\n")
    parts = {path: path.stat().st_mtime_ns for path in output.glob("head-150/run/parts/*")}
    other = next(output.glob("head-300/run/parts/*"))
    made = other.stat().st_mtime_ns
    assert len(parts) > 1
    run_here(models, files, output, *OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert other.stat().st_mtime_ns > made  # pieces of other sequences: embedded again
    for name in FILES:
        assert (output / name).read_bytes() == (trained.folder / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--heads", "500"), "must be below the chunk length of 500"),
        (("--heads", "150,300", "--shortest-chunk", "220"), "the shortest"),
        (("--shortest-chunk", "501"), "at most the chunk length"),
        (("--heads", "150,a"), "'a' is no length"),
        (("--heads-hidden", "8"), "of no use without --heads"),
        (("--heads", "150=dna"), "names no encoders"),
        (("--heads", "150,150=protein"), "named twice"),
    ],
)
def test_lengths_that_do_not_fit_are_refused_first(
    models: TinyModels, files: tuple[Path, Path], tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    assert reason in run_here(models, files, tmp_path / "model", *options, code=2)
    assert not list((tmp_path / "model" / "run").glob("parts/*"))


def test_where_each_begins() -> None:
    assert head_lengths(None, 500, 0) == []
    assert head_lengths("300,150", 500, 100) == [HeadLength(150, (), 100), HeadLength(300, (), 212)]
    assert shortest_chunk_of(None, None) is None
    assert shortest_chunk_of(200, None) == 200
    assert shortest_chunk_of(None, "300,150") == 90
    assert parsed_heads("150=nucleotide+protein") == [(150, ("nucleotide", "protein"))]
    with pytest.raises(UsageError, match="more than 160 bases, the shortest, itself among them"):
        head_lengths("150", 500, 160)
    with pytest.raises(UsageError, match="names no encoders"):
        parsed_heads("150=protein+nucleotide")


def test_a_summary_tells_the_unlike_from_the_alike() -> None:
    """A Gaussian of few directions: of its own draws one in a hundred is beyond the threshold, of others most are."""
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(5, 40))

    def rows(n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        values = rng.normal(size=(n, 5)) @ spread + 0.3 * rng.normal(size=(n, 40)) + shift * rng.normal(size=(n, 40))
        return values[:, :24].astype(np.float32), values[:, 24:].astype(np.float32)

    kinds = ("nucleotide", "protein")
    threads = torch.get_num_threads()
    summary = summarise(rows(2000), kinds, 500)
    assert summary is not None
    assert torch.get_num_threads() == threads
    known = rows(2000)
    apart = distances(summary, np.arange(2000), lambda row: tuple(each[row] for each in known))
    bases = np.repeat([150, 499], 1000)
    bases[-LEAST + 1 :] = 500
    summary = with_thresholds(summary, [(apart[:1000], bases[:1000]), (apart[1000:], bases[1000:])])
    assert np.isfinite(summary.thresholds).tolist() == [False, True, False, True]
    for shift, least, most in ((0.0, 0.0, 0.05), (1.0, 0.95, 1.0)):
        found = summary.relative(dict(zip(kinds, rows(1000, shift), strict=True)), np.full(1000, 150))
        assert least <= float((found > 1).mean()) <= most
    assert summarise(rows(2), kinds, 500) is None


def test_rows_are_drawn_once_each() -> None:
    rows = np.repeat(np.arange(100), 3)
    assert draw(rows, 1).tolist() == list(range(100))
    some = draw(rows, 1, 20)
    assert len(set(some.tolist())) == 20
    assert (np.diff(some) > 0).all()
    assert np.array_equal(some, draw(rows, 1, 20))


def test_calibration_and_figures_are_of_all_classifiers(models: TinyModels) -> None:
    """What scores rows while a model is made begins where that of the written model does."""
    figures: dict[str, object] = {}
    classifiers = [tiny_classifier(seed=seed) for seed in (4, 5, 6)]
    wanted = head_lengths("150,300", 500, 90)
    heads = tuple(
        FittedHead(each, ("nucleotide", "protein"), head, figures)
        for each, head in zip(wanted, classifiers[:2], strict=True)
    )
    loaded = Beside(heads, None, 90).with_main(classifiers[2], 500)
    assert [begins for begins, _ in loaded.classifiers] == [90, 212, 387]
    assert loaded.main is classifiers[2]
    assert Beside().with_main(classifiers[2], 500).fingerprint == classifiers[2].fingerprint
    described = Beside(heads, None, 90).described(load_described(models))
    assert (described.shortest_chunk, described.short_chunks, described.classifier_from) == (90, "NA", 387)
    assert Beside().described(load_described(models)) == load_described(models)


def load_described(models: TinyModels) -> Model:
    plain = {"heads": (), "classifier_from": None, "summary": None, "short_chunks": "judged", "shortest_chunk": 3}
    return described_model(models, **plain)[0]


def test_figures_are_of_the_chunks_that_the_model_judges() -> None:
    values = (np.array(each) for each in ([0, 0, 1], [0, 1, 2], [0, 1, 2], [True, True, False], [1, 1, 1]))
    fragments = Fragments(*values, end=np.array([97, 98, 300]), frame=np.zeros(3, np.int8))
    main = Embedded(None, None, LabelledSides(None, None, None, fragments))  # type: ignore[arg-type]
    assert with_judged_fragments(main, 100).fragments.usable.tolist() == [False, True, False]
    assert with_judged_fragments(main, 0).fragments.usable.tolist() == fragments.usable.tolist()
