"""Objects at an address are read whole and of one version, whatever the network does, or refused."""

import gzip
import os
import random
import threading
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import fsspec
import pytest

from scripts.faults import object_server as server
from scripts.faults.object_server import ObjectServer, open_object
from tests.object_stores import SECRET, SOON, moto_endpoint, object_server, objects, put, s3  # noqa: F401 - fixtures
from vpdist.errors import InputError, Interrupted, UsageError
from vpdist.sequences import object_transports, remote_objects
from vpdist.sequences.input_files import call_while_waiting
from vpdist.sequences.records import read_as_written, read_records
from vpdist.sequences.remote_objects import object_identity, object_state
from vpdist.storage import object_stores
from vpdist.storage.published import PublishedRun
from vpdist.urls import Url

CONTENT = random.Random(7).randbytes(1_000_000)
PATH = "/bucket/x.fa"


@pytest.fixture(params=["http", "s3"])
def url(request: pytest.FixtureRequest, objects: ObjectServer) -> str:  # noqa: F811
    objects.objects.content[PATH] = CONTENT
    return f"{objects.endpoint}{PATH}" if request.param == "http" else f"s3:/{PATH}"


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [server.refuses(503)],
        [server.refuses(500), server.refuses(429), server.refuses(503)],
        [server.cuts(1000)],
        [server.then(lambda answer: False, server.cuts(100)), server.cuts(0), server.closes()],
        [server.shortens(5000)],
        [lambda answer: False, server.cuts(400_000), server.cuts(300_000), server.refuses(503)],
    ],
    ids=["none", "503", "500, 429, 503", "cut", "cut and closed", "short", "cut far on"],
)
def test_what_breaks_is_resumed_where_it_broke(url: str, objects: ObjectServer, faults: list[server.Fault]) -> None:  # noqa: F811
    objects.objects.faults = list(faults)
    with open_object(url, SOON) as file:
        assert file.read() == CONTENT
    assert objects.objects.faults == []


def test_a_host_that_falls_silent_is_asked_again(url: str, objects: ObjectServer) -> None:  # noqa: F811
    objects.objects.faults = [server.falls_silent(70_000)]
    with open_object(url, replace(SOON, tries=100, silence_s=0.5)) as file:
        assert file.read() == CONTENT
    assert objects.objects.faults == []


def test_only_the_bytes_that_are_missing_are_asked_for_again(url: str, objects: ObjectServer) -> None:  # noqa: F811
    content = objects.objects.content[PATH] = 3 * CONTENT
    objects.objects.faults = [lambda answer: False, server.cuts(2_500_000)]
    with open_object(url, SOON) as file:
        assert file.read() == content
    first, rest, again = [line for line in objects.objects.asked if line.startswith("GET") and "=0-0" not in line]
    assert (first, rest) == ("GET bytes=0-131071", "GET bytes=131072-2999999")
    start, _, end = again.removeprefix("GET bytes=").partition("-")
    in_library = 0 if url.startswith("http") else 1 << 20  # aiohttp forgets what it has not handed over
    assert 2_631_072 - in_library <= int(start) <= 2_631_072
    assert end == "2999999"


def test_a_host_that_brings_something_each_time_is_not_given_up(objects: ObjectServer) -> None:  # noqa: F811
    objects.objects.content[PATH] = CONTENT
    objects.objects.faults = [server.cuts(10)] * (2 * SOON.tries)
    with open_object(f"{objects.endpoint}{PATH}", SOON) as file:
        assert file.read() == CONTENT


def test_a_store_that_has_sent_something_may_be_away_for_longer(url: str, objects: ObjectServer) -> None:  # noqa: F811
    away = [server.refuses(503)] * (object_stores.PATIENT_TRIES - 2)  # the broken one counts
    objects.objects.faults = [lambda answer: False, server.cuts(700_000), *away]
    with open_object(url, SOON) as file:
        assert file.read() == CONTENT
    objects.objects.faults = [lambda answer: False, server.cuts(700_000), *away, server.refuses(503)]
    with open_object(url, SOON) as file, pytest.raises(InputError, match=r"cannot be read on: .*\(asked 12 times"):
        file.read()


