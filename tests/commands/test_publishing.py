"""`--publish`: finished parts go to a store, and an empty run folder goes on from them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from tests.object_stores import moto_endpoint, s3  # noqa: F401 - fixtures
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict
from vpdist.commands.publishing import Publishing
from vpdist.config import Settings
from vpdist.embedding import unit_pipeline
from vpdist.errors import Interrupted, StorageError, UsageError
from vpdist.session.coordination import Control
from vpdist.storage import publisher
from vpdist.storage.object_stores import PATIENT_TRIES, RETRIES, Retries
from vpdist.storage.published import Marker, PublishedRun, StoreAway
from vpdist.storage.publisher import Publisher
from vpdist.storage.run_folder import TABLES

SOON = Retries(tries=3, first_pause_s=0.0, longest_pause_s=0.0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Control, "retries", SOON)
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def settings(models: TinyModels, tmp_path: Path) -> Settings:
    return models.settings(write_contigs(tmp_path / "x.fa", n=12, seed=1), tmp_path / "RUN", token_budget=256)


@pytest.fixture
def undisturbed(settings: Settings) -> list[bytes]:
    reference = replace(settings, output=settings.output.with_name("undisturbed"))
    assert predict(reference) == 0
    return tables(reference)


def tables(settings: Settings) -> list[bytes]:
    return [(settings.output / name).read_bytes() for name in TABLES]


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The units that are computed from now on."""
    units: list[int] = []
    run = unit_pipeline.Pipeline.run

    def noted(self: unit_pipeline.Pipeline, unit: int) -> None:
        units.append(unit)
        run(self, unit)

    monkeypatch.setattr(unit_pipeline.Pipeline, "run", noted)
    return units


