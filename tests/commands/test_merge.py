"""`--shard` and `vpdist merge`: the tables of all shards together are, byte for byte, those of one run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.calibrated_model import write_calibrated
from tests.launched import PATIENCE_S, environment
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.calibration.prevalence import ESTIMATED
from vpdist.commands import input_identity
from vpdist.commands.classify import classify
from vpdist.commands.manifest_inputs import read_share
from vpdist.commands.merge import merge
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.config import Settings
from vpdist.errors import EXIT_FAILURES_LISTED, StorageError, UsageError
from vpdist.report.page import write_report
from vpdist.results.parts import part_path
from vpdist.storage.run_folder import CALL_FILES, TABLES, RunFolder

N = 7
MANY = 1000, 1100
"""Shards and objects of the long test."""
WRITTEN = (*TABLES, *CALL_FILES)


def files_of(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in WRITTEN}


def objects(folder: Path, n: int = 9, contigs: int = 32) -> Path:
    """A manifest of n files that all use the same names; one is missing, one is rubbish, one is empty."""
    rows = ["path\tsample"]
    for seed in range(n):
        write_contigs(folder / f"{seed}.fa", n=contigs, seed=seed % 6)  # two files are equal to others
        rows.append(f"{seed}.fa\tS{seed % 2}")
    (folder / "rubbish.fa").write_bytes(b">a\nACGTACGTAA\n>b\nAC!GT\n")
    (folder / "empty.fa").touch()
    rows[3:3] = ["missing.fa\t", "rubbish.fa\tS2", "empty.fa\t"]
    path = folder / "manifest.tsv"
    path.write_text("\n".join(rows))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a finished run of all objects, by a model whose scores are judged over the whole sample."""
    folder = tmp_path_factory.mktemp("whole")
    model = write_calibrated(folder / "model").folder
    table = objects(tmp_path_factory.mktemp("objects"))
    settings = Settings(
        inputs=(), manifest=table, output=folder / "run", model=str(model), threads=1, progress="none", min_score=0.2
    )
    assert predict(settings) == EXIT_FAILURES_LISTED
    return settings


