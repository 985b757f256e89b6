"""Addresses of objects in the network: which texts are one, and how they are shown without what must stay secret.

Enters: a text as the user gave it. Leaves: whether it is an address, and the same text without the passwords and
signatures of every address in it, for messages, logs and run.json. A name without its signature is stable: an address
that is signed anew names the same object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vpdist.errors import UsageError

SCHEMES = ("s3", "gs", "https", "http", "file", "memory")
LOCAL = ("file", "memory")
"""Schemes of what is on this machine, or in a folder that it shares."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_IN_TEXT = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*://)([^\s"'<>]+)""")
_WHOLE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(.*)", re.DOTALL)
"""An address that is the whole text may hold what ends one inside a text: spaces and quotation marks."""
_SECRET = re.compile(
    r"(?i)x-(amz|goog|oss|ms)-|auth|expires|googleaccessid|policy|session|sig|"
    r".*(credential|jwt|key|passw|pwd|secret|signature|token)|"
    r"(sdd|se|ske|skoid|sks|skt|sktid|skv|sip|sp|spr|sr|srt|ss|st|sv)$"
)
"""Names of a query's fields that sign it, or may hold a secret: those of S3, Google, Azure (the short ones), others,
such as access_token and api_key."""


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """The address of an object. As a text it has no secrets."""

    whole: str
    """As the user gave it, to make requests with; may hold a password or a signature."""

    @property
    def scheme(self) -> str:
        return self.whole.partition("://")[0].lower()

    def __str__(self) -> str:
        found = _WHOLE.fullmatch(self.whole)
        return _shown(found) if found is not None else self.whole

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"


InputPath = Path | Url


def is_url(name: str) -> bool:
    """Whether an input's name is an address: a file of such a name can be given as ./NAME."""
    return _ADDRESS.match(name) is not None


def needs_network(name: str) -> bool:
    """Whether an input's name is an address in the network."""
    return is_url(name) and Url(name).scheme not in LOCAL


def input_path(name: str) -> InputPath:
    """What to open for an input of this name."""
    return Url(name) if is_url(name) else Path(name)


def check_scheme(name: str) -> None:
    """Raises UsageError for an address that vpdist cannot read."""
    if is_url(name) and Url(name).scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES[:-1])
        raise UsageError(f"{shown(name)}: vpdist knows {known} only")


def check_publish(address: str, *, offline: bool) -> None:
    """Raises UsageError for an address to which nothing can be published."""
    if not is_url(address):
        raise UsageError(f"--publish {shown(address)}: is no address; s3://BUCKET/FOLDER is one")
    check_scheme(address)
    if Url(address).scheme in ("http", "https"):
        raise UsageError(f"--publish {shown(address)}: nothing can be written over HTTP; use s3:// or gs://")
    if offline and needs_network(address):
        raise UsageError(f"--publish {shown(address)}: --offline opens no connection")


def shown(name: str) -> str:
    """An input's name, or an argument of a command, without secrets."""
    return str(Url(name)) if is_url(name) else without_secrets(name)


def without_secrets(text: str) -> str:
    """`text`, in which no address has a user's name or a password, nor a query's fields that sign it."""
    return _IN_TEXT.sub(_shown, text) if "://" in text else text


def _shown(found: re.Match[str]) -> str:
    scheme, rest = found[1], found[2]
    authority, slash, after = rest.partition("/")
    if "@" in rest and "@" not in authority and re.fullmatch(r"[^/?#@]*:[^@]*", rest[: rest.index("@")]):
        authority, slash, after = rest, "", ""  # a password may hold a slash
    host, mark, query_of_host = authority.rpartition("@")[2].partition("?")
    path, question, query = (host + mark + query_of_host + slash + after).partition("?")
    if not question or scheme.lower() not in ("http://", "https://"):
        return scheme + path + question + query
    query, hash_mark, fragment = query.partition("#")
    kept = [field for field in query.split("&") if not _SECRET.match(field.partition("=")[0])]
    return scheme + path + ("?" + "&".join(kept) if kept else "") + hash_mark + fragment
