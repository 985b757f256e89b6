"""`--manifest`: every object is in the tables or listed with its reason, and scores do not depend on its neighbours."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.object_stores import put
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands import input_identity, manifest_inputs, prepare
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.config import Settings
from vpdist.errors import EXIT_FAILURES_LISTED, InputError, Interrupted, UsageError
from vpdist.estimate.dry_run import forecast
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.coordination import Control
from vpdist.storage.atomic_files import RECORD_LIMIT
from vpdist.storage.object_stores import Retries
from vpdist.storage.run_folder import TABLES, RunFolder

NAMES = ("a.fa", "cut.fa.gz", "b.fa", "missing.fa", "c.fa", "protein.fa")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sound files that share names and sequences, and three that cannot be read."""
    folder = tmp_path_factory.mktemp("objects")
    for seed, name in enumerate(("a.fa", "b.fa", "c.fa")):
        write_contigs(folder / name, n=8, seed=seed)
    (folder / "c.fa").write_text((folder / "c.fa").read_text() + (folder / "a.fa").read_text())
    whole = gzip.compress((folder / "a.fa").read_bytes())
    (folder / "cut.fa.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "protein.fa").write_text(">good\nATGGCC\n>p\nMKLVEEQ\n")
    return folder


def manifest(folder: Path, names: tuple[str, ...], file: str = "manifest.tsv") -> Path:
    path = folder / file
    path.write_text("path\tsample\n" + "".join(f"{name}\tS{number}\n" for number, name in enumerate(names)))
    return path


def settings(models: TinyModels, table: Path, run: Path, **more: object) -> Settings:
    return models.settings(None, run, inputs=(), manifest=table, dtype="float32", threads=1, **more)


def tables(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def failed(models: TinyModels, objects: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which three of six objects fail."""
    run = tmp_path_factory.mktemp("run") / "run"
    assert predict(settings(models, manifest(objects, NAMES), run)) == EXIT_FAILURES_LISTED
    return run


def test_objects_that_fail_are_listed_with_their_reason_and_leave_nothing_in_the_tables(
    models: TinyModels, objects: Path, failed: Path, tmp_path: Path
) -> None:
    header, *rows = [line.split("\t") for line in (failed / "summary.tsv").read_text().splitlines()]
    of = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert tuple(of) == NAMES
    assert [row["status"] for row in of.values()] == ["done", "failed", "done", "failed", "done", "failed"]
    assert of["b.fa"]["sample"] == "S2"
    assert of["a.fa"]["reason"] == "NA"
    assert "truncated" in of["cut.fa.gz"]["reason"]
    assert of["missing.fa"]["reason"] == "cannot be read: No such file or directory"
    assert of["protein.fa"]["reason"].startswith("record p, letter 3: unexpected letter 'L'")
    assert of["cut.fa.gz"]["n_sequences"] == "0"
    status = json.loads((failed / "status.json").read_text())
    assert status["exit_code"] == EXIT_FAILURES_LISTED
    assert "FAILED: cut.fa.gz" in status["message"]
    assert verify(failed) == []
    sound = settings(models, manifest(objects, ("a.fa", "b.fa", "c.fa"), "sound.tsv"), tmp_path / "sound")
    assert predict(sound) == 0
    assert tables(tmp_path / "sound") == tables(failed)


def test_an_object_has_the_same_scores_whatever_else_is_in_the_manifest(
    models: TinyModels, objects: Path, failed: Path, tmp_path: Path
) -> None:
    assert predict(settings(models, manifest(objects, ("c.fa",), "one.tsv"), tmp_path / "one")) == 0
    alone = (tmp_path / "one" / "chunks.tsv").read_text().splitlines()[1:]
    together = (failed / "chunks.tsv").read_text().splitlines()[-len(alone) :]
    assert [row.split("\t")[1:] for row in alone] == [row.split("\t")[1:] for row in together]
    assert [row.split("\t")[0] for row in alone] != [row.split("\t")[0] for row in together]  # names are numbered


def test_the_same_command_changes_nothing_and_another_manifest_is_refused(
    models: TinyModels, objects: Path, failed: Path
) -> None:
    before = tables(failed)
    again = settings(models, objects / "manifest.tsv", failed)
    assert predict(again) == EXIT_FAILURES_LISTED
    assert tables(failed) == before
    other = manifest(objects, NAMES[:2], "other.tsv")
    assert predict(settings(models, other, failed)) == UsageError.exit_code
    for name in ("a.fa", "b.fa"):
        os.utime(objects / name)  # its content is read again, and found equal
    assert predict(again) == EXIT_FAILURES_LISTED
    assert tables(failed) == before


def test_a_dry_run_counts_what_can_be_read_and_tells_the_balance_of_shares(
    models: TinyModels, objects: Path, tmp_path: Path
) -> None:
    counting = Settings(inputs=(), manifest=manifest(objects, NAMES), output=Path(), dry_run=True, progress="none")
    planned = forecast(counting, 1, None)
    assert planned.counts.sequences == 36
    assert any(line.startswith("FAILED: cut.fa.gz") for line in planned.warnings)
    planned = forecast(replace(counting, shard="2/2"), 1, None)
    told = planned.warnings[0]
    assert told.startswith("share 2/2: 2 of 6 objects, ")
    assert re.search(r", 1\.\d+ x mean; the largest of 2 is 1\.\d+ x mean$", told)


def test_a_run_takes_no_more_objects_than_its_record_can_name(
    models: TinyModels, objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_inputs, "MOST_OBJECTS", 5)
    many = settings(models, manifest(objects, NAMES), tmp_path / "run")
    assert predict(many) == UsageError.exit_code
    assert len(manifest_inputs.read_share(replace(many, shard="1/2")).entries) < 5


def test_names_that_would_make_the_record_unreadable_are_refused_before_objects_are_looked_at(
    models: TinyModels,
    objects: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    many = settings(models, manifest(objects, NAMES), tmp_path / "run")
    listed = replace(many, manifest=None, inputs=tuple(str(objects / name) for name in NAMES))
    monkeypatch.setattr(input_identity, "RECORD_LIMIT", 1000)
    monkeypatch.setattr(manifest_inputs, "_looked_at", None)
    for run in (many, listed):
        assert predict(run) == UsageError.exit_code
        told = capfd.readouterr().err
        assert f"run.json would name {len(NAMES)} inputs in " in told
        assert "give them to more jobs (--manifest with --shard)" in told


def test_a_record_of_the_most_objects_can_be_read(tmp_path: Path) -> None:
    """Of 131,072 with names of 190 letters it has 91 MiB. What is foretold is never less than what is written."""
    n, share = 2_000, 2_000 / manifest_inputs.MOST_OBJECTS
    names = [f"s3://bucket/{number:06d}{'x' * 166}.fa.gz" for number in range(n)]
    assert len(names[0]) == 190
    samples = [f"SAMN{number:08d}" for number in range(n)]
    folder = RunFolder(tmp_path)
    folder.update_run(
        decisions={"input": [(name, 1 << 46, 1 << 62, 32 * "f") for name in names]},
        input_paths=names,
        manifest={"samples": samples},
        files_without_records=names,
        settings={"inputs": []},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_identity, "RECORD_LIMIT", folder.run.stat().st_size)
        with pytest.raises(UsageError, match="would name 2,000 inputs in"):
            input_identity.refuse_large_record(names, names, samples)
        patch.setattr(input_identity, "RECORD_LIMIT", int(share * RECORD_LIMIT))
        input_identity.refuse_large_record(names, names, samples)


def test_declared_sizes_and_records_are_compared_with_what_is_there(
    models: TinyModels, objects: Path, tmp_path: Path
) -> None:
    size = (objects / "a.fa").stat().st_size
    table = objects / "declared.tsv"
    table.write_text(f"path\tsize\trecords\na.fa\t{size}\t9\nb.fa\t{size + 9000}\t\nc.fa\t\t1\n")
    assert predict(settings(models, table, tmp_path / "run")) == EXIT_FAILURES_LISTED
    rows = (tmp_path / "run" / "summary.tsv").read_text().splitlines()[1:]
    reasons = [row.split("\t")[-1] for row in rows]
    assert reasons[0] == "NA"
    assert reasons[1].endswith(f"bytes, declared are {size + 9000:,}")
    assert reasons[2] == "has 18 records, declared are 1"


def test_failed_objects_are_read_again_when_asked_and_nothing_else_is_computed_again(
    models: TinyModels,
    objects: Path,
    failed: Path,
    tmp_path: Path,
    embedded: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, folder = Path(shutil.copytree(failed, tmp_path / "run")), Path(shutil.copytree(objects, tmp_path / "objects"))
    again = settings(models, folder / "manifest.tsv", run)
    whole = gzip.compress((folder / "a.fa").read_bytes())
    (folder / "cut.fa.gz").write_bytes(whole)
    write_contigs(folder / "missing.fa", n=5, seed=9)
    assert predict(again) == EXIT_FAILURES_LISTED  # as before: nobody has asked
    assert tables(run) == tables(failed)
    embedded()
    retried = replace(again, retry_failed=True)
    with monkeypatch.context() as patched:
        patched.setattr(prepare, "token_store", interrupted)
        assert predict(retried) == Interrupted.exit_code
    assert (run / "before_retry").exists()
    assert predict(again) == EXIT_FAILURES_LISTED  # it goes on with the retry
    computed = embedded()
    assert not (run / "before_retry").exists()
    assert "FAILED: protein.fa" in json.loads((run / "status.json").read_text())["message"]
    assert verify(run) == []
    assert predict(settings(models, folder / "manifest.tsv", tmp_path / "fresh")) == EXIT_FAILURES_LISTED
    assert tables(run) == tables(tmp_path / "fresh")
    assert (run / "summary.tsv").read_bytes() == (tmp_path / "fresh" / "summary.tsv").read_bytes()
    all_of_it = embedded()
    assert 0 < computed < all_of_it
    only = settings(models, manifest(folder, ("cut.fa.gz", "missing.fa"), "two.tsv"), tmp_path / "two")
    assert predict(only) == 0
    assert embedded() == computed


def test_a_retry_that_cannot_read_what_it_had_loses_nothing(
    models: TinyModels, objects: Path, failed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = Path(shutil.copytree(failed, tmp_path / "run")), Path(shutil.copytree(objects, tmp_path / "objects"))
    retried = settings(models, folder / "manifest.tsv", run, retry_failed=True)
    write_contigs(folder / "missing.fa", n=5, seed=9)
    sound = (folder / "a.fa").read_bytes()
    for content in (None, sound + sound):  # gone, or another file
        (folder / "a.fa").unlink() if content is None else (folder / "a.fa").write_bytes(content)
        assert predict(retried) == InputError.exit_code
        assert not (run / "before_retry").exists()
        assert tables(run) == tables(failed)
    (folder / "a.fa").write_bytes(sound)
    make = prepare.token_store

    def broken(*arguments: Any, **options: Any) -> StoreSummary:
        (folder / "a.fa").unlink()  # once all objects have been looked at
        return make(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "token_store", broken)
        assert predict(retried) == InputError.exit_code
    assert tables(run) == tables(failed)
    (folder / "a.fa").write_bytes(sound)
    assert predict(retried) == EXIT_FAILURES_LISTED
    assert predict(settings(models, folder / "manifest.tsv", tmp_path / "fresh")) == EXIT_FAILURES_LISTED
    assert tables(run) == tables(tmp_path / "fresh")
    assert verify(run) == []


def test_a_restart_does_not_discard_what_it_is_to_read(
    models: TinyModels, objects: Path, failed: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(failed, tmp_path / "run"))
    found = run / "virus.fna.gz"
    table = manifest(tmp_path, (str(objects / "a.fa"), str(found)))
    before = found.read_bytes()
    assert predict(settings(models, table, run, restart=True)) == UsageError.exit_code
    assert found.read_bytes() == before
    assert tables(run) == tables(failed)


def interrupted(*_: object, **__: object) -> None:
    raise Interrupted("stopped")


def test_objects_at_addresses_are_read_as_files_are(
    models: TinyModels, objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Control, "retries", Retries(sleep=lambda pause_s: None))
    content = gzip.compress((objects / "c.fa").read_bytes(), mtime=0)
    put("memory://manifest/c.fa.gz", content)
    put("memory://manifest/cut.fa.gz", content[:-20])
    rows = [
        f"memory://manifest/c.fa.gz\t{len(content)}",
        "memory://manifest/none.fa\t7",
        f"{objects / 'a.fa'}\t",
        "memory://manifest/cut.fa.gz\t",
    ]
    table = tmp_path / "manifest.tsv"
    table.write_text("\n".join(["path\tsize", *rows]))
    again = settings(models, table, tmp_path / "run")
    assert predict(again) == EXIT_FAILURES_LISTED
    lines = [line.split("\t") for line in (tmp_path / "run" / "summary.tsv").read_text().splitlines()[1:]]
    assert [(line[0], line[-2]) for line in lines] == [
        ("memory://manifest/c.fa.gz", "done"),
        ("memory://manifest/none.fa", "failed"),
        (str(objects / "a.fa"), "done"),
        ("memory://manifest/cut.fa.gz", "failed"),
    ]
    assert "truncated" in lines[3][-1]
    local = settings(models, manifest(objects, ("c.fa", "a.fa"), "ca.tsv"), tmp_path / "local")
    assert predict(local) == 0
    assert (tmp_path / "run" / "chunks.tsv").read_bytes() == (tmp_path / "local" / "chunks.tsv").read_bytes()
    assert (tmp_path / "run" / "virus.fna.gz").read_bytes() == (tmp_path / "local" / "virus.fna.gz").read_bytes()
    put("memory://manifest/cut.fa.gz", content)
    assert predict(again) == EXIT_FAILURES_LISTED  # the one that has failed is not looked at
    assert predict(replace(again, retry_failed=True)) == EXIT_FAILURES_LISTED
    after = (tmp_path / "run" / "summary.tsv").read_text().splitlines()
    assert [line.split("\t")[-2] for line in after[1:]] == ["done", "failed", "done", "done"]
    assert predict(replace(again, output=tmp_path / "other", offline=True)) == UsageError.exit_code
