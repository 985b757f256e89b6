"""Runs whose inputs are objects at an address."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.faults import object_server as server
from scripts.faults.object_server import ObjectServer
from tests.object_stores import SECRET, moto_endpoint, object_server, objects, put, s3  # noqa: F401 - fixtures
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands import early_checks
from vpdist.commands.classify import classify
from vpdist.commands.input_identity import file_identities, input_identity, refuse_changed_input
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.errors import InputError, UsageError
from vpdist.estimate.dry_run import forecast
from vpdist.session.coordination import Control
from vpdist.session.ending import describe
from vpdist.storage.object_stores import Retries
from vpdist.storage.run_folder import TABLES
from vpdist.train_settings import labelled_files
from vpdist.urls import Url

NAME = "/bucket/x.fa.gz"
COMPARED = "reading it to compare"


@pytest.fixture
def contigs(tmp_path: Path) -> bytes:
    return gzip.compress(write_contigs(tmp_path / "x.fa", n=3, seed=1).read_bytes(), mtime=0)


@pytest.fixture
def settings(models: TinyModels, tmp_path: Path) -> Settings:
    return models.settings(tmp_path / "x.fa", tmp_path / "RUN")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = Retries(silence_s=600.0, sleep=lambda pause_s: None)
    monkeypatch.setattr(Control, "retries", soon)


def log(settings: Settings) -> str:
    return (settings.output / "logs" / "rank00000.log").read_text()


def tables(settings: Settings) -> list[str]:
    source = settings.inputs[0]
    return [(settings.output / name).read_text().replace(source, "SOURCE") for name in TABLES]


def test_an_object_gives_the_tables_of_the_file_and_is_resumed(
    settings: Settings,
    contigs: bytes,
    s3: str,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
) -> None:
    local = replace(settings, output=settings.output.with_name("local"))
    assert predict(local) == 0
    put(f"s3:/{NAME}", contigs)
    remote = replace(settings, inputs=(f"s3:/{NAME}",))
    assert predict(remote) == 0
    assert tables(remote) == tables(local)
    with gzip.open(remote.output / "virus.fna.gz") as ours, gzip.open(local.output / "virus.fna.gz") as theirs:
        assert ours.read() == theirs.read()
    recorded = json.loads((remote.output / "run.json").read_text())
    assert recorded["input_paths"] == [f"s3:/{NAME}"]
    assert predict(remote) == 0
    assert COMPARED not in log(remote)
    put(f"s3:/{NAME}", gzip.compress(gzip.decompress(contigs).replace(b"A", b"C", 5), mtime=0))
    assert predict(remote) == 2
    assert f"input s3:/{NAME}, its " in capfd.readouterr().err


@pytest.mark.slow
def test_a_dry_run_reads_an_object(settings: Settings, contigs: bytes, s3: str) -> None:  # noqa: F811
    put(f"s3:/{NAME}", contigs)
    dry = replace(settings, inputs=(f"s3:/{NAME}",), dry_run=True)
    assert forecast(dry, 1, None).counts.sequences == gzip.decompress(contigs).count(b">")


def test_the_same_content_with_another_version_is_read_again_and_kept(settings: Settings, contigs: bytes) -> None:
    url = "memory://folder/x.fa.gz"
    put(url, contigs)
    remote = replace(settings, inputs=(url,))
    assert predict(remote) == 0
    before = tables(remote)
    put(url, contigs)
    assert predict(remote) == 0
    assert COMPARED in log(remote)
    assert tables(remote) == before


def test_an_object_that_changes_during_a_run_is_refused_with_both_versions(
    settings: Settings,
    contigs: bytes,
    objects: ObjectServer,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
) -> None:
    objects.objects.content[NAME] = contigs
    other = gzip.compress(b">a\nACGT\n", mtime=0)
    before = objects.objects.etag(NAME)
    # after the samples: the beginning, then what follows the last byte that bgzip looks at
    objects.objects.faults = [lambda answer: False, server.changes(other)]
    assert predict(replace(settings, inputs=(f"{objects.endpoint}{NAME}",))) == 3
    told = capfd.readouterr().err
    for part in ("has changed", before, objects.objects.etag(NAME), NAME):
        assert part in told


def test_no_secret_is_written_or_told(
    settings: Settings,
    contigs: bytes,
    objects: ObjectServer,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects.objects.content[NAME] = contigs
    signed = f"http://me:{SECRET}@{objects.endpoint.removeprefix('http://')}{NAME}?X-Amz-Signature={SECRET}"
    monkeypatch.setattr("sys.argv", ["vpdist", "predict", signed])
    objects.objects.faults = [server.refuses(503), server.cuts(10)]
    remote = replace(settings, inputs=(signed,))
    assert predict(remote) == 0
    assert predict(replace(remote, inputs=(signed.replace("Signature", "Security-Token"),))) == 0  # signed anew
    objects.objects.content.clear()
    assert predict(replace(remote, output=settings.output.with_name("absent"))) == 3
    console = capfd.readouterr()
    assert f"{objects.endpoint}{NAME}: cannot be read: there is no such object" in console.err
    files = [path for path in settings.output.parent.rglob("*") if path.is_file()]
    assert any(NAME.encode() in path.read_bytes() for path in files if path.name == "rank00000.log")
    assert SECRET not in console.err + console.out
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_an_object_that_changes_between_its_two_looks_is_refused(contigs: bytes) -> None:
    url = "memory://folder/between.fa.gz"
    put(url, contigs)
    names, paths = [url], [Url(url)]
    identity = input_identity(names, paths)
    refuse_changed_input(identity, file_identities(names, paths), paths)
    put(url, contigs)
    with pytest.raises(InputError, match="has changed while the run began"):
        refuse_changed_input(identity, file_identities(names, paths), paths)


def test_new_calls_without_a_network_read_no_object_again(
    settings: Settings,
    contigs: bytes,
    objects: ObjectServer,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
) -> None:
    objects.objects.content[NAME] = contigs
    remote = replace(settings, inputs=(f"{objects.endpoint}{NAME}",))
    assert predict(remote) == 0
    assert settings.classifier is not None
    objects.objects.asked.clear()
    for offline in (True, False):
        code = classify(
            remote.output,
            settings.classifier,
            consensus=None,
            legacy_output=False,
            min_score=0.001 if offline else 0.002,
            progress="none",
            offline=offline,
        )
        assert code == 0
        assert ("--offline reads no objects" in capfd.readouterr().err) == offline
        assert (objects.objects.asked == []) == offline


def test_a_bug_tells_no_secret() -> None:
    told = describe(ValueError(f"of a library: https://me:{SECRET}@host/x.fa?access_token={SECRET}"))
    assert told.endswith("ValueError: of a library: https://host/x.fa")


def test_what_cannot_be_read_is_told_before_anything_slow(
    settings: Settings,
    objects: ObjectServer,  # noqa: F811
) -> None:
    with pytest.raises(InputError, match=f"s3:/{NAME}: cannot be read: there is no such object"):
        early_checks.check_paths(replace(settings, inputs=(f"s3:/{NAME}",)))
    with pytest.raises(UsageError, match=f"s3:/{NAME}: --offline reads no objects"):
        replace(settings, inputs=(f"s3:/{NAME}",), offline=True)
    with pytest.raises(UsageError, match="is named twice"):
        replace(settings, inputs=(f"s3:/{NAME}",) * 2)
    with pytest.raises(UsageError, match="ftp://host/x: vpdist knows"):
        replace(settings, inputs=("ftp://host/x",))
    with pytest.raises(UsageError, match=f"s3:/{NAME}: labelled sequences are read several times"):
        labelled_files([f"s3:/{NAME}"], ["x.fa"])
