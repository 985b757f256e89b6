"""The plain loop with which `predict` is compared: the same scores, and contigs selected as intended."""

from pathlib import Path

import numpy as np
import pytest

from scripts.bench import plain_loop, whole_runs
from scripts.demo import make_models
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict


@pytest.mark.slow
def test_the_plain_loop_gives_the_scores_of_predict(tmp_path: Path) -> None:
    make_models.main(tmp_path, nucleotide="2x48", protein="2x32")
    classifier = make_models.make_classifier(tmp_path / "classifier.safetensors", tmp_path, hidden=16)
    contigs = write_contigs(tmp_path / "contigs.fa", n=30)
    outcome = plain_loop.run([contigs], tmp_path, classifier, tmp_path / "plain.tsv")
    models = TinyModels(tmp_path / "dnabert-s", tmp_path / "esm-2", classifier)
    assert predict(models.settings(contigs, tmp_path / "run")) == 0
    plain = np.loadtxt(tmp_path / "plain.tsv", skiprows=1)
    ours = np.loadtxt(tmp_path / "run" / "fragments.tsv", skiprows=1, usecols=(8, 7))
    assert outcome.fragments == len(plain) == len(ours) > 20
    assert len(np.unique(ours[:, 0])) > 10
    assert np.allclose(plain[:, 1:], ours, atol=2e-6)


def test_padded_batches_hold_neighbours_up_to_the_budget_and_every_sequence_once() -> None:
    lengths = [5, 9, 3, 30, 2, 2, 2, 12]
    batches = [list(batch) for batch in plain_loop.padded_batches(lengths, 20)]
    assert [number for batch in batches for number in batch] == list(range(len(lengths)))
    assert batches == [[0, 1], [2], [3], [4, 5, 6], [7]]
    assert list(plain_loop.padded_batches([], 20)) == []


def test_contigs_are_taken_from_the_files_in_turn_until_there_are_enough_fragments(tmp_path: Path) -> None:
    sources = [write_contigs(tmp_path / f"{seed}.fa", n=20, seed=seed) for seed in (1, 2)]
    first, second = (source.read_text().split(">")[1:] for source in sources)
    chosen = whole_runs.take_contigs(sources, tmp_path / "few.fa", 12).read_text().split(">")[1:]
    names = [record.split()[0] for record in chosen]
    assert names == [record.split()[0] for pair in zip(first, second, strict=True) for record in pair][: len(names)]
    counts = [whole_runs.n_fragments(record.split("\n")[1]) for record in chosen]
    assert sum(counts[:-1]) < 12 <= sum(counts)


@pytest.mark.parametrize("expected_s", [80.0, 120.0])
def test_an_estimate_is_off_either_way(expected_s: float) -> None:
    run = whole_runs.Measured(
        fragments=1,
        tokens=1,
        launch_to_end_s=100.0,
        run_s=90.0,
        embed_s=80.0,
        overhead_share=0.1,
        expected_s=expected_s,
    )
    row = whole_runs._estimate("estimate", run)
    assert row.figure == pytest.approx(20)
    assert row.verdict == "reached"