def test_a_new_machine_goes_on_from_what_is_published(
    settings: Settings,
    undisturbed: list[bytes],
    s3: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = "s3://bucket/a"
    first = replace(settings, publish=address)
    assert predict(first) == 0
    published = PublishedRun(address, SOON)
    n_units = len(list((first.output / "parts").iterdir()))
    assert n_units > 3
    assert published.units() == set(range(n_units))
    assert tables(first) == undisturbed
    store, folder = fsspec.core.url_to_fs(address)
    store.rm(f"{folder}/parts/unit-000000.h5.done")  # was killed before the marker
    store.pipe_file(f"{folder}/parts/unit-000001.h5", b"damaged")
    tries = 0
    cat_file = type(store)._cat_file

    async def failing(self: object, path: str, **named: object) -> bytes:
        nonlocal tries
        tries += path.endswith("unit-000002.h5")
        if path.endswith("unit-000002.h5") and tries < PATIENT_TRIES:
            raise TimeoutError("too slow")
        return bytes(await cat_file(self, path, **named))

    monkeypatch.setattr(type(store), "_cat_file", failing)
    units = computed(monkeypatch)
    second = replace(first, output=settings.output.with_name("new"))
    assert predict(second) == 0
    assert sorted(units) == [0, 1]
    assert tables(second) == undisturbed
    plan = json.loads(store.cat_file(f"{folder}/run.json"))["plan"]
    assert published.part(1, plan) == (first.output / "parts" / "unit-000001.h5").read_bytes()
    assert published.part(1, "other") is None


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_parts_without_a_marker_or_with_another_digest_are_none(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = PublishedRun({"memory": "memory://runs/f", "file": f"file://{tmp_path}/a b/c"}[scheme], SOON)
    assert published.units() == set()
    assert published.record() is None
    published.write_record({"plan": "p"})
    for unit in range(3):
        published.add(unit, "p", b"part %d" % unit)
    assert published.record() == {"plan": "p"}
    monkeypatch.setattr("vpdist.storage.published.JSON_LIMIT", 5)  # of markers; a record names all inputs
    assert published.record() == {"plan": "p"}
    monkeypatch.undo()
    assert published.units() == {0, 1, 2}
    assert published.part(2, "p") == b"part 2"
    assert published.part(2, "other") is None
    assert published.part(3, "p") is None
    store, folder = fsspec.core.url_to_fs(str(published.url))
    store.pipe_file(f"{folder}/parts/unit-000000.h5", b"part 0 and more")
    store.rm(f"{folder}/parts/unit-000001.h5.done")
    assert published.part(0, "p") is None
    assert published.units() == {0, 2}


def test_the_configuration_of_the_first_machine_is_kept_and_another_run_is_refused(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    first = replace(settings, publish="memory://runs/b", threads=1)
    assert predict(first) == 0
    other = replace(first, output=settings.output.with_name("other"), min_length=100)
    assert predict(other) == 2
    assert "--min-length was 0, is now 100" in capfd.readouterr().err
    published = PublishedRun("memory://runs/b", SOON)
    record = published.record()
    assert record is not None
    published.write_record(record | {"decisions": record["decisions"] | {"min_length": 100}})
    assert predict(first) == 2
    told = capfd.readouterr().err
    assert "memory://runs/b belongs to another configuration: --min-length was 100" in told
    assert "use another address; --restart does not discard what is published" in told
    published.write_record(record | {"plan": "other"})
    assert predict(first) == 2
    assert "--publish memory://runs/b: holds the parts of another run" in capfd.readouterr().err


def test_what_cannot_be_published_is_listed_and_published_by_the_next_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    add, told = PublishedRun.add, []

    def refusing(self: PublishedRun, unit: int, plan: str, content: bytes) -> None:
        if unit == 2:
            told.append(unit)
            raise StorageError(f"{self.url}/parts/unit-000002.h5: the host answers 503")
        add(self, unit, plan, content)

    monkeypatch.setattr(PublishedRun, "add", refusing)
    first = replace(settings, publish="memory://runs/c")
    assert predict(first) == 5
    before = tables(first)
    assert len(told) == 2  # when it was written, and at the end
    shown = capfd.readouterr()
    assert "1 part could not be published" in shown.out + shown.err
    assert 2 not in PublishedRun("memory://runs/c", SOON).units()
    monkeypatch.setattr(PublishedRun, "add", add)
    assert predict(first) == 0
    assert tables(first) == before
    assert 2 in PublishedRun("memory://runs/c", SOON).units()


def test_a_command_that_must_end_does_not_wait_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    began, release = threading.Event(), threading.Event()

    def hanging(self: PublishedRun, unit: int, plan: str, content: bytes) -> None:
        began.set()
        assert release.wait(600)

    monkeypatch.setattr(PublishedRun, "add", hanging)
    monkeypatch.setattr(publisher, "LAST_UPLOAD_S", 0.05)

    def interrupted() -> None:
        with Publisher("memory://runs/d", "plan", lambda unit: b"part", SOON) as publishing:
            publishing.add(1)
            publishing.add(2)  # nobody waits here either
            assert began.wait(600)
            assert not publishing.idle
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        interrupted()
    release.set()


def failing_uploads(monkeypatch: pytest.MonkeyPatch, error: Exception, times: float = math.inf) -> list[str]:
    """The objects whose upload fails, so many times, in their order."""
    failed: list[str] = []
    memory = type(fsspec.filesystem("memory"))
    pipe_file = memory.pipe_file

    def failing(self: object, path: str, content: bytes) -> None:
        if len(failed) < times:
            failed.append(path)
            raise error
        pipe_file(self, path, content)

    monkeypatch.setattr(memory, "pipe_file", failing)
    return failed


def waited_for(publishing: Publisher) -> None:
    wait_until(lambda: publishing.idle)


def wait_until(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 600
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_store_that_was_away_gets_everything_once_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = failing_uploads(monkeypatch, TimeoutError("too slow"), times=5 * PATIENT_TRIES)
    with Publisher("memory://runs/e", "plan", lambda unit: b"part %d" % unit, SOON) as publishing:
        for unit in range(3):
            publishing.add(unit)
        waited_for(publishing)
        assert (publishing.failed, publishing.away) == ({}, "")
    assert len({Path(path).name for path in failed}) == 3  # one did not hold up the others
    published = PublishedRun("memory://runs/e", SOON)
    assert [published.part(unit, "plan") for unit in sorted(published.units())] == [b"part 0", b"part 1", b"part 2"]


def test_a_store_that_is_gone_is_given_up_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = failing_uploads(monkeypatch, TimeoutError("too slow"))
    with Publisher("memory://runs/f", "plan", lambda unit: b"part", SOON) as publishing:
        publishing.last_tries()
        for unit in range(3):
            publishing.add(unit)
        waited_for(publishing)
        assert len(failed) == PATIENT_TRIES
        assert sorted(publishing.failed) == [0, 1, 2]
        assert publishing.failed[0].endswith("too slow")
        publishing.add(0)
        publishing.add(1)
        waited_for(publishing)
        assert 1 <= len(failed) - PATIENT_TRIES <= 2
    pauses = list(RETRIES.patient().pauses())
    assert sum(pauses) > 210  # as the documents say


def test_a_run_waits_at_its_end_for_a_store_that_is_away_and_publishes_everything(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    add, last_tries = PublishedRun.add, Publisher.last_tries
    back = False

    def away(self: PublishedRun, unit: int, plan: str, content: bytes) -> None:
        if not back:
            raise StoreAway("the store is away")
        add(self, unit, plan, content)

    def comes_back(publishing: Publisher) -> str:
        nonlocal back
        until = time.monotonic() + 600
        while not publishing.away:
            assert time.monotonic() < until
            time.sleep(0.01)
        told = last_tries(publishing)
        back = True
        return told

    monkeypatch.setattr(PublishedRun, "add", away)
    monkeypatch.setattr(Publisher, "last_tries", comes_back)
    assert predict(replace(settings, publish="memory://runs/j", progress="log")) == 0
    shown = capfd.readouterr()
    assert "waiting for the store, to publish what is left: the store is away" in shown.out + shown.err
    n_units = len(list((settings.output / "parts").iterdir()))
    assert PublishedRun("memory://runs/j", SOON).units() == set(range(n_units))


@pytest.mark.parametrize(("refused", "counted"), [(False, 0), (True, 1)])
def test_a_part_that_another_rank_tries_again_counts_once_and_only_where_it_fails(
    refused: bool, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_failed = 0

    def add(key: str, n: int) -> int:
        nonlocal n_failed
        n_failed += n
        return n_failed

    memory = type(fsspec.filesystem("memory"))
    pipe_file = memory.pipe_file
    failing_uploads(monkeypatch, PermissionError("Forbidden"))
    work = SimpleNamespace(plan=SimpleNamespace(n_units=1))
    with ExitStack() as stack:
        ranks = []
        for rank in (1, 0):
            control = SimpleNamespace(
                runtime=SimpleNamespace(rank=rank, world_size=2, keys=SimpleNamespace(add=add)),
                broadcast_from_rank_0=lambda key, make: make(),
                wait_until=wait_until,
                barrier=lambda name: None,
            )
            mine = stack.enter_context(Publisher("memory://runs/k", "plan", lambda unit: b"part", SOON))
            ranks.append((Publishing("memory://runs/k", SimpleNamespace(control=control)), mine))
        (_, mine), _ = ranks
        mine.add(0)  # rank 1 has computed it
        waited_for(mine)
        assert list(mine.failed) == [0]
        if not refused:
            monkeypatch.setattr(memory, "pipe_file", pipe_file)
        for publishing, mine in ranks:
            publishing._finish(mine, work)
    assert n_failed == counted
    assert publishing.failed == counted
    assert PublishedRun("memory://runs/k", SOON).units() == (set() if refused else {0})


def test_what_a_store_refuses_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = failing_uploads(monkeypatch, PermissionError("Forbidden"))
    with Publisher("memory://runs/g", "plan", lambda unit: b"part", SOON) as publishing:
        publishing.add(0)
        publishing.add(1)
        waited_for(publishing)
    assert len(failed) == 2
    assert publishing.failed[1] == "memory://runs/g/parts/unit-000001.h5: access is refused: Forbidden"


def test_a_command_that_must_end_does_not_wait_for_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = failing_uploads(monkeypatch, TimeoutError("too slow"))
    patient = Retries(first_pause_s=86_400.0, longest_pause_s=86_400.0)
    monkeypatch.setattr(publisher, "LAST_UPLOAD_S", 600.0)
    with Publisher("memory://runs/h", "plan", lambda unit: b"part", patient) as publishing:
        publishing.add(0)
        while not failed:
            time.sleep(0.01)
    assert not publishing._thread.is_alive()
    assert not publishing.idle


def test_what_is_published_is_known_of_this_rank_where_the_store_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    with Publisher("memory://runs/i", "plan", lambda unit: b"part", SOON) as publishing:
        publishing.add(4)
        waited_for(publishing)

        def silent(self: object) -> set[int]:
            raise StorageError("memory://runs/i/parts: too slow")

        monkeypatch.setattr(PublishedRun, "units", silent)
        assert publishing.published() == {4}


def test_markers_and_addresses_are_checked(settings: Settings) -> None:
    marker = Marker.of("plan", b"part")
    assert Marker.from_json(marker.to_json()) == marker
    for text in (b"{}", b"[]", b"rubbish", b'{"plan": "a", "size": -1, "digest": ""}'):
        with pytest.raises(ValueError, match=r"."):
            Marker.from_json(text)
    for address, reason in (
        ("folder", "is no address"),
        ("ftp://host/x", "vpdist knows"),
        ("https://me:5ec4e7@host/x", "https://host/x: nothing can be written over HTTP"),
    ):
        with pytest.raises(UsageError, match=reason) as raised:
            replace(settings, publish=address)
        assert "5ec4e7" not in str(raised.value)
    with pytest.raises(UsageError, match="s3://bucket/x: --offline opens no connection"):
        replace(settings, publish="s3://bucket/x", offline=True)