def test_pauses_double_and_a_host_is_given_up(url: str, objects: ObjectServer) -> None:  # noqa: F811
    pauses: list[float] = []
    retries = object_stores.Retries(tries=5, first_pause_s=1.0, longest_pause_s=3.0, sleep=pauses.append)
    objects.objects.faults = [server.refuses(503)] * 5
    with open_object(url, retries) as file, pytest.raises(InputError, match=r"byte 1: cannot be read on: .*\(asked 5"):
        file.read()
    assert pauses == [1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("where", ["between two requests", "in the middle of a body"])
def test_an_object_that_changes_is_refused(url: str, objects: ObjectServer, where: str) -> None:  # noqa: F811
    change = server.changes(CONTENT[::-1])
    before = f'"{objects.objects.etag(PATH)}"'.strip('"')
    middle = [server.then(server.changes(CONTENT), server.cuts(500)), change]
    objects.objects.faults = [lambda answer: False, change] if where == "between two requests" else middle
    with open_object(url, SOON) as file, pytest.raises(InputError, match="has changed while it was read") as raised:
        file.read()
    after = objects.objects.etag(PATH)
    assert raised.value.exit_code == 3
    for told in (PATH, before, after.strip('"')):
        assert told in str(raised.value)


def test_an_object_that_is_gone_or_forbidden_is_told(url: str, objects: ObjectServer) -> None:  # noqa: F811
    with pytest.raises(InputError, match="there is no such object"):
        open_object(url.replace("x.fa", "y.fa"), SOON)
    objects.objects.faults = [server.refuses(403)]
    with open_object(url, SOON) as file, pytest.raises(InputError, match="cannot be read on"):
        file.read()
    objects.objects.content.clear()
    with pytest.raises(InputError, match="there is no such object"):
        object_identity(url, SOON)


def test_identity_is_size_version_and_samples(url: str, objects: ObjectServer) -> None:  # noqa: F811
    first = object_identity(url, SOON)
    assert (first.size, first.version) == (len(CONTENT), objects.objects.etag(PATH))
    assert object_state(url, SOON) == first.state
    assert object_identity(url, SOON) == first
    objects.objects.content[PATH] = CONTENT[:-1] + b"~"
    other = object_identity(url, SOON)
    assert (other.size, other.samples == first.samples, other.version == first.version) == (first.size, False, False)
    assert len([line for line in objects.objects.asked if line.startswith("GET") and "=0-0" not in line]) == 9


@pytest.mark.parametrize("size", [0, 1, 65_536, 131_072, 131_073])
def test_seeking_and_every_size(url: str, objects: ObjectServer, size: int) -> None:  # noqa: F811
    content = objects.objects.content[PATH] = CONTENT[:size]
    assert object_identity(url, SOON).size == size
    with open_object(url, SOON) as file:
        assert file.seekable()
        assert file.peek(6)[:6] == content[:6]
        assert file.seek(0, os.SEEK_END) == size
        assert file.read() == b""
        file.seek(max(0, size - 100))
        assert file.read() == content[-100:] if size else True
        file.seek(0)
        assert (file.read(10), file.tell(), file.read(), file.tell()) == (
            content[:10],
            min(10, size),
            content[10:],
            size,
        )


def test_a_host_without_ranges_is_refused(url: str, objects: ObjectServer) -> None:  # noqa: F811
    objects.objects.faults = [lambda answer: False, server.answers_whole()]
    with open_object(url, SOON) as file, pytest.raises(InputError, match=r"range of bytes|another range"):
        file.read()


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_host_that_compresses_ranges_itself_is_refused(objects: ObjectServer, by_itself: bool) -> None:  # noqa: F811
    content = objects.objects.content[PATH] = gzip.compress(CONTENT)

    def compressed(answer: server.Answers) -> bool:
        status, start, end = answer.selected()
        body = gzip.compress(content[start:end]) if by_itself else content[start:end]
        answer.begin(status, answer.range_headers(status, start, end) | {"Content-Encoding": "gzip"}, len(body))
        answer.wfile.write(body)
        return True

    objects.objects.faults = [compressed] * 2
    with open_object(f"{objects.endpoint}{PATH}", SOON) as file:
        if by_itself:
            with pytest.raises(InputError, match="the host compresses what it sends"):
                file.read()
        else:
            assert file.read() == content


@pytest.mark.parametrize("schemes", [("https", "http"), ("https", "http", "https")])
def test_a_redirect_from_https_to_http_is_refused(schemes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    range_of_all = {"Content-Range": "bytes 0-0/1"}
    *before, last = (
        SimpleNamespace(url=SimpleNamespace(scheme=scheme), status_code=206, headers=range_of_all) for scheme in schemes
    )
    last.history = before
    session = SimpleNamespace(stream=lambda *request, **options: nullcontext(last))
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: session)
    with pytest.raises(InputError, match="redirects from https to http"):
        object_state("https://host/x.fa", SOON)
    assert object_state("http://host/x.fa", SOON).size == 1


def test_whoever_waits_can_end_while_the_host_is_silent(url: str, objects: ObjectServer) -> None:  # noqa: F811
    objects.objects.faults = [server.falls_silent(0)]
    patient = object_stores.Retries(silence_s=600.0)

    def end() -> None:
        raise Interrupted("stopped")

    with open_object(url, patient) as file:
        file.raw.waiting = end  # type: ignore[attr-defined]
        with pytest.raises(Interrupted):
            file.read(1)


def test_whoever_waits_can_end_while_no_request_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(remote_objects, "transport_of", lambda url, retries: answered.wait(600.0))
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "ls", lambda *path, detail: answered.wait(600.0))

    known = fsspec.filesystem
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme: answered.wait(600) if scheme == "file" else known(scheme))

    def end() -> None:
        raise Interrupted("stopped")

    url, retries, opened = Url("http://host/x.fa"), replace(SOON, waiting=end), partial(call_while_waiting, waiting=end)
    for ask in (
        lambda: object_state(url, retries),
        lambda: object_identity(url, retries),
        lambda: open_object(url, retries),
        lambda: list(read_records([url], opened=opened)),
        lambda: list(read_as_written(url, opened)),
        lambda: PublishedRun("memory://runs/x", retries).units(),
        lambda: PublishedRun("file:///runs/x", retries),
    ):
        with pytest.raises(Interrupted):
            ask()
    answered.set()


