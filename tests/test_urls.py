"""Addresses are told from paths, and shown without passwords and signatures."""

from pathlib import Path

import pytest

from vpdist.errors import UsageError
from vpdist.urls import Url, check_scheme, input_path, is_url, shown, without_secrets

SIGNED = "https://b.s3.amazonaws.com/x.fa?id=5&X-Amz-Credential=AKIA%2F1&X-Amz-Signature=5ec4e7&X-Amz-Expires=60"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SIGNED, "https://b.s3.amazonaws.com/x.fa?id=5"),
        ("https://me:5ec4e7@host:81/x.fa", "https://host:81/x.fa"),
        ("https://me:5ec/4e7@host/x.fa", "https://host/x.fa"),
        ("https://me:5e@c4e7@host/x.fa", "https://host/x.fa"),
        ("s3://me:5ec4e7@bucket/x.fa?y#z", "s3://bucket/x.fa?y#z"),
        (
            "https://acc.blob.core.windows.net/c/x?sv=2024&sr=b&sig=5ec4e7&page=2",
            "https://acc.blob.core.windows.net/c/x?page=2",
        ),
        (
            "https://storage.googleapis.com/b/x?GoogleAccessId=5ec4e7&Signature=5ec4e7",
            "https://storage.googleapis.com/b/x",
        ),
        ("https://host/x.fa?token=5ec4e7#part", "https://host/x.fa#part"),
        ("https://zenodo.org/x.fa?id=1&access_token=5ec4e7", "https://zenodo.org/x.fa?id=1"),
        ("https://host/x.fa?api_key=5ec4e7&apikey=5ec4e7&client_secret=5ec4e7", "https://host/x.fa"),
        ("https://host/a@b/x.fa", "https://host/a@b/x.fa"),
        ("no address: a@b?sig=1", "no address: a@b?sig=1"),
    ],
)
def test_secrets_are_not_shown_and_the_rest_is(text: str, told: str) -> None:
    assert without_secrets(text) == told
    assert without_secrets(f"GET {text} failed, then '{text}'") == f"GET {told} failed, then '{told}'"
    assert "5ec4e7" not in repr(Url(text)) + str(Url(text))
    assert Url(text).whole == text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("https://me:a'5ec4e7@host/x.fa", "https://host/x.fa"),
        ("https://me:a <5ec4e7>@host/x.fa", "https://host/x.fa"),
        ("https://host/it's mine.fa?id=1&sig=5ec4e7", "https://host/it's mine.fa?id=1"),
        ("--input=https://me:5ec4e7@host/x.fa", "--input=https://host/x.fa"),
        ("s3://bucket/it's <mine>.fa?sig=1", "s3://bucket/it's <mine>.fa?sig=1"),
    ],
)
def test_an_address_may_hold_quotation_marks_and_spaces(name: str, told: str) -> None:
    assert shown(name) == told
    assert not is_url(name) or str(Url(name)) == told


def test_a_signature_does_not_change_a_name() -> None:
    assert str(Url(SIGNED)) == str(Url(SIGNED.replace("5ec4e7", "0ther")))


def test_addresses_are_told_from_paths() -> None:
    assert is_url("s3://bucket/x.fa")
    assert input_path("s3://bucket/x.fa") == Url("s3://bucket/x.fa")
    for name in ("x.fa", "./s3://x.fa", "-", "C:/x.fa", "a:b//c"):
        assert not is_url(name)
        assert input_path(name) == Path(name)


def test_only_known_schemes_are_read() -> None:
    with pytest.raises(UsageError, match="ftp://host/x: vpdist knows s3://, gs://, https://"):
        check_scheme("ftp://me:5ec4e7@host/x")
    for name in ("S3://bucket/x", "gs://b/x", "x.fa", "http://127.0.0.1:1/x"):
        check_scheme(name)