@pytest.fixture(scope="module")
def shards(whole: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The finished runs of all shards, in some order; tests that change them work on copies."""
    folder = tmp_path_factory.mktemp("shards")
    codes = []
    for number in range(N, 0, -1):
        codes.append(predict(replace(whole, output=folder / str(number), shard=f"{number}/{N}")))
    assert set(codes) == {0, EXIT_FAILURES_LISTED}
    return sorted(folder.iterdir(), key=lambda path: path.name == "3")


@pytest.fixture(scope="module")
def merged(shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("merged") / "run"
    assert merge(shards, run, progress="none") == EXIT_FAILURES_LISTED
    return run


def test_the_files_of_all_shards_together_are_those_of_one_run(whole: Settings, merged: Path) -> None:
    assert files_of(merged) == files_of(whole.output)
    names = [row.split("\t")[0] for row in (merged / "sequences.tsv").read_text().splitlines()]
    assert "contig0__9" in names  # numbered over all shards
    shares = [json.loads((run / "run.json").read_text())["judgement"]["prevalence"] for run in (merged, whole.output)]
    assert shares[0] == shares[1]
    empty = [json.loads((run / "run.json").read_text())["files_without_records"] for run in (merged, whole.output)]
    assert empty[0] == empty[1] == ["empty.fa"]
    assert shares[0]["origin"] == ESTIMATED  # so it is that of the whole sample


def test_a_merged_run_is_one_for_the_other_commands(whole: Settings, merged: Path, tmp_path: Path) -> None:
    run, alone = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(merged, run)
    shutil.copytree(whole.output, alone)
    assert verify(run) == []
    assert write_report(run, None, png=False, multiqc=False)
    args = {"model": whole.model, "consensus": None, "legacy_output": True, "progress": "none"}
    for each in (run, alone):
        assert classify(each, None, **args) == EXIT_FAILURES_LISTED  # type: ignore[arg-type]
    assert files_of(run) == files_of(alone)
    assert verify(run) == []
    assert predict(replace(whole, output=run)) == UsageError.exit_code
    part = part_path(RunFolder(run).parts, 0)
    content = bytearray(part.read_bytes())
    content[-9] ^= 1
    part.write_bytes(content)
    assert any(part.name in problem for problem in verify(run))


def told(capfd: pytest.CaptureFixture[str], runs: list[Path], output: Path) -> str:
    capfd.readouterr()
    assert merge(runs, output, progress="none") == UsageError.exit_code
    return capfd.readouterr().err


def test_shards_whose_names_no_record_can_hold_are_refused(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(input_identity, "RECORD_LIMIT", 1000)
    assert "run.json would name" in told(capfd, shards, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_missing_repeated_and_foreign_shards_are_named(
    whole: Settings, shards: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    without = [path for path in shards if path.name not in ("2", "5")]
    assert f"2 of {N} shards are missing: 2/{N}, 5/{N}" in told(capfd, without, output)
    shutil.copytree(shards[0], tmp_path / "copy")
    assert "are both shard" in told(capfd, [*shards, tmp_path / "copy"], output)
    others = replace(whole, output=tmp_path / "other", shard=f"1/{N + 1}")
    predict(others)
    assert f"n of --shard i/n is {N + 1}" in told(capfd, [*shards, others.output], output)
    longer = replace(whole, output=tmp_path / "longer", shard=f"2/{N}", min_length=200)
    predict(longer)
    assert f"{longer.output}: min_length is 200" in told(capfd, [*without, longer.output], output)
    assert "was not made with --manifest" in told(capfd, [*shards, _plain(whole, tmp_path)], output)
    assert not (output / "run.json").exists()
    status = shards[0] / "status.json"
    shutil.copytree(shards[0], tmp_path / "stopped")
    (tmp_path / "stopped" / status.name).write_text(status.read_text().replace('"done', '"interrupted'))
    assert "is not complete (interrupted" in told(capfd, [tmp_path / "stopped", *shards[1:]], output)


def test_a_shard_that_an_earlier_version_has_judged_is_named(
    whole: Settings, shards: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copies = [Path(shutil.copytree(path, tmp_path / path.name)) for path in shards]
    path = RunFolder(copies[1]).calibration
    kept = json.loads(path.read_text())
    assert kept.pop("cautious") is True
    path.write_text(json.dumps(kept))
    for runs in (copies, [copies[1], copies[0], *copies[2:]]):
        assert f"{copies[1]}: an earlier version of vpdist has judged its scores" in told(capfd, runs, tmp_path / "run")
    path.write_text(json.dumps(kept | {"model": "another"}))
    assert f"{copies[1]}: calibration.json, by which scores were judged, is " in told(capfd, copies, tmp_path / "run")


def _plain(whole: Settings, folder: Path) -> Path:
    assert whole.manifest is not None
    source = str(whole.manifest.parent / "1.fa")
    assert predict(replace(whole, manifest=None, inputs=(source,), output=folder / "plain")) == 0
    return folder / "plain"


def test_a_damaged_shard_is_named_and_an_interrupted_merge_is_done_again(
    whole: Settings, shards: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copies = [Path(shutil.copytree(path, tmp_path / path.name)) for path in shards]
    other = RunFolder(copies[1])
    run = json.loads(other.run.read_text())
    other.update_run(platforms=[run["platforms"][0] | {"name": "another processor"}])
    part = part_path(RunFolder(copies[-1]).parts, 0)
    sound = part.read_bytes()
    damaged = bytearray(sound)
    damaged[-9] ^= 1
    part.write_bytes(damaged)
    output = tmp_path / "run"
    assert merge(copies, output, progress="none") == StorageError.exit_code
    assert str(part) in capfd.readouterr().err
    part.write_bytes(sound)
    calibration = other.calibration.read_bytes()
    other.calibration.unlink()
    assert merge(copies, output, progress="none") == StorageError.exit_code
    assert str(other.calibration) in capfd.readouterr().err
    other.calibration.write_bytes(calibration)
    assert merge(copies, output, progress="none") == EXIT_FAILURES_LISTED
    assert files_of(output) == files_of(whole.output)
    warned = json.loads((output / "run.json").read_text())["warnings"]
    assert any("2 devices or versions" in text and "another processor" in text for text in warned)
    assert "holds another run" in told(capfd, copies, copies[0])
    assert "was merged from other runs" in told(capfd, shards, output)
    assert files_of(output) == files_of(whole.output)


def test_scores_of_encoders_whose_bits_depend_on_the_batch_are_those_of_one_run(
    models: TinyModels, tmp_path: Path
) -> None:
    (tmp_path / "objects").mkdir()
    table = objects(tmp_path / "objects", n=3, contigs=6)
    settings = models.settings(table, tmp_path / "whole", inputs=(), manifest=table)
    assert predict(settings) == EXIT_FAILURES_LISTED
    runs = [tmp_path / str(number) for number in (1, 2)]
    for number, run in enumerate(runs, 1):
        predict(replace(settings, output=run, shard=f"{number}/2"))
    other = replace(settings, output=runs[0], shard="2/2")
    with pytest.raises(UsageError, match="1 has shard 1/2, this command names 2/2; use another folder, or --restart"):
        read_share(other)
    assert read_share(replace(other, restart=True)) == read_share(replace(settings, output=runs[1], shard="2/2"))
    assert merge(runs, tmp_path / "merged", progress="none") == EXIT_FAILURES_LISTED
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")


def test_a_retried_shard_keeps_its_share_and_is_merged_with_the_others(models: TinyModels, tmp_path: Path) -> None:
    for seed, n in enumerate((3, 3, 3, 12)):
        write_contigs(tmp_path / f"{seed}.fa", n=n, seed=seed)
    late, table = tmp_path / "3.fa", tmp_path / "manifest.tsv"
    content = late.read_bytes()
    late.unlink()
    table.write_text("path\trecords\n0.fa\t99\n1.fa\t\n2.fa\t\n3.fa\t\n")
    settings = models.settings(table, tmp_path / "whole", inputs=(), manifest=table)
    runs = [tmp_path / str(number) for number in (1, 2)]
    share = [replace(settings, output=run, shard=f"{number}/2") for number, run in enumerate(runs, 1)]
    assert [predict(each) for each in share] == [EXIT_FAILURES_LISTED, EXIT_FAILURES_LISTED]
    late.write_bytes(content)  # more than the others together: a new run would be cut elsewhere
    assert predict(replace(share[1], retry_failed=True)) == 0
    table.write_text("path\trecords\n0.fa\t\n1.fa\t\n2.fa\t\n3.fa\t\n")
    assert predict(replace(share[0], retry_failed=True)) == 0
    assert merge(runs, tmp_path / "merged", progress="none") == 0
    assert predict(settings) == 0
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")


@pytest.mark.faults
def test_a_thousand_shards_of_a_small_input_are_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,100 objects: some shards have one, some two, all use the same names."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # some ten thousand files, which need no disk
    n, n_objects = MANY
    (tmp_path / "objects").mkdir()
    table = objects(tmp_path / "objects", n=n_objects, contigs=2)
    model = write_calibrated(tmp_path / "model").folder
    settings = Settings(
        inputs=(), manifest=table, output=tmp_path / "whole", model=str(model), threads=1, progress="none"
    )
    assert predict(settings) == EXIT_FAILURES_LISTED
    runs = [tmp_path / f"run-{number}" for number in range(1, n + 1)]
    for number, run in enumerate(runs, 1):
        assert predict(replace(settings, output=run, shard=f"{number}/{n}")) in (0, EXIT_FAILURES_LISTED)
    assert merge(runs, tmp_path / "merged", progress="none") == EXIT_FAILURES_LISTED
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")
    assert verify(tmp_path / "merged") == []


def command(*arguments: object) -> int:
    """Run the command line in a process of its own; returns its exit code."""
    called = [sys.executable, "-m", "vpdist", *map(str, arguments)]
    return subprocess.run(called, env=environment(), timeout=PATIENCE_S, check=False).returncode


@pytest.mark.launcher
def test_a_shard_on_two_ranks_is_merged_from_the_command_line(whole: Settings, tmp_path: Path) -> None:
    runs = [tmp_path / f"run-{number}" for number in (1, 2)]
    options = ("--model", whole.model, "--threads", 1, "--progress", "none", "--min-score", 0.2, "--nproc", 2)
    share = ("--manifest", whole.manifest, "--shard", "1/2", "-o", runs[0])
    assert command("predict", *share, *options) == EXIT_FAILURES_LISTED
    assert predict(replace(whole, output=runs[1], shard="2/2")) == 0
    assert command("merge", *runs, "-o", tmp_path / "merged", "--progress", "none") == EXIT_FAILURES_LISTED
    assert files_of(tmp_path / "merged") == files_of(whole.output)