def test_reading_ahead_is_bounded(url: str, objects: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    taken = 0
    reader = remote_objects.ObjectReader(url, SOON)

    def pieces(start: int, end: int, state: object):
        nonlocal taken
        for position in range(start, end, 1000):
            taken += 1
            yield CONTENT[position : min(end, position + 1000)]

    monkeypatch.setattr(reader._source, "_transport", type("Fast", (), {"pieces": staticmethod(pieces)})())
    assert len(reader.read(10)) == 10
    for _ in range(2):  # the thread fills what it may, then waits
        reader._stop.wait(2 * remote_objects.POLL_S)  # type: ignore[union-attr]
    assert taken <= remote_objects.READ_AHEAD_PIECES + 2
    reader.close()


@pytest.mark.parametrize("scheme", ["memory", "file", "s3"])
def test_real_stores_are_read(scheme: str, s3: str, tmp_path: object) -> None:  # noqa: F811
    url = {"memory": "memory://a/x.fa", "file": f"file://{tmp_path}/x.fa", "s3": "s3://bucket/a/x y#z?.fa"}[scheme]
    put(url, CONTENT)
    identity = object_identity(url, SOON)
    assert identity.size == len(CONTENT)
    assert identity.version
    with open_object(url, SOON) as file:
        assert file.read() == CONTENT
    with pytest.raises(InputError, match="there is no such object"):
        object_identity(url + "y", SOON)


@pytest.mark.parametrize("scheme", ["memory", "file", "s3"])
def test_real_stores_refuse_what_changes(scheme: str, s3: str, tmp_path: object) -> None:  # noqa: F811
    url = {"memory": "memory://a/x.fa", "file": f"file://{tmp_path}/x.fa", "s3": "s3://bucket/x.fa"}[scheme]
    put(url, CONTENT)
    with open_object(url, SOON) as file:
        assert file.read(10) == CONTENT[:10]
        put(url, CONTENT[::-1] + b"!")
        with pytest.raises(InputError, match="has changed while it was read"):
            file.read()


def test_a_missing_library_and_an_invalid_address_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(scheme: str) -> None:
        raise ImportError(f"Please install {scheme}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    for scheme, extra in (("s3", "s3"), ("gs", "gcs")):
        with pytest.raises(UsageError, match=rf"{scheme}://bucket/x.fa: .* pip install 'vpdist\[{extra}\]'"):
            open_object(f"{scheme}://bucket/x.fa", SOON)
    long_label = f"http://{70 * 'a'}.example/x"
    for url in ("http://", "https://[::1/x", "http://host:port/x", "http://host/\x7f", "http://ä..b/x", long_label):
        with pytest.raises(InputError, match="not a valid address"):
            open_object(url, SOON)


def test_secrets_are_in_no_error(objects: ObjectServer) -> None:  # noqa: F811
    host = objects.endpoint.removeprefix("http://")
    with pytest.raises(InputError, match="none: cannot be read: there is no such object") as raised:
        open_object(f"http://me:{SECRET}@{host}/none?X-Amz-Signature={SECRET}", SOON)
    assert SECRET not in repr(raised.value)
    with pytest.raises(UsageError, match="s3://bucket/none: has a user or a password") as refused:
        open_object(f"s3://me:{SECRET}@bucket/none", SOON)
    assert SECRET not in repr(refused.value)
    with pytest.raises(InputError, match="s3://b_~/none: cannot be read: Parameter validation failed"):
        open_object("s3://b_~/none", SOON)


def test_the_first_version_field_is_one_that_changes_with_the_content() -> None:
    assert object_transports.VERSION_FIELDS[:3] == ("ETag", "etag", "generation")
