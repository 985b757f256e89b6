"""`vpdist plan --manifest`: counts of a sample, scaled to all objects, and what they cost."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.cli import app
from vpdist.config import Settings
from vpdist.errors import InputError, UsageError
from vpdist.estimate.cost import CostRequest, _hours, estimate
from vpdist.estimate.forecast import Counts, Forecast, Rank, Time, Work
from vpdist.estimate.object_work import ObjectWork
from vpdist.planning import room
from vpdist.sequences.manifest import read_manifest

N = 12


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """N objects, half of them compressed, and an empty one."""
    folder = tmp_path_factory.mktemp("objects")
    names = []
    for number in range(N):
        path = write_contigs(folder / f"{number}.fa", n=4 + 2 * number, seed=number)
        if number % 2:
            with open(path, "rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
                shutil.copyfileobj(plain, packed)
            path = Path(f"{path}.gz")
        names.append(path.name)
    (folder / "nothing.fa").touch()
    listed = folder / "all.tsv"
    listed.write_text("path\n" + "".join(f"{name}\n" for name in [*names, "nothing.fa"]))
    return listed


def request(manifest: Path, **changes: Any) -> CostRequest:
    asked = CostRequest(manifest=read_manifest(manifest), price=2.0, rate=1000.0, sample=8, seed=3)
    return replace(asked, **changes)


@pytest.fixture(scope="module")
def settings(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    output = tmp_path_factory.mktemp("unused")
    return replace(models.settings(Path("-"), output, token_budget=300), dry_run=True)


def test_all_objects_counted_are_the_truth_and_a_sample_comes_near_it(manifest: Path, settings: Settings) -> None:
    truth = estimate(settings, 1, request(manifest, sample=N))
    assert truth.sampled_objects == N
    assert truth.warnings[0] == "warning: empty or not there, and not counted: nothing.fa"
    assert truth.tokens is not None
    assert truth.hours is not None
    assert truth.money is not None
    assert truth.tokens.low == truth.tokens.expected == truth.tokens.high
    assert truth.hours.expected == pytest.approx(truth.tokens.expected / 1000 / 3600)
    assert truth.money.expected == pytest.approx(2 * truth.hours.expected)
    sampled = estimate(settings, 1, request(manifest))
    assert sampled.objects == N + 1
    assert sampled.sampled_objects < N
    assert sampled.hours is not None
    assert sampled.bases.expected == pytest.approx(truth.bases.expected, rel=0.1)
    assert sampled.hours.expected == pytest.approx(truth.hours.expected, rel=0.25)
    assert sampled.hours.low < sampled.hours.expected < sampled.hours.high
    assert set(sampled.disk) == {"parts", "tokens", "tables"}


def test_the_command_prints_hours_and_money_and_json(
    manifest: Path, models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["plan", "--manifest", str(manifest), "--sample", "4", "--progress", "none", "--ranks", "1"]
    counted = CliRunner().invoke(app, options)
    assert counted.exit_code == 0, counted.output
    assert "device hours depend on the models" in counted.output
    options += ["--nucleotide-model", str(models.nucleotide), "--protein-model", str(models.protein)]
    options += ["--rate", "1000", "--price", "2"]
    monkeypatch.setattr(room, "MOST_FRAGMENTS", 100)
    text = CliRunner().invoke(app, options).output
    assert "hours of a device of that rate, embedding alone" in text
    assert "at 2.00 per device hour" in text
    assert "--manifest FILE --shard i/" in text
    fields = json.loads(CliRunner().invoke(app, [*options, "--json"]).output)
    assert fields["money"]["expected"] == pytest.approx(2 * fields["hours"]["expected"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--price", "2", "x.fa"], "are for a --manifest"),
        (["--manifest", "m.tsv", "--sample", "4", "x.fa"], "--manifest names all inputs"),
        (["--manifest", "m.tsv", "--price", "-1"], "--price"),
        (["--manifest", "m.tsv", "--rate", "0"], "--rate"),
        (["--manifest", "m.tsv", "--sample", "1"], "--sample"),
        (["--manifest", "m.tsv", "--price", "2"], "need models"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.tsv").write_text("path\nx.fa\n")
    Path("x.fa").write_text(">a\nACGT\n")
    result = CliRunner().invoke(app, ["plan", *options])
    assert isinstance(result.exception, UsageError)
    assert told in str(result.exception)


def test_objects_that_are_empty_or_not_there_are_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty.fa").touch()
    (tmp_path / "m.tsv").write_text("path\nempty.fa\n")
    nothing = estimate(settings, 1, request(tmp_path / "m.tsv"))
    assert nothing.warnings == ["warning: all objects are empty or not there"]
    (tmp_path / "m.tsv").write_text("path\tsize\ngone.fa\t100\n")
    with pytest.raises(InputError, match=r"gone\.fa"):
        estimate(settings, 1, request(tmp_path / "m.tsv"))


def test_measured_hours_are_those_of_encoders_and_of_ranks_that_wait() -> None:
    work = Work(
        tokens={"protein": 60},
        units=2,
        device="cpu",
        dtype="float32",
        threads=1,
        token_budget=10,
        ranks=[Rank(units=1, tokens=30, cost=50, embed_s=100.0), Rank(units=1, tokens=30, cost=50, embed_s=140.0)],
    )
    seconds = {"launch": 1.0, "start": 1.0, "load": 1.0, "ingest": 10.0, "plan": 4.0, "embed": 140.0, "tables": 6.0}
    planned = Forecast(
        counts=Counts(sequences=2, statuses={}, bases=9, chunks=2, open_chunks=2, fragments=4, different_fragments=4),
        work=work,
        time=Time(timed_at_once=2, timed_batches=2, **seconds),
    )
    objects = ObjectWork(
        bases=np.array([1, 3]), fragments=np.array([1, 4]), tokens=np.array([10, 50]), cost=np.array([20, 80])
    )
    # encoders: 240 s by cost; two ranks wait for 10 s of reading by bases, and for 10 s by fragments
    expected = np.array([48 + 2 * (2.5 + 2), 192 + 2 * (7.5 + 8)]) / 3600
    assert _hours(planned, objects, None) == pytest.approx(expected)
    assert _hours(planned, objects, 5.0) == pytest.approx(np.array([2, 10]) / 3600)
