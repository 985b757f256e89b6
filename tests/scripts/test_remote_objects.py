"""The table of docs/remote-input.md is what the script prints."""

import re
from pathlib import Path

import pytest

from scripts.faults import remote_objects
from scripts.faults.object_server import open_object
from tests.object_stores import use_endpoint

DOCUMENT = Path(__file__).parents[2] / "docs" / "remote-input.md"
Found = list[tuple[str, remote_objects.Seen, remote_objects.Seen]]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    pytest.importorskip("s3fs")
    use_endpoint(monkeypatch, "")  # what the script sets is undone
    return remote_objects.rows()


def test_every_fault_ends_as_the_page_says(found: Found) -> None:
    page = DOCUMENT.read_text()
    for name, http, s3 in found:
        assert http.right, (name, http.text)
        assert s3.right, (name, s3.text)
        row = re.search(rf"^\| {re.escape(name)} \| (.*) \| (.*) \|$", page, re.MULTILINE)
        assert row is not None, name
        for told, came in zip(row.groups(), (http, s3), strict=True):
            assert came.text.startswith(told.partition(",")[0]), (name, came.text)


def test_wrong_bytes_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_objects, "open_object", lambda url, retries: open_object("file:///proc/self/comm"))
    with remote_objects.ObjectServer() as store:
        assert not remote_objects.seen(store, "", []).right
